//! One block: attention, then feed-forward, each added to its input and normalised after.

use super::attention::Attention;
use super::config::EncoderConfig;
use super::named::named_module;
use super::norm::LayerNorm;
use crate::decoder::Activation;
use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use peft_core::ops::{self, Visible};
use peft_core::{Port, Project};

/// The blocks, one after the other.
#[derive(Module, Debug)]
pub struct Layers {
    /// The blocks.
    pub layer: Vec<Layer>,
}

/// A block of an encoder, with its ports.
#[derive(Module, Debug)]
pub struct Layer {
    /// Self-attention.
    pub attention: Attention,
    /// The wide half of feed-forward.
    pub intermediate: Intermediate,
    /// The other half.
    pub output: Output,
    /// On the heads' outputs side by side, before their projection.
    pub attn_heads: Port,
    /// On the output of attention, before it is added.
    pub attn_output: Port,
    /// On the output of feed-forward, before it is added.
    pub mlp_output: Port,
    /// On the output of the block.
    pub block_output: Port,
}

impl Layer {
    pub(super) fn new(config: &EncoderConfig, device: &Device) -> Self {
        let wide = LinearConfig::new(config.hidden_size, config.intermediate_size);
        Self {
            attention: Attention::new(config, device),
            intermediate: Intermediate { dense: wide.init(device), activation: config.activation },
            output: Output::new(config.intermediate_size, config, device),
            attn_heads: Port::new(),
            attn_output: Port::new(),
            mlp_output: Port::new(),
            block_output: Port::new(),
        }
    }

    /// `[b, s, d]` to `[b, s, d]`.
    pub(super) fn forward(&self, x: Tensor<3>, visible: &Visible) -> Tensor<3> {
        let x = self.attention.forward(x, visible, &self.attn_heads, &self.attn_output);
        let wide = self.intermediate.forward(x.clone());
        self.block_output.apply(self.output.forward(wide, x, &self.mlp_output))
    }
}

/// The half of feed-forward that widens.
#[derive(Module, Debug)]
pub struct Intermediate {
    /// `[d, inner]`.
    pub dense: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Intermediate {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.activation.apply(self.dense.project(x))
    }
}

/// A projection to the hidden size, added to what was before and normalised.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[inner, d]`.
    pub dense: Linear,
    /// Of the sum.
    pub layer_norm: LayerNorm,
    /// On the projection.
    pub dropout: Dropout,
}

named_module!(Output { dense: |_| "dense", layer_norm: |_| "LayerNorm", dropout: |_| "dropout" });

impl Output {
    pub(super) fn new(inner: usize, config: &EncoderConfig, device: &Device) -> Self {
        Self {
            dense: LinearConfig::new(inner, config.hidden_size).init(device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            dropout: DropoutConfig::new(config.hidden_dropout_prob).init(),
        }
    }

    /// `x: [b, s, inner]` and `before: [b, s, d]` to `[b, s, d]`.
    pub(super) fn forward(&self, x: Tensor<3>, before: Tensor<3>, port: &Port) -> Tensor<3> {
        let x = port.apply(ops::dropout(&self.dropout, self.dense.project(x)));
        self.layer_norm.forward(x + before)
    }
}
