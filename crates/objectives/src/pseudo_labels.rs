//! Learning from what a model itself believes.

use crate::single;
use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

/// The cross-entropy in nats of `logits` under `targets`, over the rows whose most probable target is above `threshold`, `[1]`.
///
/// `logits: [n, classes]` of a strong view, `targets: [n, classes]` the probabilities of a weak view or of trusted labels, through which no
/// gradient goes. It is `Σ m CE / max(Σ m, 1)`: zero if no row passes.
///
/// Sohn et al., "FixMatch", NeurIPS 2020; Zhang et al., aTLAS, NeurIPS 2024.
pub fn confident_cross_entropy(logits: Tensor<2>, targets: Tensor<2>, threshold: f64) -> Tensor<1> {
    let targets = single(targets).detach();
    let passes = targets.clone().max_dim(1).greater_scalar(threshold);
    let mask = targets.clone().max_dim(1).zeros_like().mask_fill(passes, 1.0);
    let losses = -(log_softmax(single(logits), 1) * targets).sum_dim(1);
    (losses * mask.clone()).sum() / mask.sum().clamp_min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(targets: [[f32; 2]; 2]) -> f32 {
        let device = peft_core::device::host();
        let logits = Tensor::from_floats([[0.0, 0.0], [3.0, -3.0]], &device);
        confident_cross_entropy(logits, Tensor::from_floats(targets, &device), 0.99).into_scalar::<f32>()
    }

    #[test]
    fn only_rows_above_the_threshold_count() {
        let half = 2f32.ln();
        assert!((value([[1.0, 0.0], [0.9, 0.1]]) - half).abs() < 1e-6);
        let other = (1.0 + 6f32.exp()).ln();
        assert!((value([[1.0, 0.0], [0.0, 1.0]]) - (half + other) / 2.0).abs() < 1e-5);
    }

    #[test]
    fn no_row_above_the_threshold_is_a_loss_of_zero_with_a_gradient_of_zero() {
        assert_eq!(value([[0.5, 0.5], [0.9, 0.1]]), 0.0);
        let device = peft_core::device::host().autodiff();
        let logits = Tensor::<2>::from_floats([[1.0, 2.0]], &device).require_grad();
        let loss = confident_cross_entropy(logits.clone(), Tensor::from_floats([[0.5, 0.5]], &device), 0.99);
        let gradient = logits.grad(&loss.backward()).unwrap().into_data().try_into_vec::<f32>().unwrap();
        assert_eq!(gradient, [0.0, 0.0]);
    }
}
