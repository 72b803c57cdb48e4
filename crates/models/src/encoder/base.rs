//! An encoder without a head.

use super::config::EncoderConfig;
use super::embeddings::Embeddings;
use super::keys::Keys;
use super::layer::{Layer, Layers};
use super::named::named_module;
use super::save;
use super::sentence::{Pooling, SentenceConfig};
use crate::load;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::tanh;
use burn::tensor::{DType, Device, Tensor};
use peft_core::files::Checkpoint;
use peft_core::ops::Visible;
use peft_core::{Port, Project, Result, Texts, ops};
use std::path::Path;
use std::sync::Arc;

/// Embeddings, blocks and, where the checkpoint has one, the pooler.
#[derive(Module, Debug)]
pub struct Encoder {
    /// From token ids to hidden states.
    pub embeddings: Embeddings,
    /// On the embedded tokens.
    pub embed_output: Port,
    /// The blocks.
    pub encoder: Layers,
    /// What classifiers of BERT read.
    pub pooler: Option<Pooler>,
    #[module(skip)]
    config: Arc<EncoderConfig>,
    /// Whether blocks are computed again in the backward pass.
    pub(super) recompute: bool,
}

/// An encoder that is part of a model whose head is left out: its parameters have the paths that they have there.
#[derive(Clone, Debug)]
pub struct UnderHead {
    /// The encoder; `bert` or `roberta` in a checkpoint.
    pub encoder: Encoder,
}

named_module!(UnderHead { encoder: |model| model.encoder.config().family.prefix() });

/// The first token's hidden state through a layer of its own.
#[derive(Module, Debug)]
pub struct Pooler {
    /// `[d, d]`.
    pub dense: Linear,
}

impl Encoder {
    /// Read a checkpoint directory: `config.json` and safetensors, of an encoder alone or of one under any head. The parameters are frozen.
    ///
    /// `dtype` converts the weights; without it they keep the type of the file. Activations are f32 in either case.
    ///
    /// # Errors
    /// For a `config.json` that is missing, malformed, absurd or of another architecture, and for tensors that are missing or do not
    /// have the shape that the configuration says. Nothing is allocated before both have been checked.
    pub fn load(dir: impl AsRef<Path>, device: &Device, dtype: Option<DType>) -> Result<Self> {
        let config = EncoderConfig::read(&dir)?;
        Self::from_checkpoint(config, &Checkpoint::open(dir.as_ref())?, device, dtype)
    }

    /// Read the weights of `config` from a checkpoint; see [`load`](Self::load).
    ///
    /// # Errors
    /// For tensors that are missing or do not have the shape that the configuration says.
    pub fn from_checkpoint(config: EncoderConfig, checkpoint: &Checkpoint, device: &Device, dtype: Option<DType>) -> Result<Self> {
        let keys = Keys::new(checkpoint, config.family);
        keys.load(Self::lazy(&Arc::new(config), keys.has_pooler(), device), device, dtype)
    }

    /// An encoder with random weights, trainable: normal with deviation `initializer_range`, the same on every device for the same seed.
    pub fn init(config: EncoderConfig, device: &Device, seed: u64) -> Self {
        let std = config.initializer_range;
        load::randomize(Self::lazy(&Arc::new(config), true, device), std, seed, device, |_| true)
    }

    /// The configuration.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The hidden states behind the last block, `[b, s, d]`. What stands at padding has no meaning.
    ///
    /// # Panics
    /// If a row is longer than [`EncoderConfig::max_tokens`].
    pub fn forward(&self, texts: &Texts) -> Tensor<3> {
        let (tokens, max) = (texts.ids.dims()[1], self.config.max_tokens());
        assert!(tokens <= max, "a row of {tokens} tokens for an encoder of at most {max}");
        let visible = Visible::padded(&texts.lengths, tokens);
        let x = self.embed_output.apply(self.embeddings.forward(texts));
        self.encoder.layer.iter().fold(x, |x, layer| match self.recompute {
            false => layer.forward(x, &visible),
            true => {
                let visible = visible.clone();
                ops::recomputed(layer, x, move |layer, x| layer.forward(x, &visible))
            }
        })
    }

    /// What the pooler makes of hidden states `[b, s, d]`: `[b, d]`; nothing if the checkpoint has no pooler.
    pub fn pooled(&self, hidden: Tensor<3>) -> Option<Tensor<2>> {
        self.pooler.as_ref().map(|pooler| tanh(pooler.dense.project(first_token(hidden))))
    }

    /// One vector for each text, `[b, d]`, as sentence-transformers computes it.
    pub fn embed(&self, texts: &Texts, config: &SentenceConfig) -> Tensor<2> {
        let hidden = self.forward(texts);
        let pooled = match config.pooling {
            Pooling::Cls => first_token(hidden),
            Pooling::Mean => {
                let mask = texts.mask().unsqueeze_dim::<3>(2);
                let sum: Tensor<2> = (hidden * mask.clone()).sum_dim(1).squeeze_dim(1);
                sum / mask.sum_dim(1).squeeze_dim::<2>(1)
            }
        };
        match config.normalize {
            true => pooled.clone() / pooled.square().sum_dim(1).sqrt().clamp_min(1e-12),
            false => pooled,
        }
    }

    /// Write `config.json` and the weights, in type `dtype`, into the existing directory `dir`, as transformers reads them. Adapters
    /// must be merged to be part of them. Returns the bytes of the weights.
    ///
    /// # Errors
    /// Those of [`write_weights`](crate::write_weights).
    pub fn save(&self, dir: impl AsRef<Path>, dtype: DType) -> Result<u64> {
        save::save(self, &self.config, "Model", dir.as_ref(), dtype)
    }

    pub(super) fn lazy(config: &Arc<EncoderConfig>, pooler: bool, device: &Device) -> Self {
        let square = LinearConfig::new(config.hidden_size, config.hidden_size);
        Self {
            embeddings: Embeddings::new(config, device),
            embed_output: Port::new(),
            encoder: Layers { layer: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect() },
            pooler: pooler.then(|| Pooler { dense: square.init(device) }),
            config: config.clone(),
            recompute: false,
        }
    }
}

/// `[b, s, d]` to `[b, d]`.
pub(super) fn first_token(hidden: Tensor<3>) -> Tensor<2> {
    hidden.slice_dim(1, 0..1).squeeze_dim(1)
}
