//! Settings of a learned mask.

use crate::adaptive::Granularity;
use crate::composition::{above_zero, at_least_one};
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// What is learned beside the mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Nothing: Concrete Task Arithmetic.
    #[default]
    TaskArithmetic,
    /// The coefficients of the task vectors: Concrete AdaMerging.
    #[serde(rename = "adamerging")]
    AdaMerging,
}

/// The mask of the final model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvalMask {
    /// The probabilities `σ(x)`.
    #[default]
    Expected,
    /// One relaxed draw; in Concrete AdaMerging the one that the coefficients were trained under.
    Continuous,
    /// The same draw, as zeros and ones.
    Discrete,
}

/// Settings of Concrete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConcreteConfig {
    /// What is learned beside the mask.
    pub algorithm: Algorithm,
    /// What a coefficient of Concrete AdaMerging belongs to.
    pub granularity: Granularity,
    /// The coefficients, or what they start from.
    pub scaling: f64,
    /// `T`: the lower, the nearer the mask is to zeros and ones.
    pub temperature: f64,
    /// What all logits start from.
    pub initial_logits: f64,
    /// Learning rate of the logits.
    pub lr: f64,
    /// Learning rate of the coefficients' step against which Concrete AdaMerging trains the mask. At 1, the published value, that step
    /// ends at 0 or 1; small models do better with 0.01.
    pub base_lr: f64,
    /// Learning rate of the coefficients under the final mask.
    pub adamerging_lr: f64,
    /// Steps of the mask.
    pub steps: usize,
    /// Steps of the coefficients under the final mask.
    pub adamerging_steps: usize,
    /// Inputs of each task in a step.
    pub batch: usize,
    /// Whether coefficients count as 0 below 0 and as 1 above 1.
    pub clamp: bool,
    /// The mask of the final model.
    pub eval_mask: EvalMask,
    /// Whether a loss that keeps rising ends the run, at the lowest.
    pub early_stop: bool,
    /// What masks and the order of the inputs start from.
    pub seed: u64,
}

impl Default for ConcreteConfig {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::TaskArithmetic,
            granularity: Granularity::Layer,
            scaling: 0.3,
            temperature: 0.5,
            initial_logits: 0.0,
            lr: 1e-3,
            base_lr: 1.0,
            adamerging_lr: 1e-3,
            steps: 2000,
            adamerging_steps: 1000,
            batch: 16,
            clamp: true,
            eval_mask: EvalMask::Expected,
            early_stop: false,
            seed: 0,
        }
    }
}

impl ConcreteConfig {
    /// Check the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a setting outside its range.
    pub fn check(&self) -> Result<()> {
        let rates = [("lr", self.lr), ("base_lr", self.base_lr), ("adamerging_lr", self.adamerging_lr)];
        rates.into_iter().chain([("temperature", self.temperature)]).try_for_each(|(name, value)| above_zero(name, value))?;
        at_least_one("batch", self.batch)?;
        for (name, value) in [("scaling", self.scaling), ("initial_logits", self.initial_logits)] {
            if !value.is_finite() {
                return Err(Error::InvalidConfig(format!("{name}: a finite number, not {value}")));
            }
        }
        Ok(())
    }

    /// The steps of all phases.
    pub fn all_steps(&self) -> usize {
        match self.algorithm {
            Algorithm::TaskArithmetic => self.steps,
            Algorithm::AdaMerging => self.steps + self.adamerging_steps,
        }
    }
}
