//! Root-mean-square normalisation.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Tensor};
use peft_core::{as_type, ops};

/// `x / √(mean(x²) + ε) · weight` over the last dimension (Zhang and Sennrich, 2019, arXiv:1910.07467), computed in f32.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// The scale `[d]`.
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
}

impl RmsNorm {
    pub(super) fn new(size: usize, epsilon: f64, device: &Device) -> Self {
        Self { weight: Initializer::Ones.init([size], device), epsilon }
    }

    /// The normalised activations, `[.., d]` in the type of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let weight = as_type(self.weight.val(), DType::F32);
        as_type(ops::rms_norm(as_type(x, DType::F32), weight, self.epsilon), dtype)
    }
}
