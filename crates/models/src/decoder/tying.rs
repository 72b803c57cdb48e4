//! Whether head and embedding are one weight: what a checkpoint stores decides, and what is written says so.

use super::causal_lm::CausalLm;
use super::config::DecoderConfig;
use crate::save::{dtype_name, stored_dtype, write_weights};
use burn::module::Param;
use burn::nn::LinearConfig;
use burn::tensor::DType;
use peft_core::files::{self, Checkpoint};
use peft_core::{Error, LanguageModel, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The key of the embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";
/// The key of the head.
pub(super) const HEAD: &str = "lm_head.weight";

/// How a checkpoint holds embedding and head.
pub(super) struct Tying {
    /// Whether they are one weight.
    pub tied: bool,
    /// The key that the embedding has; the head's where it alone is stored.
    embedding: &'static str,
}

impl Tying {
    /// As transformers decides: where the configuration ties them they are one weight, unless both are stored and differ.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one of them holds no floating-point numbers.
    pub fn of(config: &DecoderConfig, checkpoint: &Checkpoint) -> Result<Self> {
        let stored = |key| checkpoint.contains(key);
        Ok(match (config.tie_word_embeddings, stored(EMBEDDING), stored(HEAD)) {
            (true, true, true) => Self { tied: checkpoint.are_equal(EMBEDDING, HEAD)?, embedding: EMBEDDING },
            (true, false, true) => Self { tied: true, embedding: HEAD },
            (tied, ..) => Self { tied, embedding: EMBEDDING },
        })
    }

    /// The key of the parameter at a path of the model.
    pub fn key<'p>(&self, path: &'p str) -> &'p str {
        if path == EMBEDDING { self.embedding } else { path }
    }
}

impl DecoderConfig {
    /// The configuration with what `checkpoint` says of head and embedding: whether they are one weight.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one of them holds no floating-point numbers.
    pub fn as_stored(self, checkpoint: &Checkpoint) -> Result<Self> {
        let tied = Tying::of(&self, checkpoint)?.tied;
        Ok(Self { tie_word_embeddings: tied, ..self })
    }
}

impl CausalLm {
    /// Whether the head is the transposed embedding.
    pub fn is_tied(&self) -> bool {
        self.lm_head.is_none()
    }

    /// The same model with a head of its own, which begins as the stored embedding and shares its memory: for changes of one of the two.
    pub fn untie(mut self) -> Self {
        if !self.is_tied() {
            return self;
        }
        let embedding = &self.model.embed_tokens.weight;
        let (table, trained) = (embedding.base().detach(), embedding.is_require_grad());
        let [vocab, d] = table.dims();
        let mut head = LinearConfig::new(d, vocab).with_bias(false).init(&table.device());
        head.weight = Param::initialized(head.weight.id, table.transpose()).set_require_grad(trained);
        self.lm_head = Some(head);
        self.model.config_mut().tie_word_embeddings = false;
        self
    }

    /// Write the weights into the existing directory `dir`, and the `config.json` of the checkpoint `base`, which this model comes from,
    /// with what is true of the result: whether the head is tied, the number of tokens, and the type. Returns the bytes of the weights.
    ///
    /// `dtype` is the type of all weights; without it each has the type that it has in `base`. Adapters must be merged to be part of them.
    ///
    /// # Errors
    /// Those of [`write_weights`]; [`Error::Io`] and [`Error::File`] if `base` cannot be read.
    pub fn save(&self, dir: impl AsRef<Path>, base: impl AsRef<Path>, dtype: Option<DType>, max_shard_bytes: u64) -> Result<u64> {
        let (dir, base) = (dir.as_ref(), base.as_ref());
        let checkpoint = Checkpoint::open(base)?;
        // A model whose head has been untied has one that its base does not store, or the other way round.
        let stored = |key: &str| match key {
            HEAD | EMBEDDING => [key, HEAD, EMBEDDING].into_iter().find_map(|key| checkpoint.info(key)),
            _ => checkpoint.info(key),
        };
        let bytes = write_weights(self, dir, |key| dtype.unwrap_or_else(|| stored_dtype(stored(key))), max_shard_bytes)?;
        let mut config: Map<String, Value> = files::read_json(&base.join("config.json"))?;
        if self.config().tie_word_embeddings || config.contains_key("tie_word_embeddings") {
            config.insert("tie_word_embeddings".into(), self.is_tied().into());
        }
        config.insert("vocab_size".into(), self.vocab_size().into());
        if let Some(dtype) = dtype {
            let key = if config.contains_key("torch_dtype") && !config.contains_key("dtype") { "torch_dtype" } else { "dtype" };
            config.insert(key.into(), dtype_name(dtype).into());
        }
        let file = dir.join("config.json");
        let text = serde_json::to_string_pretty(&config).map_err(|e| Error::file(&file, e))?;
        files::write_atomic(&file, format!("{text}\n").as_bytes())?;
        Ok(bytes)
    }
}
