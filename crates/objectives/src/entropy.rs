//! How unsure predictions are.

use crate::single;
use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

/// The entropy `−Σ p log p` in nats of `p = softmax(logits)` in each row.
///
/// `logits: [n, classes]` in any float type (computed in f32); `[n]`.
pub fn entropies(logits: Tensor<2>) -> Tensor<1> {
    let [n, _] = logits.dims();
    let log = log_softmax(single(logits), 1);
    -(log.clone().exp() * log).sum_dim(1).reshape([n])
}

/// The mean entropy in nats over all rows, `[1]`: what a model is adapted by to inputs without labels.
///
/// Wang et al., "Tent", ICLR 2021; Yang et al., "AdaMerging", ICLR 2024.
pub fn entropy(logits: Tensor<2>) -> Tensor<1> {
    entropies(logits).mean()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_are_as_unsure_as_can_be_and_one_large_logit_is_sure() {
        let device = peft_core::device::host();
        let found = entropies(Tensor::from_floats([[2.0, 2.0, 2.0, 2.0], [500.0, 0.0, 0.0, -500.0]], &device));
        let found = found.into_data().try_into_vec::<f32>().unwrap();
        assert!((found[0] - 4f32.ln()).abs() < 1e-6 && found[1].abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn the_gradient_is_that_of_the_definition() {
        let device = peft_core::device::host().autodiff();
        let logits = Tensor::<2>::from_floats([[1.0, 2.0, 0.5]], &device).require_grad();
        let gradient = logits.grad(&entropy(logits.clone()).backward()).unwrap().into_data().try_into_vec::<f32>().unwrap();
        let p: Vec<f64> = [1f64, 2.0, 0.5].map(f64::exp).to_vec();
        let p: Vec<f64> = p.iter().map(|x| x / p.iter().sum::<f64>()).collect();
        let h: f64 = -p.iter().map(|p| p * p.ln()).sum::<f64>();
        for (found, p) in gradient.iter().zip(p) {
            // dH/dz = −p (log p + H)
            assert!((f64::from(*found) + p * (p.ln() + h)).abs() < 1e-6, "{gradient:?}");
        }
    }
}
