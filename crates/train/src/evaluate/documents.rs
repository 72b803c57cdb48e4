//! Files of plain text and of rows with a text each, as token windows take them.

use super::chunks::Chunks;
use super::loss::Likelihood;
use super::task::{Rows, Text};
use super::windows::{WindowConfig, Windows};
use crate::data::{TextTokenizer, encode_continuation, encode_inside};
use peft_core::{Error, LanguageModel, Result};
use std::path::{Path, PathBuf};

/// Bytes of a text file that are tokenised together.
const CHUNK: usize = 128 << 10;

/// The documents of a file: a plain text (`.txt`) is one, a file of rows has one in each.
#[derive(Debug)]
pub struct Documents {
    file: PathBuf,
    /// The text of a row; none for plain text.
    text: Option<Text>,
    limit: Option<usize>,
    window: (Option<usize>, Option<usize>),
}

/// What was counted and scored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Scored {
    pub documents: usize,
    pub bytes: usize,
    pub words: usize,
    pub likelihood: Likelihood,
    pub window: Option<WindowConfig>,
}

impl Documents {
    /// The documents of `file`, of which at most `limit` are read. Windows have `max_length` tokens and begin `stride` apart; see
    /// [`WindowConfig::new`] for the defaults.
    ///
    /// # Errors
    /// If there is no such file.
    pub(super) fn new(
        file: &Path,
        text: Option<Text>,
        limit: Option<usize>,
        max_length: Option<usize>,
        stride: Option<usize>,
    ) -> Result<Self> {
        std::fs::metadata(file).map_err(|e| Error::io(file, e))?;
        Ok(Self { file: file.into(), text, limit, window: (max_length, stride) })
    }

    /// Whether a file is plain text.
    pub(super) fn is_plain(file: &Path) -> bool {
        file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"))
    }

    /// Score every token once. `on_progress` gets the bytes done and all.
    pub(super) fn score<M: LanguageModel>(
        &self,
        model: &M,
        tokenizer: &TextTokenizer,
        batch_size: usize,
        mut on_progress: impl FnMut(usize, usize),
    ) -> Result<Scored> {
        let model = model.valid();
        let config = WindowConfig::new(self.window.0, self.window.1, model.max_positions())?;
        let mut windows = Windows::new(&model, tokenizer.pad_id(), config, batch_size);
        let size = std::fs::metadata(&self.file).map_err(|e| Error::io(&self.file, e))?.len() as usize;
        let mut scored = Scored { window: Some(config), ..Scored::default() };
        let mut before = None;
        for piece in self.pieces()? {
            let (begins, text) = piece?;
            if begins {
                windows.end()?;
                scored.documents += 1;
                before = None;
            }
            windows.push(&tokens_after(tokenizer, before, &text)?)?;
            scored.bytes += text.len();
            scored.words += words_begun(before, &text);
            before = text.chars().next_back().or(before);
            on_progress(scored.bytes.min(size), size);
        }
        windows.end()?;
        scored.likelihood = windows.likelihood()?;
        match scored.likelihood.tokens {
            0 => Err(Error::file(&self.file, "holds no text that could be scored")),
            _ => Ok(scored),
        }
    }

    /// Pieces of text, each with whether a document begins with it.
    fn pieces(&self) -> Result<Pieces<'_>> {
        let Some(text) = &self.text else {
            let chunks = Chunks::open(&self.file, CHUNK)?.enumerate();
            return Ok(Box::new(chunks.map(|(index, chunk)| Ok((index == 0, chunk?)))));
        };
        let rows = Rows::open(&self.file)?.take(self.limit.unwrap_or(usize::MAX));
        Ok(Box::new(rows.map(|row| Ok((true, text.render(&row?)?)))))
    }
}

/// Pieces of text, each with whether a document begins with it.
type Pieces<'a> = Box<dyn Iterator<Item = Result<(bool, String)>> + 'a>;

/// The tokens of a text that begins a document, or that follows a text that ends in `before`.
fn tokens_after(tokenizer: &TextTokenizer, before: Option<char>, text: &str) -> Result<Vec<u32>> {
    match before {
        None => Ok(encode_continuation(tokenizer, "", text, true)?.ids),
        Some(before) => encode_inside(tokenizer, before, text),
    }
}

/// Words that begin in a text that follows the character `before`.
fn words_begun(before: Option<char>, text: &str) -> usize {
    let mut inside = before.is_some_and(|c| !c.is_whitespace());
    let begins = |c: char| {
        let began = !c.is_whitespace() && !inside;
        inside = !c.is_whitespace();
        began
    };
    text.chars().map(begins).filter(|began| *began).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_in_two_pieces_is_one_word() {
        assert_eq!(words_begun(None, " ab c"), 2);
        assert_eq!(words_begun(Some('c'), "d e"), 1);
        assert_eq!(words_begun(Some('\n'), "d e"), 2);
    }
}
