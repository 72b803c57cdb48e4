//! Writing an encoder as transformers does.

use super::base::{Encoder, UnderHead};
use super::classifier::SequenceClassifier;
use super::config::EncoderConfig;
use super::keys::Keys;
use super::tokens::TokenClassifier;
use crate::save::{dtype_name, stored_dtype, weights, write_weights};
use burn::module::Module;
use burn::tensor::DType;
use peft_core::files::{Checkpoint, TensorSource, pytorch_metadata, write_checkpoint};
use peft_core::{Error, Result, files, visit_slots};
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;

/// The path of the word embeddings inside an encoder.
const EMBEDDING: &str = "embeddings.word_embeddings.weight";

/// Write `config.json`, for an encoder under `head`, and the weights in one file; gives the bytes of the weights.
pub(super) fn save<M: Module>(model: &M, config: &EncoderConfig, head: &str, dir: &Path, dtype: DType) -> Result<u64> {
    let bytes = write_weights(model, dir, |_| dtype, u64::MAX)?;
    let mut json = config.to_json(head);
    if let Some(object) = json.as_object_mut() {
        object.shift_remove("torch_dtype");
        object.insert("dtype".into(), dtype_name(dtype).into());
    }
    write_config(dir, &json)?;
    Ok(bytes)
}

fn write_config(dir: &Path, json: &Value) -> Result<()> {
    let file = dir.join("config.json");
    let text = serde_json::to_string_pretty(json).map_err(|e| Error::file(&file, e))?;
    files::write_atomic(&file, format!("{text}\n").as_bytes())
}

impl Encoder {
    /// Write the weights into the existing directory `dir` under the names and in the types that they have in the checkpoint `base`, which
    /// this encoder comes from, with what else is stored there, such as a head; and its `config.json`. Adapters must be merged to be part
    /// of them. Returns the bytes of the weights.
    ///
    /// # Errors
    /// Those of [`write_weights`]; [`Error::Io`] and [`Error::File`] if `base` cannot be read.
    pub fn save_like(&self, dir: impl AsRef<Path>, base: impl AsRef<Path>, max_shard_bytes: u64) -> Result<u64> {
        Like { model: self, config: self.config(), head: "" }.write(dir.as_ref(), base.as_ref(), max_shard_bytes)
    }
}

impl UnderHead {
    /// As [`Encoder::save_like`].
    ///
    /// # Errors
    /// Those of [`Encoder::save_like`].
    pub fn save_like(&self, dir: impl AsRef<Path>, base: impl AsRef<Path>, max_shard_bytes: u64) -> Result<u64> {
        Like { model: self, config: self.encoder.config(), head: "" }.write(dir.as_ref(), base.as_ref(), max_shard_bytes)
    }
}

impl SequenceClassifier {
    /// As [`Encoder::save_like`]; a classifier that `base` does not have takes the place of the head that is stored there.
    ///
    /// # Errors
    /// Those of [`Encoder::save_like`].
    pub fn save_like(&self, dir: impl AsRef<Path>, base: impl AsRef<Path>, max_shard_bytes: u64) -> Result<u64> {
        let head = "ForSequenceClassification";
        Like { model: self, config: self.config(), head }.write(dir.as_ref(), base.as_ref(), max_shard_bytes)
    }
}

impl TokenClassifier {
    /// As [`SequenceClassifier::save_like`].
    ///
    /// # Errors
    /// Those of [`Encoder::save_like`].
    pub fn save_like(&self, dir: impl AsRef<Path>, base: impl AsRef<Path>, max_shard_bytes: u64) -> Result<u64> {
        let head = "ForTokenClassification";
        Like { model: self, config: self.config(), head }.write(dir.as_ref(), base.as_ref(), max_shard_bytes)
    }
}

/// A model that is to be written like the checkpoint it comes from.
struct Like<'a, M> {
    model: &'a M,
    config: &'a EncoderConfig,
    /// What the name of its architecture ends with; nothing for an encoder without a head.
    head: &'static str,
}

impl<M: Module> Like<'_, M> {
    fn write(&self, dir: &Path, base: &Path, max_shard_bytes: u64) -> Result<u64> {
        let (checkpoint, mut json) = (Checkpoint::open(base)?, files::read_json::<Value>(&base.join("config.json"))?);
        let keys = Keys::new(&checkpoint, self.config.family);
        let embedding = keys.of_encoder(EMBEDDING);
        let stored = |path: &str| match keys.inside(path) {
            Some(inside) => keys.of_encoder(inside),
            None if self.head.is_empty() => keys.of_encoder(path),
            None => path.to_string(),
        };
        let dtype = |path: &str| stored_dtype(checkpoint.info(&stored(path)).or(checkpoint.info(&embedding)));
        let mut tensors = weights(self.model, dtype)?;
        match self.has_head(&EncoderConfig::read(base)?, &json) {
            false => json = self.config.to_json(self.head),
            true => {
                tensors.iter_mut().for_each(|tensor| tensor.name = stored(&tensor.name));
                let written: HashSet<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
                for key in checkpoint.keys().filter(|key| !written.contains(*key)) {
                    tensors.push(TensorSource::from_checkpoint(&checkpoint, key)?);
                }
                if let Some(head) = self.untied_head(&checkpoint).filter(|_| json["tie_word_embeddings"] != false) {
                    for (name, from) in [("decoder.weight", embedding.clone()), ("decoder.bias", format!("{head}bias"))] {
                        let name = format!("{head}{name}");
                        if !checkpoint.contains(&name) && checkpoint.contains(&from) {
                            tensors.push(TensorSource { name, ..TensorSource::from_checkpoint(&checkpoint, &from)? });
                        }
                    }
                    json["tie_word_embeddings"] = false.into();
                }
            }
        }
        if let Some(rows) = tensors.iter().find(|tensor| tensor.name.ends_with(EMBEDDING)).and_then(|tensor| tensor.info.shape.first()) {
            json["vocab_size"] = (*rows).into();
        }
        let bytes = write_checkpoint(dir, tensors, max_shard_bytes, &pytorch_metadata())?;
        write_config(dir, &json)?;
        Ok(bytes)
    }

    /// Whether the base, of this configuration, has the head that the model has.
    fn has_head(&self, base: &EncoderConfig, json: &Value) -> bool {
        let name = format!("{}{}", base.family.class(), self.head);
        self.head.is_empty() || (json["architectures"][0] == name && base.labels == self.config.labels)
    }

    /// What stands before the names of a head over the vocabulary that shares the embedding's weight, if an adapter has changed that: the
    /// head stays as it was.
    fn untied_head(&self, checkpoint: &Checkpoint) -> Option<&'static str> {
        let mut changed = false;
        visit_slots(self.model, |path, slot| changed |= path.ends_with(EMBEDDING) && slot.is_merged());
        let head = ["cls.predictions.", "lm_head."].into_iter().find(|head| checkpoint.keys().any(|key| key.starts_with(head)));
        head.filter(|_| changed)
    }
}
