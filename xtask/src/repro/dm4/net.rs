//! The network: three layers for all tasks, and a head for each.

use super::data::{CLASSES, PIXELS};
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, activation};
use peft_core::seed;
use rand_chacha::ChaCha8Rng;

const WIDTH: usize = 256;

/// 64 → 256 → 256 → 256 with GELU between: 148,224 parameters in 6 tensors.
#[derive(Module, Debug)]
pub struct Trunk {
    first: Linear,
    second: Linear,
    third: Linear,
}

/// The trunk and all heads, to train them together.
#[derive(Module, Debug)]
pub struct Whole {
    pub trunk: Trunk,
    pub heads: Vec<Linear>,
}

impl Trunk {
    /// Features `[n, 256]` of images `[n, 64]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = activation::gelu(self.first.forward(x));
        let x = activation::gelu(self.second.forward(x));
        self.third.forward(x)
    }
}

impl Whole {
    /// Weights and biases uniform in ±1/√d_in.
    pub fn new(tasks: usize, seed: u64, device: &Device) -> Self {
        let mut rng = seed::rng(seed, "network");
        let mut layer = |d_in, d_out| linear(d_in, d_out, &mut rng, device);
        let trunk = Trunk { first: layer(PIXELS, WIDTH), second: layer(WIDTH, WIDTH), third: layer(WIDTH, WIDTH) };
        Self { trunk, heads: (0..tasks).map(|_| layer(WIDTH, CLASSES)).collect() }
    }
}

fn linear(d_in: usize, d_out: usize, rng: &mut ChaCha8Rng, device: &Device) -> Linear {
    let bound = 1.0 / (d_in as f64).sqrt();
    let weight = Param::from_tensor(seed::uniform([d_in, d_out], bound, rng, device));
    Linear { weight, bias: Some(Param::from_tensor(seed::uniform([d_out], bound, rng, device))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trunk_has_its_parameters() {
        assert_eq!(Whole::new(4, 0, &peft_core::device::host()).trunk.num_params(), 148_224);
    }
}
