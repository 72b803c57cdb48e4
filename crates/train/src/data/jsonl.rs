//! Examples from JSON Lines files: one JSON object per line.

use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
const SHAPES: &str = r#"{"text"}, {"prompt", "completion"}, {"messages": [{"role", "content"}, …]}, and for evaluation {"prompt", "choices", "answer"} or {"prompt", "answer"}"#;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Further keys, which chat templates may read: `name`, `reasoning_content`, `tool_calls`, …
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message without further keys.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new() }
    }
}

/// What an example holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// `{"text"}`: plain text, all of it to be learned.
    Text {
        /// The text.
        text: String,
    },
    /// `{"prompt", "completion"}`: the completion is to be learned.
    Completion {
        /// What is given.
        prompt: String,
        /// What follows directly, without a separator.
        completion: String,
        /// The short answer that an evaluation compares with, if the line has one.
        answer: Option<String>,
    },
    /// `{"messages": […]}`: what the assistant says is to be learned.
    Chat {
        /// The conversation, at least one message.
        messages: Vec<Message>,
    },
    /// `{"prompt", "choices", "answer"}`: multiple choice.
    Choice {
        /// The question.
        prompt: String,
        /// The possible continuations.
        choices: Vec<String>,
        /// Which of them is right, from 0.
        answer: usize,
    },
    /// `{"prompt", "answer"}`: a question with one right answer.
    Question {
        /// The question.
        prompt: String,
        /// The right answer, to be matched exactly.
        answer: String,
    },
}

/// One example and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What it holds.
    pub content: Content,
    /// The data file.
    pub file: Arc<Path>,
    /// The line in it, from 1.
    pub line: usize,
}

impl Example {
    /// An example that errors attribute to `file` and `line`.
    pub fn new(content: Content, file: impl AsRef<Path>, line: usize) -> Self {
        Self { content, file: file.as_ref().into(), line }
    }

    /// An error about this example.
    pub fn error(&self, reason: impl ToString) -> Error {
        Error::Data { file: self.file.to_path_buf(), line: self.line, reason: reason.to_string() }
    }
}

/// Read all examples of a JSON Lines file.
///
/// Blank lines are skipped, keys that no shape uses are ignored. A line that has the keys of several shapes is read as the first of
/// messages, choices, completion, answer, text. Fails with the file and line of the first line that is not an example, and if there
/// is no example at all.
pub fn read_examples(path: impl AsRef<Path>) -> Result<Vec<Example>> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let file: Arc<Path> = path.into();
    let mut examples = Vec::new();
    for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let line_number = index + 1;
        match parse_line(line) {
            Ok(None) => {}
            Ok(Some(content)) => examples.push(Example { content, file: file.clone(), line: line_number }),
            Err(reason) => return Err(Error::Data { file: path.into(), line: line_number, reason }),
        }
    }
    if examples.is_empty() {
        return Err(Error::file(path, NO_EXAMPLES));
    }
    Ok(examples)
}

/// What some editors put at the beginning of a file.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
pub(super) const NO_EXAMPLES: &str = "holds no examples";

/// The example of a line, or nothing for a blank one.
pub(super) fn parse_line(line: &[u8]) -> Result<Option<Content>, String> {
    let line = std::str::from_utf8(line).map_err(|e| format!("not valid UTF-8 at byte {}", e.valid_up_to() + 1))?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(line).map_err(json_reason)? {
        Value::Object(object) => parse_object(&object).map(Some),
        other => Err(format!("expected one JSON object per line, found {}", kind(&other))),
    }
}

/// serde_json counts lines within the text it was given, which is always line 1 here.
fn json_reason(error: serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    format!("not valid JSON: {reason} at column {}; each line must hold one whole JSON object", error.column())
}

fn parse_object(object: &Map<String, Value>) -> Result<Content, String> {
    let has = |key| object.contains_key(key);
    if has("messages") {
        Ok(Content::Chat { messages: messages(&object["messages"])? })
    } else if has("prompt") && has("choices") {
        choice(object)
    } else if has("prompt") && has("completion") {
        let answer = if has("answer") { Some(answer_text(object)?) } else { None };
        Ok(Content::Completion { prompt: string(object, "prompt")?, completion: string(object, "completion")?, answer })
    } else if has("prompt") && has("answer") {
        Ok(Content::Question { prompt: string(object, "prompt")?, answer: answer_text(object)? })
    } else if has("text") {
        Ok(Content::Text { text: string(object, "text")? })
    } else {
        Err(format!("no known kind of example: found {}; known are {SHAPES}", keys(object)))
    }
}

fn messages(value: &Value) -> Result<Vec<Message>, String> {
    let Value::Array(list) = value else {
        return Err(format!("`messages` must be a list, found {}", kind(value)));
    };
    if list.is_empty() {
        return Err("`messages` is empty".into());
    }
    list.iter().enumerate().map(|(i, m)| message(m).map_err(|reason| format!("`messages[{i}]`: {reason}"))).collect()
}

fn message(value: &Value) -> Result<Message, String> {
    let Value::Object(object) = value else {
        return Err(format!("must be an object with `role` and `content`, found {}", kind(value)));
    };
    let role = string(object, "role")?;
    if !ROLES.contains(&role.as_str()) {
        return Err(format!("unknown role `{role}`; known roles are `{}`", ROLES.join("`, `")));
    }
    let content = string(object, "content")?;
    let extra = object.iter().filter(|(key, _)| !["role", "content"].contains(&key.as_str()));
    Ok(Message { role, content, extra: extra.map(|(k, v)| (k.clone(), v.clone())).collect() })
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

fn string(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{key}` must be a string, found {}", kind(other))),
        None => Err(format!("`{key}` is missing")),
    }
}

fn keys(object: &Map<String, Value>) -> String {
    if object.is_empty() {
        return "no keys".into();
    }
    let keys: Vec<_> = object.keys().map(|k| format!("`{k}`")).collect();
    format!("the keys {}", keys.join(", "))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
