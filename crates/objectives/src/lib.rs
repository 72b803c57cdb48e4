//! Training objectives on logits.

mod entropy;
mod pseudo_labels;

pub use entropy::{entropies, entropy};
pub use pseudo_labels::confident_cross_entropy;

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor};

/// Negative log-likelihood in nats of each target under the logits of its position.
///
/// `logits: [n, vocabulary]` in any float type (computed in f32), `targets: [n]`; `[n]`.
pub fn token_nll(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let logits = single(logits);
    let [n, _] = logits.dims();
    let picked = log_softmax(logits, 1).gather(1, targets.reshape([n, 1]));
    -picked.reshape([n])
}

/// Mean cross-entropy in nats over all positions, `[1]`; what HF's causal language models report as loss.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    token_nll(logits, targets).mean()
}

/// In f32.
fn single(logits: Tensor<2>) -> Tensor<2> {
    if logits.dtype() == DType::F32 { logits } else { logits.cast(DType::F32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
        let device = peft_core::device::host();
        let loss = cross_entropy(Tensor::zeros([3, 8], &device), Tensor::from_ints([0, 5, 7], &device));
        assert!((loss.into_scalar::<f32>() - 8f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn the_gradient_is_probability_minus_target_over_n() {
        let device = peft_core::device::host().autodiff();
        let logits = Tensor::<2>::from_floats([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], &device).require_grad();
        let loss = cross_entropy(logits.clone(), Tensor::from_ints([1, 0], &device));
        let gradient = logits.grad(&loss.backward()).unwrap();
        let p = burn::tensor::activation::softmax(logits.inner(), 1);
        let target = Tensor::<2>::from_floats([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], &p.device());
        let expected = (p - target) / 2.0;
        assert!((gradient - expected).abs().max().into_scalar::<f32>() < 1e-6);
    }
}
