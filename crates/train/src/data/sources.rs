//! Where a tokenizer and a chat template come from when an adapter brings its own.

use std::path::Path;

/// The files that hold a vocabulary.
const VOCABULARIES: [&str; 2] = ["tokenizer.json", super::wordpiece::VOCABULARY];
/// The files that name special tokens.
const SETTINGS: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];

/// The directories to read from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// Has the vocabulary.
    pub vocabulary: &'a Path,
    /// Names the special tokens.
    pub settings: &'a Path,
    /// Has the model's configuration.
    pub model: &'a Path,
}

impl<'a> Sources<'a> {
    /// Of an adapter what it has, of its base the rest. An adapter that is one file has neither.
    pub fn of(base: &'a Path, adapter: Option<&'a Path>) -> Self {
        let has = |names: &[&str]| adapter.filter(|dir| names.iter().any(|name| dir.join(name).is_file())).unwrap_or(base);
        Self { vocabulary: has(&VOCABULARIES), settings: has(&SETTINGS), model: base }
    }
}
