//! What a model is asked.

use super::documents::Documents;
use crate::data::{ChatTemplate, Conversation, Encoded, Example, TextTokenizer};
use peft_core::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// The line of a data file that something comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The data file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
}

impl Origin {
    /// An error about that line.
    pub fn error(&self, reason: impl ToString) -> Error {
        Error::Data { file: self.file.to_path_buf(), line: self.line, reason: reason.to_string() }
    }
}

impl From<&Example> for Origin {
    fn from(example: &Example) -> Self {
        Self { file: example.file.clone(), line: example.line }
    }
}

/// A text to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Whether the tokenizer adds its special tokens; a rendered chat template brings its own.
    pub special_tokens: bool,
}

impl Prompt {
    /// A text as it stands.
    pub fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), special_tokens: true }
    }

    /// A conversation up to where the assistant is to speak.
    ///
    /// # Errors
    /// [`Error::Data`] if there is no template or it refuses the conversation.
    pub fn chat(template: Option<&ChatTemplate>, conversation: &Conversation, origin: &Origin) -> Result<Self> {
        let template = template.ok_or_else(|| origin.error("a conversation needs a chat template, and the checkpoint has none"))?;
        let text = template.render_conversation(conversation, true).map_err(|e| origin.error(e))?;
        Ok(Self { text, special_tokens: false })
    }

    /// Its tokens.
    ///
    /// # Errors
    /// [`Error::Data`] if there are none.
    pub(super) fn tokens(&self, tokenizer: &TextTokenizer, origin: &Origin) -> Result<Vec<u32>> {
        match tokenizer.encode_prompt(&self.text, self.special_tokens)? {
            tokens if tokens.is_empty() => Err(origin.error("the prompt has no tokens")),
            tokens => Ok(tokens),
        }
    }
}

/// A prompt with several continuations, one of which is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceItem {
    /// The prompt.
    pub prompt: Prompt,
    /// What stands between the prompt and a choice.
    pub delimiter: String,
    /// The continuations.
    pub choices: Vec<String>,
    /// Which of them is right, from 0.
    pub answer: usize,
    /// Where it comes from.
    pub origin: Origin,
}

/// A prompt and the answers that count as right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenItem {
    /// The prompt.
    pub prompt: Prompt,
    /// At least one answer.
    pub answers: Vec<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// All that a model is asked in an evaluation.
#[derive(Debug)]
pub enum Items {
    /// Which continuation is the most likely.
    Choices(Vec<ChoiceItem>),
    /// How the prompt goes on.
    Open(Vec<OpenItem>),
    /// How likely the marked tokens are.
    Learned(Vec<Encoded>),
    /// How likely whole documents are.
    Documents(Documents),
}
