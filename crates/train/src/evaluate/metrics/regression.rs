//! What is reported of a model that predicts numbers.

use super::confusion::check_lengths;
use super::estimate::Estimate;
use peft_core::{Error, Result};
use serde::Serialize;

/// The scores of predicted numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Regression {
    /// Examples.
    pub examples: usize,
    /// Pearson's correlation; none if either side is constant.
    pub pearson: Option<Estimate>,
    /// Spearman's rank correlation, equal values sharing their mean rank; none if either side is constant.
    pub spearman: Option<Estimate>,
    /// Mean squared error.
    pub mse: Estimate,
}

impl Regression {
    /// Score `predicted` numbers against the `expected` ones. The correlations' standard errors come from a bootstrap.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if there are no examples or one list is longer than the other; [`Error::NonFinite`].
    pub fn new(predicted: &[f64], expected: &[f64]) -> Result<Self> {
        check_lengths(predicted.len(), expected.len())?;
        if predicted.iter().chain(expected).any(|value| !value.is_finite()) {
            return Err(Error::NonFinite { what: "a predicted or expected number".into() });
        }
        let squares: Vec<f64> = predicted.iter().zip(expected).map(|(p, e)| (p - e).powi(2)).collect();
        let drawn = |statistic: fn(&[f64], &[f64]) -> Option<f64>| {
            let chosen = |values: &[f64], indices: &[usize]| indices.iter().map(|i| values[*i]).collect::<Vec<_>>();
            Estimate::bootstrap(predicted.len(), |indices| statistic(&chosen(predicted, indices), &chosen(expected, indices)))
        };
        Ok(Self { examples: predicted.len(), pearson: drawn(pearson), spearman: drawn(spearman), mse: Estimate::mean(&squares) })
    }
}

/// Pearson's correlation coefficient of two equally long lists; `None` if either is constant or empty.
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
        let norm = centred.iter().map(|value| value * value).sum::<f64>().sqrt();
        let constant = values.iter().all(|value| *value == values[0]);
        (!constant && norm > 0.0).then_some((centred, norm))
    };
    let ((a, norm_a), (b, norm_b)) = (centred(a)?, centred(b)?);
    let product: f64 = a.iter().zip(&b).map(|(a, b)| a / norm_a * (b / norm_b)).sum();
    Some(product.clamp(-1.0, 1.0))
}

/// Spearman's rank correlation of two equally long lists: Pearson's of the ranks, equal values sharing their mean rank.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let mean = first as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|index| ranks[*index] = mean);
        first += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_side_has_no_correlation() {
        let scores = Regression::new(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((scores.pearson, scores.spearman), (None, None));
        assert!((scores.mse.value - 5.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        assert!(matches!(Regression::new(&[f64::NAN], &[1.0]), Err(Error::NonFinite { .. })));
    }

    #[test]
    fn equal_values_share_their_mean_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    }
}
