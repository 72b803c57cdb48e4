//! The weighted mean of directions, at the weighted mean of lengths.

use super::Rule;
use crate::gram::{Gram, combine};
use crate::stack::{Output, Stack};
use peft_core::{Error, Result};

/// Projects all models, or their differences from a base, on the unit sphere, averages there, and gives the result their average length.
///
/// The tangent at the mean in which the method interpolates holds a sum that is zero by the choice of that mean, so that the direction
/// is the mean's.
#[derive(Clone, Debug)]
pub struct MultiSlerp {
    /// The weight of each model; usually they sum to one.
    pub weights: Vec<f64>,
    /// What is added to lengths before dividing by them.
    pub eps: f64,
}

impl Rule for MultiSlerp {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let base = if stack.base.is_some() { 1.0 } else { 0.0 };
        if stack.others.len() == 1 {
            return stack.fill(1, out, |block, out| out.copy_from_slice(block.others[0]));
        }
        let gram = Gram::of(stack);
        let coefficients = self.coefficients(&gram, stack.name)?;
        let rest = base * (1.0 - coefficients.iter().sum::<f64>());
        if base == 0.0 {
            return stack.fill(1, out, |block, out| combine(block, &coefficients, rest, out));
        }
        stack.fill(1, out, |block, out| {
            out.fill(0.0);
            for (numbers, c) in block.others.iter().zip(&coefficients) {
                let c = *c as f32;
                out.iter_mut().zip(*numbers).zip(block.base).for_each(|((out, x), b)| *out += c * (x - b));
            }
            out.iter_mut().zip(block.base).for_each(|(out, b)| *out += b);
        })
    }
}

impl MultiSlerp {
    fn coefficients(&self, gram: &Gram, name: &str) -> Result<Vec<f64>> {
        let norms: Vec<f64> = (0..gram.len()).map(|i| gram.norm(i)).collect();
        let mean: Vec<f64> = self.weights.iter().zip(&norms).map(|(w, norm)| w / (norm + self.eps)).collect();
        let length = gram.of_sums(&mean, &mean).max(0.0).sqrt();
        if length < self.eps {
            if gram.len() == 2 {
                return Ok(self.weights.clone());
            }
            return Err(Error::InvalidConfig(format!(
                "`{name}`: the weighted directions of the models cancel, so that they have no mean; choose other weights"
            )));
        }
        let average: f64 = self.weights.iter().zip(&norms).map(|(w, norm)| w * norm).sum();
        Ok(mean.into_iter().map(|c| c / length * average).collect())
    }
}
