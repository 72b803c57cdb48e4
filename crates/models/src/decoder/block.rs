//! One block: attention, then feed-forward, each normalised before and added after.

use super::attention::{Attention, Place};
use super::config::DecoderConfig;
use super::mlp::Mlp;
use super::norm::RmsNorm;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use peft_core::{Port, Project};

/// A block of a decoder, with its ports.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Self-attention.
    pub self_attn: Attention,
    /// Feed-forward.
    pub mlp: Mlp,
    /// Before attention.
    pub input_layernorm: RmsNorm,
    /// Before feed-forward.
    pub post_attention_layernorm: RmsNorm,
    /// On the heads' outputs side by side, `[b, s, h·hd]`, before the output projection.
    pub attn_heads: Port,
    /// On the output of attention, before it is added.
    pub attn_output: Port,
    /// On the output of feed-forward, before it is added.
    pub mlp_output: Port,
    /// On the output of the block.
    pub block_output: Port,
    /// Whether attention looks through the sliding window.
    pub windowed: bool,
}

impl DecoderLayer {
    pub(super) fn new(config: &DecoderConfig, windowed: bool, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, device);
        Self {
            self_attn: Attention::new(config, device),
            mlp: Mlp::new(config, device),
            input_layernorm: norm(),
            post_attention_layernorm: norm(),
            attn_heads: Port::new(),
            attn_output: Port::new(),
            mlp_output: Port::new(),
            block_output: Port::new(),
            windowed,
        }
    }

    /// `[b, s, d]` to `[b, s, d]`.
    pub(super) fn forward(&self, x: Tensor<3>, place: Place) -> Tensor<3> {
        let heads = self.self_attn.heads(self.input_layernorm.forward(x.clone()), place);
        let attended = self.self_attn.o_proj.project(self.attn_heads.apply(heads));
        let x = x + self.attn_output.apply(attended);
        let fed = self.mlp.forward(self.post_attention_layernorm.forward(x.clone()));
        self.block_output.apply(x + self.mlp_output.apply(fed))
    }
}
