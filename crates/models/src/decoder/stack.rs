//! Embedding, blocks and final normalisation.

use super::attention::{Past, Place};
use super::block::DecoderLayer;
use super::cache::KvCache;
use super::config::DecoderConfig;
use super::norm::RmsNorm;
use super::rotary::{Rotary, Rotation};
use super::span::Spans;
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Device, Int, Tensor};
use peft_core::{Lookup, Packed, Port, ops};
use std::sync::Arc;

/// A decoder without its head.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embeddings `[vocab, d]`.
    pub embed_tokens: Embedding,
    /// On the embedded tokens.
    pub embed_output: Port,
    /// The blocks.
    pub layers: Vec<DecoderLayer>,
    /// Before the head.
    pub norm: RmsNorm,
    #[module(skip)]
    rotary: Rotary,
    #[module(skip)]
    config: Arc<DecoderConfig>,
    /// Whether blocks are computed again in the backward pass.
    pub(super) recompute: bool,
}

impl Decoder {
    pub(super) fn new(config: &Arc<DecoderConfig>, device: &Device) -> Self {
        let layer = |windowed: &bool| DecoderLayer::new(config, *windowed, device);
        Self {
            embed_tokens: EmbeddingConfig::new(config.vocab_size, config.hidden_size).init(device),
            embed_output: Port::new(),
            layers: config.windowed.iter().map(layer).collect(),
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps, device),
            rotary: Rotary::new(&config.rope, config.head_dim),
            config: config.clone(),
            recompute: false,
        }
    }

    pub(super) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub(super) fn config_mut(&mut self) -> &mut DecoderConfig {
        Arc::make_mut(&mut self.config)
    }

    /// Final hidden states `[b, s, d]` of `ids: [b, s]`, after the tokens in `cache` if there is one.
    pub(super) fn forward(&self, ids: Tensor<2, Int>, cache: Option<&mut KvCache>) -> Tensor<3> {
        let tokens = ids.dims()[1];
        let len = cache.as_ref().map_or(0, |cache| cache.len());
        let end = len + tokens;
        let room = cache.as_ref().map_or(0, |cache| cache.room(end));
        let mut x = self.embed_output.apply(self.embed_tokens.lookup(ids));
        let device = x.device();
        let rotation = self.rotary.positions(len, end, &device);
        let spans = Spans::new(&self.config, len, end, cache.as_ref().map_or(&[], |cache| cache.padding()));
        let Some(cache) = cache else {
            return self.norm.forward(self.blocks(x, &rotation, &spans));
        };
        for (index, layer) in self.layers.iter().enumerate() {
            let past = Some(Past { cache: &mut cache.layers[index], len, room });
            x = layer.forward(x, Place { rotation: &rotation, span: spans.of(layer.windowed), past });
        }
        cache.advance(tokens);
        self.norm.forward(x)
    }

    /// Final hidden states `[b, s, d]` of `ids: [b, s]` whose rows hold several sequences.
    pub(super) fn packed(&self, ids: Tensor<2, Int>, packed: &Packed) -> Tensor<3> {
        let seq = ids.dims()[1];
        let x = self.embed_output.apply(self.embed_tokens.lookup(ids));
        let rotation = self.rotary.packed(packed, seq, &x.device());
        let spans = Spans::packed(&self.config, packed, seq);
        self.norm.forward(self.blocks(x, &rotation, &spans))
    }

    /// All blocks, without a cache.
    fn blocks(&self, x: Tensor<3>, rotation: &Rotation, spans: &Spans) -> Tensor<3> {
        self.layers.iter().fold(x, |x, layer| {
            let span = spans.of(layer.windowed);
            if !self.recompute {
                return layer.forward(x, Place { rotation, span, past: None });
            }
            let (rotation, span) = (rotation.clone(), span.clone());
            ops::recomputed(layer, x, move |layer, x| layer.forward(x, Place { rotation: &rotation, span: &span, past: None }))
        })
    }
}
