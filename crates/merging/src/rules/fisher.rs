//! Averages weighted by Fisher information.

use super::Rule;
use crate::stack::{Block, Output, Stack};
use peft_core::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// `Σ c_m D_m θ_m / Σ c_m D_m` for every number, with `D_m` the Fisher information of model `m`, or its floor where that is larger
/// (Matena and Raffel, 2022).
///
/// The inputs are the models' weights, and after them their Fisher information in the same order. Where no model has any, the target's number
/// stays.
///
/// ```
/// use peft_merge::rules::{Fisher, merge};
/// let rule = Fisher { coefficients: vec![0.5, 0.5], floors: vec![0.0, 0.0], target: 0, undecided: Default::default() };
/// let (first, second) = ([1.0, 1.0, 1.0], [3.0, 3.0, 3.0]);
/// let (of_first, of_second) = ([1.0, 0.0, 0.0], [3.0, 2.0, 0.0]);
/// let merged = merge(&rule, "w", &[3], None, &[&first, &second, &of_first, &of_second]).unwrap();
/// assert_eq!(merged, [2.5, 3.0, 1.0]);
/// ```
#[derive(Clone, Debug)]
pub struct Fisher {
    /// What the Fisher information of each model is multiplied with.
    pub coefficients: Vec<f64>,
    /// The least Fisher information of each model.
    pub floors: Vec<f64>,
    /// The model that decides where there is no Fisher information.
    pub target: usize,
    /// Counts numbers for which there was none.
    pub undecided: Arc<AtomicU64>,
}

impl Rule for Fisher {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let models = self.coefficients.len();
        if stack.others.len() != 2 * models || self.floors.len() != models || self.target >= models {
            return Err(Error::InvalidConfig(format!(
                "`{}`: {models} models need as many weights and as much Fisher information, not {} inputs",
                stack.name,
                stack.others.len()
            )));
        }
        stack.fill(1, out, |block, out| self.average(block, out))
    }
}

impl Fisher {
    fn average(&self, block: &Block, out: &mut [f32]) {
        let (weights, fishers) = block.others.split_at(self.coefficients.len());
        // Fisher information may be as small as 1e-20: products of it need the range of f64.
        let mut sums = vec![0f64; out.len()];
        let mut divisors = vec![0f64; out.len()];
        for (((weights, fishers), c), floor) in weights.iter().zip(fishers).zip(&self.coefficients).zip(&self.floors) {
            let numbers = weights.iter().zip(*fishers);
            for ((sum, divisor), (weight, fisher)) in sums.iter_mut().zip(&mut divisors).zip(numbers) {
                let share = c * f64::from(*fisher).max(*floor);
                *sum += share * f64::from(*weight);
                *divisor += share;
            }
        }
        let target = weights[self.target];
        let mut undecided = 0;
        for (((out, sum), divisor), target) in out.iter_mut().zip(&sums).zip(&divisors).zip(target) {
            let decided = *divisor > 0.0;
            undecided += u64::from(!decided);
            *out = if decided { (sum / divisor) as f32 } else { *target };
        }
        self.undecided.fetch_add(undecided, Ordering::Relaxed);
    }
}
