//! How a checkpoint calls the tensors of an encoder.

use super::family::Family;
use crate::load::{self, Source};
use burn::module::Module;
use burn::tensor::{DType, Device};
use peft_core::files::Checkpoint;
use peft_core::{Error, Result};

/// The keys of one checkpoint: of an encoder alone, or of an encoder under a head.
pub(super) struct Keys<'a> {
    checkpoint: &'a Checkpoint,
    /// What a model with a head puts before the paths of its encoder: `bert.` or `roberta.`.
    head: String,
    /// What stands before the keys of the encoder: the same or nothing.
    prefix: String,
}

impl<'a> Keys<'a> {
    pub fn new(checkpoint: &'a Checkpoint, family: Family) -> Self {
        let head = format!("{}.", family.prefix());
        let used = checkpoint.keys().any(|key| key.starts_with(&head));
        let prefix = if used { head.clone() } else { String::new() };
        Self { checkpoint, head, prefix }
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

    /// The path inside the encoder of a parameter of a model with a head; nothing for one of the head.
    pub fn inside<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(&self.head)
    }

    pub fn has_pooler(&self) -> bool {
        self.checkpoint.contains(&self.of_encoder("pooler.dense.weight"))
    }

    /// Fill an encoder.
    pub fn load<M: Module>(&self, encoder: M, device: &Device, dtype: Option<DType>) -> Result<M> {
        self.fill(encoder, &|path| Some(self.of_encoder(path)), device, dtype)
    }

    /// Fill an encoder under a classifier. With a seed, the classifier is new and random with deviation `std`, and so is a pooler that the
    /// checkpoint does not have.
    pub fn load_under_head<M: Module>(&self, model: M, new: Option<u64>, std: f64, device: &Device, dtype: Option<DType>) -> Result<M> {
        let trained = has_classifier(self.checkpoint);
        let new_pooler = new.is_some() && !self.has_pooler();
        let key = |path: &str| match self.inside(path) {
            Some(inside) if new_pooler && inside.starts_with("pooler.") => None,
            Some(inside) => Some(self.of_encoder(inside)),
            None => new.is_none().then(|| path.to_string()),
        };
        match new {
            None if !trained => Err(Error::file(self.checkpoint.path(), NO_CLASSIFIER)),
            None => self.fill(model, &key, device, dtype),
            Some(seed) => {
                let model = self.fill(model, &key, device, dtype)?;
                Ok(load::randomize(model, std, seed, device, |path| key(path).is_none()))
            }
        }
    }

    fn fill<M: Module>(&self, module: M, key: &dyn Fn(&str) -> Option<String>, device: &Device, dtype: Option<DType>) -> Result<M> {
        load::load(module, &Source { checkpoint: self.checkpoint, device, dtype, key, ignore: &is_expected })
    }
}

/// Whether there is a trained classifier, of texts or of tokens.
fn has_classifier(checkpoint: &Checkpoint) -> bool {
    checkpoint.keys().any(|key| key.starts_with("classifier."))
}

const NO_CLASSIFIER: &str = "holds no classifier (no tensor `classifier.…`): it is an encoder alone; train a classifier (`peft finetune`), or give the adapter that holds it";

/// Tensors that checkpoints hold for other heads than the one that is wanted, or that are computed.
fn is_expected(key: &str) -> bool {
    let heads = ["cls.", "lm_head.", "classifier."];
    let computed = ["embeddings.position_ids", "embeddings.token_type_ids"];
    heads.iter().any(|head| key.starts_with(head)) || computed.iter().any(|end| key.ends_with(end)) || key.contains("pooler.dense.")
}
