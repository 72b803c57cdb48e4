//! Weighted sums of models.

use super::Rule;
use crate::gram::combine;
use crate::stack::{Output, Stack};
use peft_core::Result;

/// `Σ w_i x_i`, divided by `Σ w_i` if the weights are to be normalised. Equal weights make a model soup.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The weight of each model.
    pub weights: Vec<f64>,
    /// Whether to divide by the sum of the weights.
    pub normalize: bool,
}

impl Rule for Linear {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let total = self.weights.iter().sum::<f64>() as f32;
        stack.fill(1, out, |block, out| {
            combine(block, &self.weights, 0.0, out);
            if self.normalize {
                out.iter_mut().for_each(|x| *x /= total);
            }
        })
    }
}
