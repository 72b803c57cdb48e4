//! Layer normalisation.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Tensor};
use peft_core::{as_type, ops};

/// `(x − mean(x)) / √(var(x) + ε) · weight + bias` over the last dimension (Ba et al., 2016, arXiv:1607.06450), computed in f32.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// The scale `[d]`.
    pub weight: Param<Tensor<1>>,
    /// The shift `[d]`.
    pub bias: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm {
    pub(super) fn new(size: usize, epsilon: f64, device: &Device) -> Self {
        Self { weight: Initializer::Ones.init([size], device), bias: Initializer::Zeros.init([size], device), epsilon }
    }

    /// The normalised activations, `[.., d]` in f32.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [weight, bias] = [&self.weight, &self.bias].map(|param| as_type(param.val(), DType::F32));
        ops::layer_norm(as_type(x, DType::F32), weight, bias, self.epsilon)
    }
}
