//! Long texts in overlapping windows: every token is scored once, with tokens before it that the model sees too.

use super::loss::{Likelihood, batcher, token_losses};
use crate::data::{Batcher, Encoded};
use peft_core::{Error, LanguageModel, Result};

/// How a text is cut into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowConfig {
    /// Tokens of a window.
    pub max_length: usize,
    /// How many tokens a window begins after the one before; as many are scored in each window but the first.
    pub stride: usize,
}

impl WindowConfig {
    /// Settings for a model of `max_positions`: windows of at most 1024 tokens, half a window apart, unless said otherwise.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a window of fewer than 2 tokens, or windows so far apart that a token has none before it.
    pub fn new(max_length: Option<usize>, stride: Option<usize>, max_positions: usize) -> Result<Self> {
        let max_length = max_length.unwrap_or_else(|| max_positions.min(1024));
        if max_length < 2 {
            return Err(Error::InvalidConfig(format!("max_length must be at least 2, found {max_length}")));
        }
        let stride = stride.unwrap_or(max_length / 2);
        if !(1..max_length).contains(&stride) {
            let most = max_length - 1;
            return Err(Error::InvalidConfig(format!(
                "stride must be 1 to {most} for windows of {max_length} tokens, so that every token has one before it; found {stride}"
            )));
        }
        if max_length > max_positions {
            tracing::warn!("windows of {max_length} tokens are longer than the {max_positions} that the model was made for");
        }
        Ok(Self { max_length, stride })
    }
}

/// Scores the tokens of documents as they come, with no more than a batch of windows in memory.
pub(super) struct Windows<'a, M> {
    model: &'a M,
    batcher: Batcher,
    config: WindowConfig,
    batch_size: usize,
    /// The tokens of the document from the beginning of the next window.
    tokens: Vec<u32>,
    /// How many of them earlier windows have scored.
    scored: usize,
    waiting: Vec<Encoded>,
    likelihood: Likelihood,
}

impl<'a, M: LanguageModel> Windows<'a, M> {
    /// Windows for `model`, which must be free of autodiff.
    pub fn new(model: &'a M, pad_id: u32, config: WindowConfig, batch_size: usize) -> Self {
        let (batcher, batch_size) = (batcher(model, pad_id), batch_size.max(1));
        Self { model, batcher, config, batch_size, tokens: Vec::new(), scored: 0, waiting: Vec::new(), likelihood: Likelihood::default() }
    }

    /// More tokens of the document.
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        self.tokens.extend_from_slice(tokens);
        let WindowConfig { max_length, stride } = self.config;
        let mut first = 0;
        while self.tokens.len() - first >= max_length {
            self.window(first, max_length)?;
            self.scored = max_length - stride;
            first += stride;
        }
        self.tokens.drain(..first);
        Ok(())
    }

    /// The document ends here; the next token belongs to another.
    pub fn end(&mut self) -> Result<()> {
        if self.tokens.len() > self.scored {
            self.window(0, self.tokens.len())?;
        }
        self.tokens.clear();
        self.scored = 0;
        Ok(())
    }

    /// The likelihood of everything so far.
    pub fn likelihood(&mut self) -> Result<Likelihood> {
        self.flush()?;
        Ok(self.likelihood)
    }

    fn window(&mut self, first: usize, length: usize) -> Result<()> {
        let ids = self.tokens[first..first + length].to_vec();
        // The first token of a document has nothing before it.
        let labels_mask: Vec<bool> = (0..length).map(|index| index >= self.scored.max(1)).collect();
        if labels_mask.contains(&true) {
            self.waiting.push(Encoded { ids, labels_mask });
        }
        if self.waiting.len() == self.batch_size { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if !self.waiting.is_empty() {
            self.likelihood.add(&token_losses(self.model, &self.batcher.batch(&self.waiting))?);
            self.waiting.clear();
        }
        Ok(())
    }
}
