//! What a model answers: greedy text up to a stop string.

use super::item::OpenItem;
use super::loss::warn_of_long;
use crate::data::{Stream, TextTokenizer};
use crate::generate::{GenerateConfig, generate_batch};
use peft_core::{Error, LanguageModel, Result};
use std::ops::ControlFlow;

/// How answers are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answering {
    /// Prompts that are continued together.
    pub batch_size: usize,
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// Texts that end an answer and are no part of it.
    pub stop: Vec<String>,
}

/// The greedy continuation of every prompt, up to an end token, a stop string or `max_new_tokens`.
///
/// `on_progress` gets the answers done and all.
///
/// # Errors
/// [`Error::Data`] for a prompt without tokens; [`Error::InvalidConfig`] if `max_new_tokens` is 0; [`Error::NonFinite`].
pub fn answer<M: LanguageModel>(
    model: &M,
    tokenizer: &TextTokenizer,
    items: &[OpenItem],
    how: &Answering,
    mut on_progress: impl FnMut(usize, usize),
) -> Result<Vec<String>> {
    if how.max_new_tokens == 0 {
        return Err(Error::InvalidConfig("max_new_tokens must be at least 1".into()));
    }
    let config = GenerateConfig { max_new_tokens: how.max_new_tokens, eos_ids: tokenizer.eos_ids().to_vec(), ..GenerateConfig::default() };
    let prompts = items.iter().map(|item| item.prompt.tokens(tokenizer, &item.origin)).collect::<Result<Vec<_>>>()?;
    warn_of_long(prompts.iter().map(Vec::len), model);
    let mut answers = Vec::with_capacity(items.len());
    for prompts in prompts.chunks(how.batch_size.max(1)) {
        let mut written: Vec<Written> = prompts.iter().map(|prompt| Written::after(tokenizer, prompt)).collect();
        let mut failed = Ok(());
        generate_batch(model, prompts, &config, |index, token| match written[index].push(token, &how.stop) {
            Ok(false) => ControlFlow::Continue(()),
            Ok(true) => ControlFlow::Break(()),
            Err(error) => {
                failed = Err(error);
                ControlFlow::Break(())
            }
        })?;
        failed?;
        for text in written {
            answers.push(text.finish(&how.stop)?);
        }
        on_progress(answers.len(), items.len());
    }
    Ok(answers)
}

/// An answer as it is written.
struct Written<'a> {
    stream: Stream<'a>,
    text: String,
}

impl<'a> Written<'a> {
    fn after(tokenizer: &'a TextTokenizer, prompt: &[u32]) -> Self {
        Self { stream: tokenizer.stream(prompt), text: String::new() }
    }

    /// Take the next token; whether a stop string is complete.
    fn push(&mut self, token: u32, stop: &[String]) -> Result<bool> {
        let Some(piece) = self.stream.push(token)? else { return Ok(false) };
        self.text += &piece;
        Ok(first_stop(&self.text, stop).is_some())
    }

    fn finish(mut self, stop: &[String]) -> Result<String> {
        self.text += &self.stream.finish()?.unwrap_or_default();
        self.text.truncate(first_stop(&self.text, stop).unwrap_or(self.text.len()));
        Ok(self.text)
    }
}

/// Where the first stop string begins.
fn first_stop(text: &str, stop: &[String]) -> Option<usize> {
    stop.iter().filter_map(|stop| text.find(stop.as_str())).min()
}
