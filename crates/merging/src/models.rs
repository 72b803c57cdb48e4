//! The models of a recipe, opened.

use crate::adapters::Lora;
use crate::changes::Changes;
use crate::layers::{Layers, current_name};
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
    /// The key of a head that is a copy of the embedding to which the configuration ties it: one weight with it, as in transformers.
    copied_head: Option<String>,
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

/// Whether a weight is an embedding that a head may share.
pub fn is_embedding(key: &str) -> bool {
    EMBEDDINGS.iter().any(|name| ends_with_name(key, name))
}

/// Whether a configuration, or the part of it that is about the language model, ties the head to the embedding.
pub fn ties(config: &Value) -> bool {
    config["tie_word_embeddings"].as_bool().or(config["text_config"]["tie_word_embeddings"].as_bool()).unwrap_or(false)
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
        let copied_head = if ties(&config) { copied_head(&checkpoint)? } else { None };
        Ok(Self { name, dir: dir.into(), checkpoint, layers, config, tokenizer, changes, copied_head })
    }

    /// The keys of its weights; a head that is the embedding's copy is none of them.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.checkpoint.keys().filter(|key| self.copied_head.as_deref() != Some(*key))
    }

    /// Whether head and embedding are one weight.
    pub fn is_tied(&self) -> bool {
        ties(&self.config) && !(self.keys().any(is_head) && self.keys().any(is_embedding))
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

    /// The key under which a weight is stored: its own, or for one of head and embedding that is not stored, the other's.
    pub fn stored_key<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        if self.keys().any(|own| own == key) {
            return Some(key);
        }
        match is_head(key) {
            true => self.embedding_key(),
            false if is_embedding(key) && self.is_tied() => self.keys().find(|key| is_head(key)),
            false => self.keys().find(|own| current_name(own) == key),
        }
    }

    /// The key of the embedding that a head may share.
    pub fn embedding_key(&self) -> Option<&str> {
        self.keys().find(|key| is_embedding(key))
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

/// Whether head and embedding of a checkpoint are one weight: its configuration ties them, and it does not store two that differ.
pub fn is_tied(checkpoint: &Checkpoint, config: &Value) -> Result<bool> {
    let both = || checkpoint.keys().any(is_head) && checkpoint.keys().any(is_embedding);
    Ok(ties(config) && (!both() || copied_head(checkpoint)?.is_some()))
}

/// The key of a head that holds the same numbers as the embedding.
fn copied_head(checkpoint: &Checkpoint) -> Result<Option<String>> {
    let find = |wanted: fn(&str) -> bool| checkpoint.keys().find(|key| wanted(key));
    let (Some(head), Some(embedding)) = (find(is_head), find(is_embedding)) else { return Ok(None) };
    Ok(checkpoint.are_equal(head, embedding)?.then(|| head.to_owned()))
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
