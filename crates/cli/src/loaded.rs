//! A model of any supported kind: what a checkpoint and its adapter say that it is, and how it is written.

use crate::loading::{attach, load_adapted};
use burn::tensor::{DType, Device};
use peft_core::files::{Checkpoint, read_json};
use peft_core::{CONFIG_FILE, Error, Result, TENSOR_FILE, hf, merge, visit_slots};
use peft_merge::compeft::Expert;
use peft_models::encoder::{EncoderConfig, Family, SequenceClassifier, TokenClassifier, UnderHead};
use peft_models::{CausalLm, Encoder};
use serde_json::Value;
use std::path::Path;

/// The names of the labels beside an adapter, whose base knows nothing of them.
pub const LABELS_FILE: &str = "labels.json";

/// A model with its adapter active.
pub enum Loaded {
    /// A decoder with its head.
    Decoder(CausalLm),
    /// An encoder that labels texts.
    Texts(SequenceClassifier),
    /// An encoder that labels tokens.
    Tokens(TokenClassifier),
    /// An encoder without a head.
    Encoder(Encoder),
    /// An encoder under a head that is left as it is.
    UnderHead(UnderHead),
}

impl Loaded {
    /// The model in `base` with the adapter in the directory or compressed file `adapter`.
    ///
    /// Which head an encoder has, the adapter says; where it says nothing, the checkpoint does.
    pub fn read(base: &Path, adapter: Option<&Path>, device: &Device, dtype: Option<DType>) -> Result<Self> {
        if !peft_models::is_encoder(base) {
            return Ok(Self::Decoder(load_adapted(base, adapter, device, dtype)?));
        }
        let config = EncoderConfig::read(base)?;
        let checkpoint = Checkpoint::open(base)?;
        let head = adapter.map(Head::read).transpose()?.unwrap_or_default();
        let of_tokens = config.is_for_tokens();
        match head.task.as_deref() {
            Some("TOKEN_CLS") => Self::tokens(config, &checkpoint, adapter, &head, device, dtype),
            Some("SEQ_CLS") => Ok(Self::Texts(texts(config, &checkpoint, adapter, &head, device, dtype)?)),
            // The paths of the adapter are those of an encoder without a head.
            _ if head.alone => Ok(Self::Encoder(adapted(Encoder::from_checkpoint(config, &checkpoint, device, dtype)?, adapter)?)),
            _ if of_tokens && (head.outputs.is_some() || checkpoint.contains("classifier.weight")) => {
                Self::tokens(config, &checkpoint, adapter, &head, device, dtype)
            }
            _ if head.outputs.is_some() || SequenceClassifier::is_in(&checkpoint) => {
                Ok(Self::Texts(texts(config, &checkpoint, adapter, &head, device, dtype)?))
            }
            _ => {
                let encoder = Encoder::from_checkpoint(config, &checkpoint, device, dtype)?;
                Ok(Self::UnderHead(adapted(UnderHead { encoder }, adapter)?))
            }
        }
    }

    fn tokens(
        config: EncoderConfig,
        checkpoint: &Checkpoint,
        adapter: Option<&Path>,
        head: &Head,
        device: &Device,
        dtype: Option<DType>,
    ) -> Result<Self> {
        let (config, new) = head.labelled(config);
        Ok(Self::Tokens(adapted(TokenClassifier::from_checkpoint(config, checkpoint, new, device, dtype)?, adapter)?))
    }

    /// The model with its adapter in its weights.
    ///
    /// # Errors
    /// Those of [`merge`].
    pub fn merged(self) -> Result<Self> {
        Ok(match self {
            Self::Decoder(model) => {
                let mut embedding_changes = false;
                let see = |path: &str| path.ends_with("embed_tokens.weight");
                visit_slots(&model, |path, slot| embedding_changes |= see(path) && slot.active().next().is_some());
                // A change of the embedding is none of the head, which shares the weight without it.
                Self::Decoder(merge(if embedding_changes { model.untie() } else { model })?)
            }
            Self::Texts(model) => Self::Texts(merge(model)?),
            Self::Tokens(model) => Self::Tokens(merge(model)?),
            Self::Encoder(model) => Self::Encoder(merge(model)?),
            Self::UnderHead(model) => Self::UnderHead(merge(model)?),
        })
    }

    /// Write weights and `config.json` into the existing directory `dir`, with the names and types of `base`; the bytes of the weights.
    pub fn save(&self, dir: &Path, base: &Path, max_shard_bytes: u64) -> Result<u64> {
        match self {
            Self::Decoder(model) => model.save(dir, base, None, max_shard_bytes),
            Self::Texts(model) => model.save_like(dir, base, max_shard_bytes),
            Self::Tokens(model) => model.save_like(dir, base, max_shard_bytes),
            Self::Encoder(model) => model.save_like(dir, base, max_shard_bytes),
            Self::UnderHead(model) => model.save_like(dir, base, max_shard_bytes),
        }
    }
}

/// The encoder in `base` that labels texts, with its adapter active.
pub fn text_classifier(base: &Path, adapter: Option<&Path>, device: &Device, dtype: Option<DType>) -> Result<SequenceClassifier> {
    let head = adapter.map(Head::read).transpose()?.unwrap_or_default();
    texts(EncoderConfig::read(base)?, &Checkpoint::open(base)?, adapter, &head, device, dtype)
}

fn texts(
    config: EncoderConfig,
    checkpoint: &Checkpoint,
    adapter: Option<&Path>,
    head: &Head,
    device: &Device,
    dtype: Option<DType>,
) -> Result<SequenceClassifier> {
    let (config, new) = head.labelled(config);
    let pooler = checkpoint.keys().any(|key| key.ends_with("pooler.dense.weight"));
    if let (true, Some(adapter)) = (new.is_some() && config.family == Family::Bert && !pooler && !head.pooler, adapter) {
        let reason =
            format!("holds a classifier that reads BERT's pooler, but neither this adapter nor {} has one", checkpoint.path().display());
        return Err(Error::file(adapter, reason));
    }
    adapted(SequenceClassifier::from_checkpoint(config, checkpoint, new, device, dtype)?, adapter)
}

fn adapted<M: burn::module::Module>(model: M, adapter: Option<&Path>) -> Result<M> {
    match adapter {
        Some(adapter) => attach(model, adapter),
        None => Ok(model),
    }
}

/// What an adapter says of the head that it was trained with.
#[derive(Default)]
struct Head {
    /// `task_type` of its configuration.
    task: Option<String>,
    /// The labels that this program writes beside an adapter.
    labels: Option<Vec<String>>,
    /// The number of outputs of the classifier that it holds.
    outputs: Option<usize>,
    /// Whether it holds a pooler.
    pooler: bool,
    /// Whether its tensors have the paths of an encoder without a head.
    alone: bool,
}

impl Head {
    fn read(adapter: &Path) -> Result<Self> {
        if !adapter.is_file() {
            let config: Value = read_json(&adapter.join(CONFIG_FILE))?;
            let labels = adapter.join(LABELS_FILE);
            let labels = labels.exists().then(|| read_json(&labels)).transpose()?;
            let file = Checkpoint::open_file(&adapter.join(TENSOR_FILE))?;
            let shapes: Vec<_> = file.keys().filter_map(|key| Some((key, file.info(key)?.shape.as_slice()))).collect();
            return Ok(Self::of(&config, labels, &shapes));
        }
        let mut expert = Expert::read(adapter)?;
        let labels = expert.files.remove(LABELS_FILE);
        let labels = labels.map(|labels| serde_json::from_value(labels).map_err(|e| Error::file(adapter, e))).transpose()?;
        let config = expert.files.remove(CONFIG_FILE).unwrap_or_default();
        let shapes: Vec<_> = expert.entries.iter().map(|entry| (entry.name.as_str(), entry.info.shape.as_slice())).collect();
        Ok(Self::of(&config, labels, &shapes))
    }

    fn of(config: &Value, labels: Option<Vec<String>>, tensors: &[(&str, &[usize])]) -> Self {
        let classifier = ["classifier.weight", "classifier.out_proj.weight"].map(|name| format!("base_model.model.{name}"));
        let without = ["encoder.", "embeddings."].map(|name| format!("base_model.model.{name}"));
        let named = |key: &str| hf::Key::parse(key).is_some_and(|key| classifier.contains(&key.canonical()));
        let outputs = tensors.iter().find(|(key, _)| named(key)).and_then(|(_, shape)| shape.first());
        Self {
            task: config["task_type"].as_str().map(String::from),
            labels,
            outputs: outputs.copied(),
            pooler: tensors.iter().any(|(key, _)| key.ends_with("pooler.dense.weight")),
            alone: tensors.iter().any(|(key, _)| without.iter().any(|name| key.starts_with(name))),
        }
    }

    /// The configuration with the labels of this head, and the seed of a new classifier where the adapter holds what takes its place.
    fn labelled(&self, config: EncoderConfig) -> (EncoderConfig, Option<u64>) {
        match (&self.labels, self.outputs) {
            (Some(labels), _) => (config.with_labels(labels.clone()), Some(0)),
            (None, Some(outputs)) if outputs == config.labels.len() => (config, Some(0)),
            (None, Some(outputs)) => (config.with_labels((0..outputs).map(|id| format!("LABEL_{id}"))), Some(0)),
            (None, None) => (config, None),
        }
    }
}
