//! A measured value with its standard error.

use peft_core::seed;
use rand::RngExt;
use rayon::prelude::*;
use serde::Serialize;
use std::fmt;

/// A measured value and its standard error over the examples it was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error; 0 for a single example, which says nothing about its own spread.
    pub standard_error: f64,
}

impl Estimate {
    /// The mean of `values` and `sd / √n`, with the deviation of a sample (`n - 1`).
    pub fn mean(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self::from_squares(mean, squares, n)
    }

    /// A mean of `n` values whose squared distances from it add up to `squares`.
    pub(crate) fn from_squares(mean: f64, squares: f64, n: f64) -> Self {
        Self { value: mean, standard_error: if n > 1.0 { (squares.max(0.0) / (n - 1.0) / n).sqrt() } else { 0.0 } }
    }

    /// `statistic` of all examples, and its deviation over 1000 draws of as many examples with replacement.
    ///
    /// The draws are the same in every run. Draws for which the statistic is undefined are left out; `None` if it is undefined for
    /// the examples themselves.
    pub fn bootstrap(examples: usize, statistic: impl Fn(&[usize]) -> Option<f64> + Sync) -> Option<Self> {
        const DRAWS: usize = 1000;
        let all: Vec<usize> = (0..examples).collect();
        let value = statistic(&all)?;
        let draw = |number: usize| {
            let mut rng = seed::rng(0, &format!("bootstrap.{number}"));
            let drawn: Vec<usize> = (0..examples).map(|_| rng.random_range(0..examples)).collect();
            statistic(&drawn)
        };
        let drawn: Vec<f64> = (0..DRAWS).into_par_iter().filter_map(draw).collect();
        let spread = Self::mean(&drawn);
        Some(Self { value, standard_error: spread.standard_error * (drawn.len() as f64).sqrt() })
    }

    /// The same in another unit.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { value: self.value * factor, standard_error: self.standard_error * factor.abs() }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4} ± {:.4}", self.value, self.standard_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_has_the_deviation_over_the_root_of_n() {
        let estimate = Estimate::mean(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(estimate.value, 2.5);
        assert!((estimate.standard_error - (5.0f64 / 3.0).sqrt() / 2.0).abs() < 1e-15);
        assert_eq!(Estimate::mean(&[3.0]), Estimate { value: 3.0, standard_error: 0.0 });
        assert_eq!(estimate.to_string(), "2.5000 ± 0.6455");
    }

    #[test]
    fn the_bootstrap_of_a_mean_agrees_with_the_formula_and_repeats() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(i * i % 17)).collect();
        let mean = |indices: &[usize]| Some(indices.iter().map(|i| values[*i]).sum::<f64>() / indices.len() as f64);
        let (drawn, exact) = (Estimate::bootstrap(values.len(), mean).unwrap(), Estimate::mean(&values));
        assert!((drawn.value - exact.value).abs() < 1e-12);
        assert!((drawn.standard_error / exact.standard_error - 1.0).abs() < 0.1, "{drawn} and {exact}");
        assert_eq!(drawn, Estimate::bootstrap(values.len(), mean).unwrap());
    }

    #[test]
    fn an_undefined_statistic_has_no_estimate() {
        assert_eq!(Estimate::bootstrap(3, |_| None), None);
    }
}
