//! The small JSON files of a checkpoint that say which tokens are special.

use peft_core::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The named tokens that `tokenizer_config.json` and chat templates know.
pub(super) const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The named special tokens of a checkpoint, as text: `bos_token`, `eos_token`, `pad_token` and so on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens(BTreeMap<String, String>);

impl SpecialTokens {
    /// Read them from `tokenizer_config.json` and `special_tokens_map.json`. Where they contradict each other, the second one counts,
    /// unless the first one has an `added_tokens_decoder`: so does transformers.
    ///
    /// Both files are optional. A token is a string or an object with `content`. Fails if a file is not JSON.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let mut tokens = Self::default();
        let settings = read_json(&dir.as_ref().join("tokenizer_config.json"))?;
        let older = read_json(&dir.as_ref().join("special_tokens_map.json"))?;
        let decided = settings.as_ref().is_some_and(|settings| settings.get("added_tokens_decoder").is_some());
        let files = if decided { [settings, older] } else { [older, settings] };
        for json in files.into_iter().flatten() {
            for key in NAMES {
                if let Some(text) = json.get(key).and_then(token_text) {
                    tokens.0.entry(key.into()).or_insert_with(|| text.into());
                }
            }
        }
        Ok(tokens)
    }

    /// The text of a token, for example of `eos_token`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and texts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

impl<N: Into<String>, T: Into<String>> FromIterator<(N, T)> for SpecialTokens {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(tokens: I) -> Self {
        Self(tokens.into_iter().map(|(name, text)| (name.into(), text.into())).collect())
    }
}

fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The JSON in a file, or nothing if there is no such file.
pub(super) fn read_json(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| Error::file(path, format!("not valid JSON: {e}")))
}

/// The text of a file, or nothing if there is no such file.
pub(super) fn read_optional(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, e)),
    }
}

/// The token ids under `key`: a number or a list of numbers; negative ones mean "none".
pub(super) fn token_ids(json: &Value, key: &str) -> Vec<u32> {
    let as_id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match json.get(key) {
        Some(Value::Array(ids)) => ids.iter().filter_map(as_id).collect(),
        Some(id) => as_id(id).into_iter().collect(),
        None => Vec::new(),
    }
}
