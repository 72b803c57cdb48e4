//! Self-attention in both directions.

use super::config::EncoderConfig;
use super::layer::Output;
use super::named::named_module;
use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use peft_core::ops::{self, Visible};
use peft_core::{Port, Project};

/// Attention with what follows it.
#[derive(Clone, Debug)]
pub struct Attention {
    /// The heads, `self` in a checkpoint.
    pub heads: SelfAttention,
    /// Their projection, added to the input and normalised.
    pub output: Output,
}

named_module!(Attention { heads: |_| "self", output: |_| "output" });

impl Attention {
    pub(super) fn new(config: &EncoderConfig, device: &Device) -> Self {
        Self { heads: SelfAttention::new(config, device), output: Output::new(config.hidden_size, config, device) }
    }

    /// `[b, s, d]` to `[b, s, d]`.
    pub(super) fn forward(&self, x: Tensor<3>, visible: &Visible, heads: &Port, output: &Port) -> Tensor<3> {
        let read = heads.apply(self.heads.forward(x.clone(), visible));
        self.output.forward(read, x, output)
    }
}

/// Queries, keys and values of every head (Vaswani et al., 2017, arXiv:1706.03762).
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// `[d, d]`.
    pub query: Linear,
    /// `[d, d]`.
    pub key: Linear,
    /// `[d, d]`.
    pub value: Linear,
    /// On the attention weights.
    pub dropout: Dropout,
    heads: usize,
}

impl SelfAttention {
    fn new(config: &EncoderConfig, device: &Device) -> Self {
        let linear = || LinearConfig::new(config.hidden_size, config.hidden_size).init(device);
        Self {
            query: linear(),
            key: linear(),
            value: linear(),
            dropout: DropoutConfig::new(config.attention_probs_dropout_prob).init(),
            heads: config.num_attention_heads,
        }
    }

    /// What the heads read, side by side: `[b, s, d]`.
    fn forward(&self, x: Tensor<3>, visible: &Visible) -> Tensor<3> {
        let [b, s, d] = x.dims();
        let split = |linear: &Linear| linear.project(x.clone()).reshape([b, s, self.heads, d / self.heads]).swap_dims(1, 2);
        let [q, k, v] = [&self.query, &self.key, &self.value].map(split);
        // Where nothing is dropped, the weights need not exist.
        let read = if ops::drops(&self.dropout, &x.device()) {
            ops::dropout(&self.dropout, ops::attention_weights(q, k, visible)).matmul(v)
        } else {
            ops::attention(q, k, v, visible)
        };
        read.swap_dims(1, 2).reshape([b, s, d])
    }
}
