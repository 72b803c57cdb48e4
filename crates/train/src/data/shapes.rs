//! The forms that an example of a data file can have.

use super::conversation::Conversation;
use super::jsonl::{Content, Message};
use super::keys;
use super::messages::{kind, message, messages};
use super::template::Variables;
use serde_json::{Map, Value};

const SHAPES: &str = r#"{"text"}, {"prompt", "completion"}, {"messages": [{"role", "content"}, …]}, {"conversations": [{"from", "value"}, …]}, {"instruction", "input", "output"}, and for evaluation {"prompt", "choices", "answer"} or {"prompt", "answer"}"#;

/// What an object of a data file is read as.
#[derive(Debug)]
pub(super) struct Parsed {
    pub content: Content,
    /// Whether it is an answer to be learned, not one that is marked as bad.
    pub wanted: bool,
    /// Keys of [`keys::KEYS`] that do nothing here.
    pub unused: Vec<&'static str>,
}

/// The example that an object holds, or why it is none. A key with null is as absent: so tables write what a row lacks.
pub(super) fn parse_object(object: &Map<String, Value>) -> Result<Parsed, String> {
    let present = without_nulls(object);
    let (content, form) = parse_content(&present).map_err(|reason| with_nulls_named(reason, object, &present))?;
    let wanted = !(form.acts("label", &present, &content) && present["label"] == Value::Bool(false));
    let unused = keys::unused(&present, |key| form.acts(key, &present, &content));
    Ok(Parsed { content, wanted, unused })
}

/// The forms, by what further keys mean in them.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// Messages, or a prompt and its completion as messages.
    Chat,
    /// A prompt and its completion as texts.
    Completion,
    Instruction,
    Other,
}

impl Form {
    /// Whether a key of [`keys::KEYS`] acts.
    fn acts(self, key: &str, object: &Map<String, Value>, content: &Content) -> bool {
        match key {
            "tools" | "documents" | "chat_template_kwargs" => self == Self::Chat,
            // That of KTO, false for an answer that is marked as bad.
            "label" => matches!(self, Self::Chat | Self::Completion) && object.get(key).is_some_and(Value::is_boolean),
            "system" => match content {
                Content::Chat(conversation) => object.get(key).and_then(Value::as_str) == Some(conversation.messages[0].content.as_str()),
                _ => self == Self::Instruction,
            },
            _ => false,
        }
    }
}

fn parse_content(object: &Map<String, Value>) -> Result<(Content, Form), String> {
    let has = |key| object.contains_key(key);
    let plain = |content: Content| Ok((content, Form::Other));
    if has("messages") {
        Ok((conversation("messages", object)?, Form::Chat))
    } else if has("conversations") {
        Ok((conversation("conversations", object)?, Form::Chat))
    } else if has("prompt") && has("choices") {
        plain(choice(object)?)
    } else if has("prompt") && has("completion") {
        completion(object)
    } else if has("prompt") && has("answer") {
        plain(Content::Question { prompt: string(object, "prompt")?, answer: answer_text(object)? })
    } else if has("instruction") && has("output") {
        Ok((instruction(object)?, Form::Instruction))
    } else if has("text") {
        plain(Content::Text { text: string(object, "text")? })
    } else if has("chosen") && has("rejected") {
        Err("`chosen` and `rejected` are preferences, which are not learned here; to learn the chosen answers, write `chosen` as \
             `messages`, or as `completion` beside a `prompt`"
            .into())
    } else {
        Err(format!("no known kind of example: found {}; known are {SHAPES}", keys_of(object)))
    }
}

pub(super) fn without_nulls(object: &Map<String, Value>) -> Map<String, Value> {
    object.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Name the keys that hold null: they may be the ones that an error misses.
fn with_nulls_named(reason: String, object: &Map<String, Value>, present: &Map<String, Value>) -> String {
    let nulls: Vec<_> = object.keys().filter(|key| !present.contains_key(*key)).map(|key| format!("`{key}`")).collect();
    match nulls.is_empty() || !reason.starts_with("no known kind") {
        true => reason,
        false => format!("{reason} ({} with null)", nulls.join(", ")),
    }
}

/// The messages under `key`; a `system` beside them comes first where they have none.
fn conversation(key: &str, object: &Map<String, Value>) -> Result<Content, String> {
    let mut spoken = messages(key, &object[key])?;
    if let Some(system) = optional(object, "system")?
        && (key == "conversations" || spoken[0].role != "system")
    {
        spoken.insert(0, Message::new("system", system));
    }
    Ok(Content::Chat(Conversation { messages: spoken, variables: variables(object)? }))
}

/// What the chat template gets to see beside the messages, as transformers' `apply_chat_template` takes it.
fn variables(object: &Map<String, Value>) -> Result<Variables, String> {
    let mut variables = match parsed(object, "chat_template_kwargs")? {
        None => Variables::new(),
        Some(Value::Object(entries)) => entries,
        Some(other) => return Err(format!("`chat_template_kwargs` must be an object, found {}", kind(&other))),
    };
    if let Some(key) = ["messages", "add_generation_prompt"].iter().find(|key| variables.contains_key(**key)) {
        return Err(format!("`chat_template_kwargs` must not hold `{key}`, which the example itself decides"));
    }
    for key in ["tools", "documents"] {
        match parsed(object, key)? {
            None => {}
            Some(list @ Value::Array(_)) => {
                variables.insert(key.into(), list);
            }
            Some(other) => return Err(format!("`{key}` must be a list, found {}", kind(&other))),
        }
    }
    Ok(variables)
}

/// The value of a key, which tables often hold as a string of JSON; an empty list or string is none.
fn parsed(object: &Map<String, Value>, key: &str) -> Result<Option<Value>, String> {
    let value = match object.get(key) {
        Some(Value::String(json)) if !json.trim().is_empty() => {
            serde_json::from_str(json).map_err(|e| format!("`{key}` is a string that is not JSON: {e}"))?
        }
        Some(value) => value.clone(),
        None => return Ok(None),
    };
    Ok(Some(value).filter(|value| !keys::is_empty(value)).map(pruned))
}

/// Without nulls in objects: the columns that tables add to all entries of a list.
fn pruned(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(pruned).collect(),
        Value::Object(entries) => {
            entries.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key, pruned(value))).collect()
        }
        other => other,
    }
}

/// A prompt and its completion, each a text or messages. Messages of the prompt are not learned, whoever says them.
fn completion(object: &Map<String, Value>) -> Result<(Content, Form), String> {
    let side = |key, role: &str| match &object[key] {
        Value::String(text) => Ok(vec![Message::new(role, text)]),
        Value::Object(_) => message(&object[key]).map(|m| vec![m]).map_err(|reason| format!("`{key}`: {reason}")),
        list => messages(key, list),
    };
    if object["prompt"].is_string() && object["completion"].is_string() {
        let answer = if object.contains_key("answer") { Some(answer_text(object)?) } else { None };
        let content = Content::Completion { prompt: string(object, "prompt")?, completion: string(object, "completion")?, answer };
        return Ok((content, Form::Completion));
    }
    let asked = |key: &str| match &object[key] {
        Value::String(_) | Value::Array(_) | Value::Object(_) => Ok(()),
        other => Err(format!("`{key}` must be a string or a list of messages, found {}", kind(other))),
    };
    ["prompt", "completion"].into_iter().try_for_each(asked)?;
    let mut spoken = side("prompt", "user")?;
    spoken.iter_mut().for_each(|message| message.learned = false);
    spoken.extend(side("completion", "assistant")?);
    Ok((Content::Chat(Conversation { messages: spoken, variables: variables(object)? }), Form::Chat))
}

/// Alpaca's form: a task, possibly with a text that it is about, and its solution.
fn instruction(object: &Map<String, Value>) -> Result<Content, String> {
    Ok(Content::Instruction {
        instruction: string(object, "instruction")?,
        input: optional(object, "input")?,
        output: string(object, "output")?,
        system: optional(object, "system")?,
    })
}

fn choice(object: &Map<String, Value>) -> Result<Content, String> {
    let Value::Array(list) = &object["choices"] else {
        return Err(format!("`choices` must be a list of strings, found {}", kind(&object["choices"])));
    };
    let choices: Vec<String> = list
        .iter()
        .map(|c| c.as_str().map(String::from).ok_or(format!("`choices` must hold strings, found {}", kind(c))))
        .collect::<Result<_, _>>()?;
    if choices.is_empty() {
        return Err("`choices` is empty".into());
    }
    let answer = right_choice(object.get("answer").unwrap_or(&Value::Null), &choices)?;
    Ok(Content::Choice { prompt: string(object, "prompt")?, choices, answer })
}

fn right_choice(answer: &Value, choices: &[String]) -> Result<usize, String> {
    let found = match answer {
        Value::Number(n) => n.as_u64().and_then(|i| usize::try_from(i).ok()).filter(|&i| i < choices.len()),
        Value::String(text) => choices.iter().position(|c| c == text),
        other => {
            return Err(format!("`answer` must be the index of a choice or its text, found {}", kind(other)));
        }
    };
    found.ok_or_else(|| format!("`answer` {answer} is none of the {} choices (indices start at 0)", choices.len()))
}

fn answer_text(object: &Map<String, Value>) -> Result<String, String> {
    match &object["answer"] {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("`answer` must be a string or a number, found {}", kind(other))),
    }
}

pub(super) fn string(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{key}` must be a string, found {}", kind(other))),
        None => Err(format!("`{key}` is missing")),
    }
}

/// A string that may be absent; an empty one is.
fn optional(object: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => string(object, key).map(|text| Some(text).filter(|text| !text.is_empty())),
    }
}

fn keys_of(object: &Map<String, Value>) -> String {
    if object.is_empty() {
        return "no keys".into();
    }
    let keys: Vec<_> = object.keys().map(|k| format!("`{k}`")).collect();
    format!("the keys {}", keys.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unused(row: &str) -> Vec<&'static str> {
        parse_object(serde_json::from_str::<Value>(row).unwrap().as_object().unwrap()).unwrap().unused
    }

    #[test]
    fn keys_that_say_how_a_row_is_meant_act_or_are_named() {
        let cases: [(&str, &[&str]); 12] = [
            (r#"{"text": "a", "label": "pos", "id": 3}"#, &["label"]),
            (r#"{"text": "a", "text_pair": "b", "tools": [{}], "weight": 0.5}"#, &["tools", "text_pair", "weight"]),
            (r#"{"text": "a", "label": null, "images": [], "tools": [null], "system": ""}"#, &[]),
            (r#"{"prompt": "a", "completion": "b", "label": true, "system": "s"}"#, &["system"]),
            (r#"{"prompt": "a", "completion": "b", "label": 1, "train_on_inputs": false}"#, &["label", "train_on_inputs"]),
            (r#"{"prompt": [{"role": "user", "content": "a"}], "completion": "b", "label": true, "tools": [{}]}"#, &[]),
            (
                r#"{"messages": [{"role": "user", "content": "a"}], "tools": [{}], "documents": [{}], "chat_template_kwargs": {"a": 1}}"#,
                &[],
            ),
            (r#"{"messages": [{"role": "user", "content": "a"}], "images": ["a.png"], "label": false}"#, &["images"]),
            (r#"{"messages": [{"role": "user", "content": "a"}], "chosen": [1], "rejected": [2]}"#, &["chosen", "rejected"]),
            (r#"{"messages": [{"role": "user", "content": "a"}], "system": "s"}"#, &[]),
            (r#"{"messages": [{"role": "system", "content": "t"}, {"role": "user", "content": "a"}], "system": "s"}"#, &["system"]),
            (r#"{"instruction": "a", "output": "b", "system": "s", "history": [["a", "b"]]}"#, &["history"]),
        ];
        for (row, expected) in cases {
            assert_eq!(unused(row), expected, "{row}");
        }
    }

    #[test]
    fn an_answer_that_is_marked_as_bad_is_not_wanted() {
        let wanted = |row: &str| parse_object(serde_json::from_str::<Value>(row).unwrap().as_object().unwrap()).unwrap().wanted;
        assert!(!wanted(r#"{"prompt": "a", "completion": "b", "label": false}"#));
        assert!(!wanted(r#"{"messages": [{"role": "user", "content": "a"}], "label": false}"#));
        assert!(wanted(r#"{"prompt": "a", "completion": "b", "label": true}"#) && wanted(r#"{"text": "a", "label": false}"#));
    }
}
