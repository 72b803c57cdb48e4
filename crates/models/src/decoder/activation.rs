//! The non-linearity of the feed-forward block.

use burn::tensor::{DType, Tensor, activation};
use peft_core::ops;

/// An activation function, by its name in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `silu`: `x · σ(x)`.
    Silu,
    /// `gelu`: `x · Φ(x)`.
    Gelu,
    /// `gelu_pytorch_tanh`, `gelu_new`: GELU with its tanh approximation.
    GeluTanh,
    /// `relu`: `max(x, 0)`.
    Relu,
}

impl Activation {
    pub(crate) fn from_name(name: &str) -> Result<Self, String> {
        match name {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" | "gelu_python" => Ok(Self::Gelu),
            "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_python_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            _ => Err(format!("hidden_act `{name}` is not supported; supported: `silu`, `gelu`, `gelu_pytorch_tanh`, `gelu_new`, `relu`")),
        }
    }

    /// `act(gate) ⊙ up`.
    pub(super) fn gate<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu if gate.dtype() == DType::F32 => ops::swiglu(gate, up),
            _ => self.apply(gate) * up,
        }
    }

    /// The function of every element.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => activation::silu(x),
            Self::Gelu => ops::gelu(x),
            Self::GeluTanh => ops::gelu_tanh(x),
            Self::Relu => activation::relu(x),
        }
    }
}
