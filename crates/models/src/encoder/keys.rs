//! How a checkpoint calls the tensors of an encoder.

use super::family::Family;
use crate::load::{self, Source};
use burn::module::Module;
use burn::tensor::{DType, Device};
use peft_core::Result;
use peft_core::files::Checkpoint;

/// The keys of one checkpoint: of an encoder alone, or of an encoder under a head.
pub(super) struct Keys<'a> {
    checkpoint: &'a Checkpoint,
    /// What stands before the keys of the encoder: `bert.`, `roberta.` or nothing.
    prefix: String,
}

impl<'a> Keys<'a> {
    pub fn new(checkpoint: &'a Checkpoint, family: Family) -> Self {
        let prefix = format!("{}.", family.prefix());
        let used = checkpoint.keys().any(|key| key.starts_with(&prefix));
        Self { checkpoint, prefix: if used { prefix } else { String::new() } }
    }

    /// The key of a parameter by its path inside the encoder. Old checkpoints call a norm's scale and shift gamma and beta.
    pub fn of_encoder(&self, path: &str) -> String {
        let key = format!("{}{path}", self.prefix);
        let old = match key.rsplit_once('.') {
            Some((norm, "weight")) if norm.ends_with("LayerNorm") => format!("{norm}.gamma"),
            Some((norm, "bias")) if norm.ends_with("LayerNorm") => format!("{norm}.beta"),
            _ => return key,
        };
        if self.checkpoint.contains(&old) && !self.checkpoint.contains(&key) { old } else { key }
    }

    pub fn has_pooler(&self) -> bool {
        self.checkpoint.contains(&self.of_encoder("pooler.dense.weight"))
    }

    /// Whether there is a trained classifier.
    pub fn has_classifier(&self) -> bool {
        self.checkpoint.keys().any(|key| key.starts_with("classifier."))
    }

    /// Fill a module; `key` as in [`Source`].
    pub fn load<M: Module>(&self, module: M, key: impl Fn(&str) -> Option<String>, device: &Device, dtype: Option<DType>) -> Result<M> {
        load::load(module, &Source { checkpoint: self.checkpoint, device, dtype, key: &key, ignore: &is_expected })
    }
}

/// Tensors that checkpoints hold for other heads than the one that is wanted, or that are computed.
fn is_expected(key: &str) -> bool {
    let heads = ["cls.", "lm_head.", "classifier."];
    let computed = ["embeddings.position_ids", "embeddings.token_type_ids"];
    heads.iter().any(|head| key.starts_with(head)) || computed.iter().any(|end| key.ends_with(end)) || key.contains("pooler.dense.")
}
