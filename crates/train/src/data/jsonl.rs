//! Examples from data files: JSON Lines, one object per line, or a JSON array of objects.

use super::array::Elements;
use super::conversation::Conversation;
use super::keys::Unused;
use super::row::object_of;
use super::shapes::{Parsed, parse_object};
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said; empty where the file has null or nothing.
    pub content: String,
    /// Further keys, which chat templates may read: `name`, `reasoning_content`, `tool_calls`, …
    #[serde(flatten)]
    pub extra: Map<String, Value>,
    /// The content as templates get it, where that is not the string: null, a list of parts, an object.
    #[serde(skip)]
    pub(super) form: Option<Value>,
    /// Whether it is to be learned if the assistant says it.
    #[serde(skip, default = "learned")]
    pub(super) learned: bool,
}

fn learned() -> bool {
    true
}

impl Message {
    /// A message without further keys.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new(), form: None, learned: true }
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
    Chat(Conversation),
    /// `{"instruction", "input", "output"}`, Alpaca's form: the output is to be learned. [`posed`](Self::posed) says how it is written.
    Instruction {
        /// What is to be done.
        instruction: String,
        /// What it is to be done with.
        input: Option<String>,
        /// The result.
        output: String,
        /// What the assistant is told beforehand.
        system: Option<String>,
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
    /// Whether it is to be learned: not if it is an answer that its file marks as bad.
    pub wanted: bool,
    /// The data file.
    pub file: Arc<Path>,
    /// The line in it, from 1.
    pub line: usize,
}

impl Example {
    /// An example that errors attribute to `file` and `line`.
    pub fn new(content: Content, file: impl AsRef<Path>, line: usize) -> Self {
        Self { content, wanted: true, file: file.as_ref().into(), line }
    }

    /// The example of a line.
    pub(super) fn parsed(parsed: Parsed, file: &Arc<Path>, line: usize) -> Self {
        Self { content: parsed.content, wanted: parsed.wanted, file: file.clone(), line }
    }

    /// An error about this example.
    pub fn error(&self, reason: impl ToString) -> Error {
        Error::Data { file: self.file.to_path_buf(), line: self.line, reason: reason.to_string() }
    }
}

/// Read all examples of a file: JSON Lines, or one JSON array of objects.
///
/// Blank lines are skipped, keys that no form uses are ignored; those that mean something elsewhere are warned of. An object that has the keys of several forms is read as the first of
/// messages, conversations, choices, completion, answer, instruction, text. Fails with the file and line of the first object that is
/// not an example, and if there is no example at all.
pub fn read_examples(path: impl AsRef<Path>) -> Result<Vec<Example>> {
    let path = path.as_ref();
    let file: Arc<Path> = path.into();
    let (mut examples, mut unused) = (Vec::new(), Unused::default());
    each_object(path, |line, object| {
        let parsed = parse_object(&object)?;
        unused.add(&parsed.unused);
        examples.push(Example::parsed(parsed, &file, line));
        Ok(())
    })?;
    unused.warn(path);
    Ok(examples)
}

/// Take every object of a file, JSON Lines or one JSON array, with the line that it begins in.
///
/// Fails with the file and the line of the first that is none or that is not taken, and if there is none at all.
pub(super) fn each_object(path: &Path, mut take: impl FnMut(usize, Map<String, Value>) -> Result<(), String>) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    if bytes.starts_with(GZIP) {
        return Err(Error::file(path, COMPRESSED));
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let mut taken = 0;
    let mut take = |line: usize, object: Result<Option<Map<String, Value>>, String>| {
        let done = object.and_then(|object| {
            taken += usize::from(object.is_some());
            object.map_or(Ok(()), |object| take(line, object))
        });
        done.map_err(|reason| Error::Data { file: path.into(), line, reason })
    };
    match bytes.trim_ascii_start().first() {
        Some(b'[') => Elements::new(bytes).try_for_each(|(line, object)| take(line, object.map(Some)))?,
        _ => bytes.split(|&b| b == b'\n').enumerate().try_for_each(|(index, line)| take(index + 1, object_of(line)))?,
    }
    if taken == 0 { Err(Error::file(path, NO_EXAMPLES)) } else { Ok(()) }
}

/// What some editors put at the beginning of a file.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// What a file compressed with gzip begins with.
pub(super) const GZIP: &[u8] = &[0x1f, 0x8b];
pub(super) const COMPRESSED: &str = "is compressed; unpack it first, with gunzip";
pub(super) const NO_EXAMPLES: &str = "holds no examples";

/// The example of a line, or nothing for a blank one.
pub(super) fn parse_line(line: &[u8]) -> Result<Option<Parsed>, String> {
    object_of(line)?.map(|object| parse_object(&object)).transpose()
}
