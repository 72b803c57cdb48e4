//! A decoder with its head: a language model.

use super::cache::KvCache;
use super::config::DecoderConfig;
use super::stack::Decoder;
use super::tying::{HEAD, Tying};
use crate::load::{self, Source};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Int, Tensor};
use peft_core::files::Checkpoint;
use peft_core::{LanguageModel, Lookup, Packed, Project, Result, Slot};
use std::path::Path;
use std::sync::Arc;

/// A decoder that predicts the next token.
#[derive(Module, Debug)]
pub struct CausalLm {
    /// Everything below the head.
    pub model: Decoder,
    /// `[d, vocab]`; absent where the head is the transposed embedding.
    pub lm_head: Option<Linear>,
}

impl CausalLm {
    /// Read a checkpoint directory: `config.json` and safetensors, in one file or in shards. The parameters are frozen.
    ///
    /// `dtype` converts the weights; without it they keep the type of the file. Activations are f32 in either case.
    ///
    /// # Errors
    /// For a `config.json` that is missing, malformed, absurd or of another architecture, and for tensors that are missing or do not
    /// have the shape that the configuration says. Nothing is allocated before both have been checked.
    pub fn load(dir: impl AsRef<Path>, device: &Device, dtype: Option<DType>) -> Result<Self> {
        let config = DecoderConfig::read(&dir)?;
        let checkpoint = Checkpoint::open(dir.as_ref())?;
        Self::from_checkpoint(config, &checkpoint, device, dtype)
    }

    /// Read the weights of `config` from a checkpoint; see [`load`](Self::load).
    ///
    /// A configuration that ties head and embedding does not hold where the checkpoint stores another head: as in transformers, what is
    /// stored decides. Where only one of the two is stored, it serves as both.
    ///
    /// # Errors
    /// For tensors that are missing, hold what is no number or do not have the shape that the configuration says.
    pub fn from_checkpoint(config: DecoderConfig, checkpoint: &Checkpoint, device: &Device, dtype: Option<DType>) -> Result<Self> {
        let tying = Tying::of(&config, checkpoint)?;
        // Some exporters save what a model computes from its configuration, or a tied head a second time.
        let known = |key: &str| key.ends_with("rotary_emb.inv_freq") || (tying.tied && key == HEAD);
        let source = Source { checkpoint, device, dtype, key: &|path| Some(tying.key(path).into()), ignore: &known };
        load::load(Self::lazy(DecoderConfig { tie_word_embeddings: tying.tied, ..config }, device), &source)
    }

    /// A model with random weights, trainable: normal with deviation `initializer_range`, the same on every device for the same seed.
    pub fn init(config: DecoderConfig, device: &Device, seed: u64) -> Self {
        let std = config.initializer_range;
        load::randomize(Self::lazy(config, device), std, seed, device, |_| true)
    }

    /// A model with frozen random weights of type `dtype` that the device draws itself, without a copy on the host: for measurements.
    ///
    /// They lie in memory as those of a checkpoint do. Which numbers they are depends on the device and on its seed.
    pub fn random(config: DecoderConfig, device: &Device, dtype: DType) -> Self {
        let std = config.initializer_range;
        load::draw(Self::lazy(config, device), std, device, dtype)
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        self.model.config()
    }

    /// Whether the backward pass computes each block again instead of keeping what it computed (gradient checkpointing).
    pub fn gradient_checkpointing(mut self, recompute: bool) -> Self {
        self.model.recompute = recompute;
        self
    }

    /// Logits `[b, s, vocab]` of right-padded `ids: [b, s]`.
    pub fn logits(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let hidden = self.hidden(ids);
        let [b, s, d] = hidden.dims();
        self.head(hidden.reshape([b * s, d])).reshape([b, s, self.vocab_size()])
    }

    fn lazy(config: DecoderConfig, device: &Device) -> Self {
        let config = Arc::new(config);
        let head = LinearConfig::new(config.hidden_size, config.vocab_size).with_bias(false);
        Self { model: Decoder::new(&config, device), lm_head: (!config.tie_word_embeddings).then(|| head.init(device)) }
    }
}

impl LanguageModel for CausalLm {
    type Cache = KvCache;

    fn hidden(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.forward(ids, None)
    }

    fn hidden_packed(&self, ids: Tensor<2, Int>, packed: &Packed) -> Tensor<3> {
        self.model.packed(ids, packed)
    }

    fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.project(hidden),
            None => self.model.embed_tokens.unembed(hidden),
        }
    }

    fn head_weight(&self) -> Option<Tensor<2>> {
        match &self.lm_head {
            Some(head) => (head.bias.is_none() && head.weight.reparameterization::<Slot>().is_none()).then(|| head.weight.val()),
            None => Some(self.model.embed_tokens.weight.base().transpose()),
        }
    }

    fn cache(&self, padding: &[usize], capacity: usize) -> KvCache {
        KvCache::new(self.config().num_hidden_layers, padding, capacity)
    }

    fn step(&self, ids: Tensor<2, Int>, cache: &mut KvCache) -> Tensor<2> {
        let hidden = self.model.forward(ids, Some(cache));
        let [b, s, d] = hidden.dims();
        self.head(hidden.slice_dim(1, s - 1..s).reshape([b, d]))
    }

    fn vocab_size(&self) -> usize {
        // An adapter may have brought more tokens than the configuration has.
        self.model.embed_tokens.weight.base().dims()[0]
    }

    fn max_positions(&self) -> usize {
        self.config().max_position_embeddings
    }
}
