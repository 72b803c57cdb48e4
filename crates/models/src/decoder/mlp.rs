//! The feed-forward block.

use super::activation::Activation;
use super::config::DecoderConfig;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use peft_core::Project;

/// `down(act(gate(x)) ⊙ up(x))` (Shazeer, 2020, arXiv:2002.05202).
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[d, inner]`.
    pub gate_proj: Linear,
    /// `[d, inner]`.
    pub up_proj: Linear,
    /// `[inner, d]`.
    pub down_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    pub(super) fn new(config: &DecoderConfig, device: &Device) -> Self {
        let (d, inner) = (config.hidden_size, config.intermediate_size);
        let linear = |d_in, d_out| LinearConfig::new(d_in, d_out).with_bias(config.mlp_bias).init(device);
        Self { gate_proj: linear(d, inner), up_proj: linear(d, inner), down_proj: linear(inner, d), activation: config.activation }
    }

    /// `[b, s, d]` to `[b, s, d]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = self.gate_proj.project(x.clone());
        self.down_proj.project(self.activation.gate(gate, self.up_proj.project(x)))
    }
}
