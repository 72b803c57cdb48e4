//! What the benchmarks share.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use peft_adapters::low_rank::LoraConfig;
use peft_core::{Context, Names, Project, adapt};

/// A module with one frozen projection, as adapters see it in a model.
#[derive(Module, Debug)]
pub struct One {
    /// The projection.
    pub proj: Linear,
}

impl One {
    /// A square projection of width `d` with LoRA of rank 8, on the device that `PEFT_DEVICE` names.
    ///
    /// # Panics
    /// If that device is not there.
    pub fn adapted(d: usize) -> (Self, Device) {
        let device = peft_core::device::host().autodiff();
        let one = Self { proj: LinearConfig::new(d, d).with_bias(false).init(&device) };
        let lora = LoraConfig::for_modules(Names::list(["proj"]));
        let (one, _) = adapt(one, &lora, &Context::default()).expect("the projection is there");
        (one, device)
    }

    /// The adapter's fast path.
    pub fn project(&self, x: burn::tensor::Tensor<2>) -> burn::tensor::Tensor<2> {
        self.proj.project(x)
    }

    /// The plain layer, which builds the effective weight.
    pub fn forward(&self, x: burn::tensor::Tensor<2>) -> burn::tensor::Tensor<2> {
        self.proj.forward(x)
    }
}

/// Random tokens, the same in every implementation: the high bits of a linear congruential generator.
pub fn token_ids(count: usize, vocab_size: usize) -> Vec<u32> {
    let mut state: u64 = 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab_size as u64) as u32
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tokens_are_those_of_the_python_side() {
        assert_eq!(super::token_ids(4, 49152), [14_294, 17_241, 12_492, 27_366]);
    }
}
