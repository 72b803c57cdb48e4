//! Texts and pairs of texts to what an encoder reads.

use super::tokenizer::{TextTokenizer, guarded};
use peft_core::{Error, Result};
use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};
use tokenizers::{Encoding, PostProcessor};

/// The tokens of a text or of a pair of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The tokens, special ones included.
    pub ids: Vec<u32>,
    /// For each token the text that it belongs to, 0 or 1; always 0 for tokenizers that do not tell texts apart.
    pub type_ids: Vec<u32>,
    /// Whether texts have lost their ends.
    pub truncated: bool,
}

impl TextTokenizer {
    /// The tokens of `text`, or of `text` and `pair` together, with the special tokens that the tokenizer puts around and between them.
    ///
    /// At most `max_tokens` are left: the longer text loses its end first, then both, as `truncation="longest_first"` of transformers does.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if special tokens alone fill `max_tokens`.
    pub fn encode_texts(&self, text: &str, pair: Option<&str>, max_tokens: usize) -> Result<Tokens> {
        let special = self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(pair.is_some()));
        if max_tokens <= special {
            return Err(Error::InvalidConfig(format!(
                "max_length = {max_tokens} leaves no room for a text beside {special} special tokens"
            )));
        }
        [Some(text), pair].into_iter().flatten().try_for_each(|text| self.check_length(text))?;
        let plain = |text: &str| guarded(|| self.tokenizer.encode_fast(text, false)).map_err(|e| self.error(e));
        let first = plain(text)?;
        let second = pair.map(plain).transpose()?.map(|mut second| {
            second.set_type_ids(vec![1; second.len()]);
            second
        });
        let length = |a: &Encoding, b: &Option<Encoding>| a.len() + b.as_ref().map_or(0, Encoding::len);
        let whole = length(&first, &second);
        let params = TruncationParams { max_length: max_tokens - special, ..Default::default() };
        let (first, second) = truncate_encodings(first, second, &params).map_err(|e| self.error(e.to_string()))?;
        let truncated = length(&first, &second) < whole;
        let encoding = guarded(|| self.tokenizer.post_process(first, second, true)).map_err(|e| self.error(e))?;
        self.check(encoding.get_ids())?;
        Ok(Tokens { ids: encoding.get_ids().to_vec(), type_ids: encoding.get_type_ids().to_vec(), truncated })
    }
}
