//! The forms that an example of a data file can have.

use super::jsonl::{Content, Message};
use serde_json::{Map, Value};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
const SHAPES: &str = r#"{"text"}, {"prompt", "completion"}, {"messages": [{"role", "content"}, …]}, {"conversations": [{"from", "value"}, …]}, {"instruction", "input", "output"}, and for evaluation {"prompt", "choices", "answer"} or {"prompt", "answer"}"#;

/// The example that an object holds, or why it is none.
pub(super) fn parse_object(object: &Map<String, Value>) -> Result<Content, String> {
    let has = |key| object.contains_key(key);
    if has("messages") {
        Ok(Content::Chat { messages: messages("messages", &object["messages"])? })
    } else if has("conversations") {
        conversations(object)
    } else if has("prompt") && has("choices") {
        choice(object)
    } else if has("prompt") && has("completion") {
        let answer = if has("answer") { Some(answer_text(object)?) } else { None };
        Ok(Content::Completion { prompt: string(object, "prompt")?, completion: string(object, "completion")?, answer })
    } else if has("prompt") && has("answer") {
        Ok(Content::Question { prompt: string(object, "prompt")?, answer: answer_text(object)? })
    } else if has("instruction") && has("output") {
        instruction(object)
    } else if has("text") {
        Ok(Content::Text { text: string(object, "text")? })
    } else {
        Err(format!("no known kind of example: found {}; known are {SHAPES}", keys(object)))
    }
}

/// The messages in the list `value` under `key`.
fn messages(key: &str, value: &Value) -> Result<Vec<Message>, String> {
    let Value::Array(list) = value else {
        return Err(format!("`{key}` must be a list, found {}", kind(value)));
    };
    if list.is_empty() {
        return Err(format!("`{key}` is empty"));
    }
    list.iter().enumerate().map(|(i, m)| message(m).map_err(|reason| format!("`{key}[{i}]`: {reason}"))).collect()
}

/// `{"role", "content"}`, or the same as `{"from", "value"}` with ShareGPT's names of roles.
fn message(value: &Value) -> Result<Message, String> {
    let Value::Object(object) = value else {
        return Err(format!("must be an object with `role` and `content`, found {}", kind(value)));
    };
    let keys = if object.contains_key("from") && !object.contains_key("role") { ["from", "value"] } else { ["role", "content"] };
    let [role, content] = [string(object, keys[0])?, string(object, keys[1])?];
    let role = if keys[0] == "from" { speaker(&role)?.into() } else { role };
    if !ROLES.contains(&role.as_str()) {
        return Err(format!("unknown role `{role}`; known roles are `{}`", ROLES.join("`, `")));
    }
    let extra = object.iter().filter(|(key, _)| !keys.contains(&key.as_str()));
    Ok(Message { role, content, extra: extra.map(|(k, v)| (k.clone(), v.clone())).collect(), ..Message::new("", "") })
}

/// The role of ShareGPT's `from`.
fn speaker(from: &str) -> Result<&'static str, String> {
    const SPEAKERS: [(&str, &str); 8] = [
        ("human", "user"),
        ("user", "user"),
        ("gpt", "assistant"),
        ("chatgpt", "assistant"),
        ("assistant", "assistant"),
        ("system", "system"),
        ("tool", "tool"),
        ("observation", "tool"),
    ];
    let known = || SPEAKERS.map(|(from, _)| from).join("`, `");
    let found = SPEAKERS.iter().find(|(name, _)| *name == from);
    found.map(|(_, role)| *role).ok_or_else(|| format!("unknown speaker `{from}`; known are `{}`", known()))
}

/// ShareGPT's conversations; a `system` beside them is the first message.
fn conversations(object: &Map<String, Value>) -> Result<Content, String> {
    let spoken = messages("conversations", &object["conversations"])?;
    let system = optional(object, "system")?.map(|system| Message::new("system", system));
    Ok(Content::Chat { messages: system.into_iter().chain(spoken).collect() })
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

fn keys(object: &Map<String, Value>) -> String {
    if object.is_empty() {
        return "no keys".into();
    }
    let keys: Vec<_> = object.keys().map(|k| format!("`{k}`")).collect();
    format!("the keys {}", keys.join(", "))
}

/// What a value is, in a sentence.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
