//! The operations that fine-tuning spends its time in, each with a backward pass of its own.
//!
//! Written with a tensor library's elementary operations, a transformer's block reads and writes memory many times over and keeps for
//! the backward pass what can be computed anew. The operations here keep only their inputs, skip gradients that nobody asks for, and
//! on the CPU run as the fused kernels of `peft-kernels`; on other devices they are composed of Burn's operations, which those devices
//! fuse themselves.

#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod differentiable;

mod attention;
mod dropout;
mod gated;
mod gelu;
mod head;
mod layer_norm;
mod norm;
mod projection;
mod recompute;
mod rotary;

pub use attention::{Visible, attention, attention_weights};
pub use dropout::{dropout, dropping, drops};
pub use gated::swiglu;
pub use gelu::{gelu, gelu_tanh};
pub use head::linear_cross_entropy;
pub use layer_norm::layer_norm;
pub use norm::rms_norm;
pub use projection::{project, project_low_rank};
pub use recompute::recomputed;
pub use rotary::rotate;

use differentiable::differentiable;

/// Compares an operation with the form composed of Burn's operations, in values and gradients.
#[cfg(test)]
pub(crate) mod check {
    use crate::device::host;
    use crate::seed;
    use burn::tensor::Tensor;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Whoever draws from the device's own generator holds this: tests that seed it count on what comes next.
    pub fn generator() -> MutexGuard<'static, ()> {
        static GENERATOR: Mutex<()> = Mutex::new(());
        GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New numbers at each call, not from the device's generator.
    pub fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let mut rng = seed::rng(CALLS.fetch_add(1, Ordering::Relaxed), "check");
        seed::normal(shape, 1.0, &mut rng, &host()).autodiff().require_grad()
    }

    /// The largest difference of two tensors over the largest element of the second.
    pub fn distance<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f32 {
        assert_eq!(found.dims(), expected.dims());
        let scale = expected.clone().abs().max().into_scalar::<f32>().max(1e-6);
        let distance = (found - expected).abs().max().into_scalar::<f32>() / scale;
        if distance.is_nan() { f32::INFINITY } else { distance }
    }

    /// How to read the gradient of an input, flat.
    type Read<'a> = dyn Fn(&burn::tensor::Gradients) -> Option<Tensor<1>> + 'a;

    /// Both forms on the same inputs: outputs agree, and gradients of their sums under the same random weights.
    pub fn same<const D: usize>(found: Tensor<D>, expected: Tensor<D>, inputs: &[&Read]) {
        assert!(distance(found.clone().inner(), expected.clone().inner()) < 2e-5, "values differ");
        let weights = random(found.dims()).inner();
        let loss = |y: Tensor<D>| (y * weights.clone().autodiff()).sum().backward();
        let (found, expected) = (loss(found), loss(expected));
        for (index, gradient) in inputs.iter().enumerate() {
            let (found, expected) = (gradient(&found).unwrap(), gradient(&expected).unwrap());
            let distance = distance(found, expected);
            assert!(distance < 5e-5, "gradient of input {index}: {distance:e}");
        }
    }

    /// How [`same`] reads the gradient of an input.
    pub fn gradient<const D: usize>(input: &Tensor<D>) -> impl Fn(&burn::tensor::Gradients) -> Option<Tensor<1>> + use<D> {
        let input = input.clone();
        move |gradients| {
            let gradient = input.grad(gradients)?;
            let n = gradient.shape().num_elements();
            Some(gradient.reshape([n]))
        }
    }
}
