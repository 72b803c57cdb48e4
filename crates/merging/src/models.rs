//! The models of a recipe, opened.

use crate::adapters::Lora;
use crate::changes::Changes;
use crate::layers::Layers;
use crate::recipe::ModelRef;
use crate::source::{Numbers, Stored};
use crate::tokenizer::Tokenizer;
use peft_core::files::{Checkpoint, TensorInfo, TextFiles, read_json};
use peft_core::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A checkpoint that takes part in a merge.
#[derive(Debug)]
pub struct Model {
    /// How the recipe calls it.
    pub name: ModelRef,
    /// Its directory.
    pub dir: PathBuf,
    /// Its weights.
    pub checkpoint: Checkpoint,
    /// Its weights by layer.
    pub layers: Layers,
    /// Its `config.json`; null if there is none.
    pub config: Value,
    /// Its vocabulary; `None` if it has no `tokenizer.json`.
    pub tokenizer: Option<Tokenizer>,
    /// What the adapter that the recipe names beside it makes of its weights.
    pub(crate) changes: Option<Changes>,
}

/// Where a model of a recipe lies.
#[derive(Clone, Debug)]
pub struct ModelDir {
    /// The directory of the checkpoint.
    pub model: PathBuf,
    /// The directory or compressed file of the adapter to put into it.
    pub adapter: Option<PathBuf>,
}

/// The heads that may share the embedding's weight.
const HEADS: [&str; 3] = ["lm_head.weight", "embed_out.weight", "output_layer.weight"];
/// The embeddings that they share.
const EMBEDDINGS: [&str; 6] =
    ["embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight", "shared.weight"];
/// Weights with a row for each token, besides.
const TOKEN_BIASES: [&str; 3] = ["lm_head.bias", "cls.predictions.bias", "vocab_projector.bias"];
const TOKEN_HEADS: [&str; 3] = ["lm_head.decoder.weight", "cls.predictions.decoder.weight", "vocab_projector.weight"];

/// Whether a weight has a row for each token.
pub fn is_by_token(key: &str) -> bool {
    HEADS.iter().chain(&EMBEDDINGS).chain(&TOKEN_BIASES).chain(&TOKEN_HEADS).any(|name| ends_with_name(key, name))
}

/// Whether a weight is the head of a language model.
pub fn is_head(key: &str) -> bool {
    HEADS.iter().any(|name| ends_with_name(key, name))
}

fn ends_with_name(key: &str, name: &str) -> bool {
    key.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Model {
    /// Opens the checkpoint at `place`, and the adapter if there is one.
    ///
    /// # Errors
    /// Whatever [`Checkpoint::open`] says; [`Error::File`] for a `config.json` or `tokenizer.json` that cannot be understood; whatever
    /// [`Lora::open`] says, and [`Error::AdapterFile`] for an adapter that does not fit.
    pub fn open(name: ModelRef, place: &ModelDir) -> Result<Self> {
        let dir = place.model.as_path();
        let checkpoint = Checkpoint::open(dir)?;
        let layers = Layers::of(checkpoint.keys());
        let file = dir.join("config.json");
        let config = if file.exists() { read_json(&file)? } else { Value::Null };
        let tokenizer = Tokenizer::read(TextFiles::of(dir, place.adapter.as_deref()).vocabulary())?;
        let adapter = place.adapter.as_deref().map(|path| Lora::open(&name.to_string(), path)).transpose()?;
        let changes = adapter.map(|adapter| Changes::new(adapter, &checkpoint, &config)).transpose()?;
        Ok(Self { name, dir: dir.into(), checkpoint, layers, config, tokenizer, changes })
    }

    /// Its tokenizer and chat template: its adapter's where that has some.
    pub fn texts(&self) -> TextFiles<'_> {
        TextFiles::of(&self.dir, self.changes.as_ref().map(Changes::path))
    }

    /// The numbers of a stored weight, with the adapter's change.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is none; [`Error::NonFinite`] for a tensor of the adapter that holds what is no number.
    pub fn numbers<'a>(&'a self, key: &str) -> Result<Numbers<'a>> {
        let stored = Stored { dtype: self.info(key)?.dtype, bytes: self.checkpoint.bytes(key)? };
        match &self.changes {
            Some(changes) => changes.apply(key, stored),
            None => Ok(Numbers::Stored(stored)),
        }
    }

    /// The key under which a weight is stored: its own, or the embedding's for a head that shares it.
    pub fn stored_key<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        if self.checkpoint.contains(key) {
            return Some(key);
        }
        is_head(key).then(|| self.embedding_key()).flatten()
    }

    /// The key of the embedding that a head may share.
    pub fn embedding_key(&self) -> Option<&str> {
        let embedding = |key: &&str| EMBEDDINGS.iter().any(|name| ends_with_name(key, name));
        self.checkpoint.keys().find(embedding)
    }

    /// Type and shape of a stored weight.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is none.
    pub fn info(&self, key: &str) -> Result<&TensorInfo> {
        self.checkpoint.info(key).ok_or_else(|| Error::Tensor {
            file: self.dir.clone(),
            key: key.into(),
            expected: "a tensor".into(),
            found: "nothing".into(),
        })
    }
}

/// Opens all models of a recipe, which lie where `dirs` says.
///
/// # Errors
/// As [`Model::open`]; [`Error::InvalidConfig`] for a model without a directory.
pub fn open_all(names: &[&ModelRef], dirs: &BTreeMap<ModelRef, ModelDir>) -> Result<Vec<Model>> {
    let open = |name: &&ModelRef| {
        let dir = dirs.get(*name).ok_or_else(|| Error::InvalidConfig(format!("no directory is given for {name}")))?;
        Model::open((*name).clone(), dir)
    };
    names.iter().map(open).collect()
}
