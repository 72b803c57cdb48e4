//! Messages of data files.

use super::conversation::python_json;
use super::jsonl::Message;
use super::shapes::{string, without_nulls};
use serde_json::{Map, Value, json};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
/// What an assistant can have beside a content, or instead of one.
pub(super) const SAYINGS: [&str; 6] = ["tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "tool_plan"];
/// Keys with which data sets say whether a message is learned: OpenAI's, axolotl's, ms-swift's.
const SWITCHES: [&str; 5] = ["weight", "train", "training", "train_on_turn", "loss"];

/// The messages in the list `value` under `key`.
pub(super) fn messages(key: &str, value: &Value) -> Result<Vec<Message>, String> {
    let Value::Array(list) = value else {
        return Err(format!("`{key}` must be a list, found {}", kind(value)));
    };
    if list.is_empty() {
        return Err(format!("`{key}` is empty"));
    }
    list.iter().enumerate().map(|(i, m)| message(m).map_err(|reason| format!("`{key}[{i}]`: {reason}"))).collect()
}

/// `{"role", "content"}`, or the same as `{"from", "value"}` with ShareGPT's names of roles.
pub(super) fn message(value: &Value) -> Result<Message, String> {
    let Value::Object(object) = value else {
        return Err(format!("must be an object with `role` and `content`, found {}", kind(value)));
    };
    let object = without_nulls(object);
    let keys = if object.contains_key("from") && !object.contains_key("role") { ["from", "value"] } else { ["role", "content"] };
    let role = string(&object, keys[0])?;
    let role = if keys[0] == "from" { speaker(&role)?.into() } else { role };
    if !ROLES.contains(&role.as_str()) {
        return Err(format!("unknown role `{role}`; known roles are `{}`", ROLES.join("`, `")));
    }
    let (content, form) = content(&object, keys[1], &role)?;
    let learned = is_learned(&object)?;
    let extra = object.into_iter().filter(|(key, _)| !keys.contains(&key.as_str())).collect();
    Ok(Message { role, content, extra, form, learned })
}

/// Whether a message's own keys allow it to be learned.
fn is_learned(object: &Map<String, Value>) -> Result<bool, String> {
    let mut learned = true;
    for key in SWITCHES {
        learned &= match object.get(key) {
            None => true,
            Some(Value::Bool(value)) => *value,
            Some(Value::Number(number)) if number.as_f64() == Some(0.0) => false,
            Some(Value::Number(number)) if number.as_f64() == Some(1.0) => true,
            Some(other) if key == "weight" => {
                return Err(format!("`weight` must be 0 (not learned) or 1 (learned), found {other}; messages cannot count in part"));
            }
            Some(_) => true,
        };
    }
    Ok(learned)
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

/// What a message says as one text, and as the template gets it where that is something else.
fn content(object: &Map<String, Value>, key: &str, role: &str) -> Result<(String, Option<Value>), String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok((text.clone(), None)),
        // Something else is said, and the content is null, as the OpenAI API writes it.
        None if role == "assistant" && SAYINGS.iter().any(|key| object.contains_key(*key)) => Ok((String::new(), Some(Value::Null))),
        None => Err(format!("`{key}` is missing")),
        Some(Value::Array(list)) if role != "tool" || list.iter().all(is_part) => in_parts(key, list),
        Some(part @ Value::Object(_)) if is_part(part) => in_parts(key, std::slice::from_ref(part)),
        Some(value) if role == "tool" => Ok((python_json(value), value.is_object().then(|| value.clone()))),
        Some(other) => Err(format!("`{key}` must be a string or a list of text parts, found {}", kind(other))),
    }
}

fn is_part(value: &Value) -> bool {
    value.is_string() || value.get("type").is_some_and(Value::is_string)
}

/// A content in parts; they are put on lines of their own where the template reads strings alone.
fn in_parts(key: &str, list: &[Value]) -> Result<(String, Option<Value>), String> {
    let parts = list.iter().map(|part| text_of(part).map_err(|reason| format!("`{key}` {reason}"))).collect::<Result<Vec<_>, _>>()?;
    let form = parts.iter().map(|text| json!({ "type": "text", "text": text })).collect();
    Ok((parts.join("\n"), Some(form)))
}

/// The text of a part.
fn text_of(part: &Value) -> Result<String, String> {
    if let Value::String(text) = part {
        return Ok(text.clone());
    }
    let Some(part_kind) = part.get("type").and_then(Value::as_str) else {
        return Err(format!("must be a string or a list of text parts, found {} in the list", kind(part)));
    };
    match (part_kind, part.get("text")) {
        ("text" | "input_text" | "output_text", Some(Value::String(text))) => Ok(text.clone()),
        ("text" | "input_text" | "output_text", _) => Err(format!("holds a part of type `{part_kind}` without a `text`")),
        ("refusal", _) if part["refusal"].is_string() => Ok(part["refusal"].as_str().unwrap_or_default().into()),
        (other, _) => {
            let remedy = "text alone can be learned; leave such parts out, or describe them in words";
            Err(format!("holds a part of type `{other}`; {remedy}"))
        }
    }
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
