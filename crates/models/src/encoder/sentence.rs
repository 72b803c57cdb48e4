//! How sentence-transformers makes one vector of a text.

use peft_core::{Error, Result, files};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// The steps behind the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentenceConfig {
    /// Which hidden states count.
    pub pooling: Pooling,
    /// Whether the vector is divided by its length.
    pub normalize: bool,
    /// Tokens of a text, special ones included; longer texts lose their end. `None`: as many as the encoder takes.
    pub max_tokens: Option<usize>,
}

/// Which hidden states make the vector of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens.
    Mean,
    /// The first token.
    Cls,
}

impl SentenceConfig {
    /// Read `modules.json`, the pooling's `config.json` and `sentence_bert_config.json` of a checkpoint directory. Without `modules.json`:
    /// the mean of all tokens, as sentence-transformers takes it then.
    ///
    /// # Errors
    /// [`Error::File`] for a pooling or a further step that is not supported; [`Error::Io`].
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let mut config = Self { pooling: Pooling::Mean, normalize: false, max_tokens: max_tokens(dir)? };
        let file = dir.join("modules.json");
        if !file.exists() {
            return Ok(config);
        }
        let modules: Vec<Step> = files::read_json(&file)?;
        for step in modules {
            match step.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" if step.path.is_empty() => {}
                "Transformer" => {
                    let reason = format!("keeps the encoder in `{0}`; move the files of {0} up into this directory", step.path);
                    return Err(Error::file(&file, reason));
                }
                "Pooling" => config.pooling = pooling(&dir.join(&step.path).join("config.json"))?,
                "Normalize" => config.normalize = true,
                _ => {
                    let reason = format!("module `{}` is not supported; supported: Transformer, Pooling, Normalize", step.kind);
                    return Err(Error::file(&file, reason));
                }
            }
        }
        Ok(config)
    }
}

/// One entry of `modules.json`.
#[derive(Deserialize)]
struct Step {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

fn pooling(file: &Path) -> Result<Pooling> {
    let config: Map<String, Value> = files::read_json(file)?;
    let on = config.iter().filter(|(key, value)| key.starts_with("pooling_mode_") && **value == true);
    let named = config.get("pooling_mode").and_then(Value::as_str);
    let modes: Vec<&str> = on.map(|(key, _)| key.trim_start_matches("pooling_mode_")).chain(named).collect();
    match modes.as_slice() {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        [] => Err(Error::file(file, "names no pooling mode; supported: mean_tokens, cls_token")),
        modes => Err(Error::file(file, format!("pooling by {} is not supported; supported: mean_tokens, cls_token", modes.join(" and ")))),
    }
}

fn max_tokens(dir: &Path) -> Result<Option<usize>> {
    #[derive(Deserialize)]
    struct Limits {
        max_seq_length: Option<usize>,
    }
    let file = dir.join("sentence_bert_config.json");
    if !file.exists() {
        return Ok(None);
    }
    let Limits { max_seq_length } = files::read_json(&file)?;
    Ok(max_seq_length)
}
