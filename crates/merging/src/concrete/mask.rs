//! A mask of one block, relaxed or not.

use burn::tensor::activation::sigmoid;
use burn::tensor::{Tensor, TensorData};
use peft_core::seed;
use rand::Rng;
use rayon::prelude::*;

/// The least mean of a mask that vectors are divided by.
const LEAST_MEAN: f64 = 1e-6;

/// The least `u`; the largest is 1 less it.
const LEAST_UNIFORM: f32 = 1e-6;

/// `m̂` and its mean `μ`.
pub struct Mask {
    values: Tensor<1>,
    /// At least [`LEAST_MEAN`], `[1]`.
    mean: Tensor<1>,
    /// As it is, `[1]`.
    true_mean: Tensor<1>,
}

impl Mask {
    fn of(values: Tensor<1>) -> Self {
        let true_mean = values.clone().mean();
        Self { values, mean: true_mean.clone().clamp_min(LEAST_MEAN), true_mean }
    }

    /// A draw of the relaxed mask with these logits; seed, draw and path determine it.
    pub fn relaxed(logits: Tensor<1>, (seed, draw, path): (u64, u64, &str), temperature: f64) -> Self {
        let count = logits.dims()[0];
        let u = Tensor::<1>::from_data(TensorData::new(uniform(seed, draw, path, count), [count]), &logits.device());
        Self::with_uniform(logits, u, temperature)
    }

    /// The same, from `u`.
    pub fn with_uniform(logits: Tensor<1>, u: Tensor<1>, temperature: f64) -> Self {
        let noise = u.clone().log() - (u.neg() + 1.0).log();
        Self::of(sigmoid((noise + logits) / temperature))
    }

    /// The probabilities.
    pub fn expected(logits: Tensor<1>) -> Self {
        Self::of(sigmoid(logits))
    }

    /// Ones where it is above a half, zeros elsewhere.
    pub fn hard(self) -> Self {
        let kept = self.values.clone().greater_scalar(0.5);
        Self::of(self.values.zeros_like().mask_fill(kept, 1.0))
    }

    /// `v ⊙ m̂ / μ`.
    pub fn scaled(&self, vector: Tensor<1>) -> Tensor<1> {
        vector * self.values.clone() / self.mean.clone()
    }

    /// The mean before it is kept from zero, `[1]`.
    pub fn mean(&self) -> Tensor<1> {
        self.true_mean.clone()
    }

    /// `∂L/∂x` from `G = ∂L/∂θ` of `θ = θ⁰ + S ⊙ m̂ / μ`.
    pub fn gradient(&self, gradient: Tensor<1>, sum: Tensor<1>, temperature: f64) -> Tensor<1> {
        let (m, mean) = (self.values.clone(), self.mean.clone());
        let product = gradient * sum;
        // A mean that is kept from zero does not move with the mask.
        let moves = self.true_mean.ones_like().mask_fill(self.true_mean.clone().lower_scalar(LEAST_MEAN), 0.0);
        let through_mean = (product.clone() * m.clone()).mean() * moves / (mean.clone() * mean.clone());
        let of_mask = product / mean - through_mean;
        of_mask * m.clone() * (m.neg() + 1.0) / temperature
    }
}

/// Whether a mean is so small that vectors are not divided by it.
pub fn is_all_masked(mean: f32) -> bool {
    f64::from(mean) < LEAST_MEAN
}

/// `count` numbers uniform in (0, 1), at least 10⁻⁶ from its ends. The seed, the number of the draw and the path determine them, on every
/// device and on any number of threads.
pub fn uniform(seed: u64, draw: u64, path: &str, count: usize) -> Vec<f32> {
    const CHUNK: usize = 1 << 16;
    let start = seed::rng(seed, &format!("{path}#{draw}"));
    let mut numbers = vec![0.0; count];
    numbers.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, numbers)| {
        let mut rng = start.clone();
        // A counter says where in the stream it is: each chunk begins at its own place.
        rng.set_word_pos((chunk * CHUNK) as u128);
        for number in numbers {
            let u = (f64::from(rng.next_u32()) + 0.5) / 4_294_967_296.0;
            *number = (u as f32).clamp(LEAST_UNIFORM, 1.0 - LEAST_UNIFORM);
        }
    });
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composition::host;
    use peft_core::device;
    use rand::RngExt;

    fn tensor(numbers: &[f32]) -> Tensor<1> {
        Tensor::from_floats(numbers, &device::host())
    }

    fn full(count: usize, logit: f64) -> Tensor<1> {
        Tensor::full([count], logit, &device::host())
    }

    #[test]
    fn a_hard_mask_keeps_an_entry_with_the_probability_of_its_logit() {
        for logit in [-1.5, 0.0, 0.7] {
            let mask = Mask::relaxed(full(100_000, logit), (3, 0, "w"), 0.5).hard();
            let expected = 1.0 / (1.0 + (-logit).exp());
            let found = f64::from(host(mask.mean())[0]);
            assert!((found - expected).abs() < 0.005, "{found} {expected}");
        }
    }

    #[test]
    fn a_low_temperature_gives_zeros_and_ones() {
        let values = host(Mask::relaxed(full(10_000, 0.3), (3, 0, "w"), 1e-4).values);
        let between = values.iter().filter(|m| **m > 1e-3 && **m < 1.0 - 1e-3).count();
        assert!(between < 20, "{between}");
    }

    #[test]
    fn a_scaled_vector_keeps_its_mean_weight_of_one() {
        for mask in [Mask::relaxed(full(999, -0.4), (1, 2, "w"), 0.5), Mask::expected(full(999, 2.0))] {
            let mean = host(mask.scaled(Tensor::ones([999], &device::host())).mean())[0];
            assert!((mean - 1.0).abs() < 1e-5, "{mean}");
        }
    }

    #[test]
    fn a_seed_determines_a_mask_whatever_the_number_of_threads() {
        let numbers = || uniform(5, 7, "a.weight", 200_000);
        let all = numbers();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(numbers);
        assert_eq!(all, one);
        // Words of one stream, in their order.
        let mut rng = seed::rng(5, "a.weight#7");
        let words: Vec<u32> = (0..200_000).map(|_| rng.random()).collect();
        assert!(words.iter().zip(&all).all(|(word, u)| ((f64::from(*word) / 4_294_967_296.0) - f64::from(*u)).abs() < 2e-6));
        assert_ne!(uniform(5, 8, "a.weight", 10), uniform(5, 7, "a.weight", 10));
        assert_ne!(uniform(5, 7, "b.weight", 10), uniform(5, 7, "a.weight", 10));
    }

    #[test]
    fn the_closed_form_is_the_gradient_that_autodiff_finds() {
        let numbers = |name: &str| uniform(1, 0, name, 50).into_iter().map(|u| 4.0 * u - 2.0).collect::<Vec<f32>>();
        let (x, s, g) = (numbers("x"), numbers("s"), numbers("g"));
        let u = tensor(&uniform(1, 0, "u", 50));
        let logits = tensor(&x).autodiff().require_grad();
        let loss =
            (Mask::with_uniform(logits.clone(), u.clone().autodiff(), 0.5).scaled(tensor(&s).autodiff()) * tensor(&g).autodiff()).sum();
        let expected = host(logits.grad(&loss.backward()).unwrap());
        let found = host(Mask::with_uniform(tensor(&x), u, 0.5).gradient(tensor(&g), tensor(&s), 0.5));
        let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5 * largest), "{found:?} {expected:?}");
    }

    #[test]
    fn a_mask_of_nothing_leaves_finite_numbers() {
        let mask = Mask::expected(full(4, -80.0));
        assert!(is_all_masked(host(mask.mean())[0]));
        let gradient = host(mask.gradient(tensor(&[1.0; 4]), tensor(&[1.0; 4]), 0.5));
        assert!(host(mask.scaled(tensor(&[1.0; 4]))).into_iter().chain(gradient).all(f32::is_finite));
    }
}
