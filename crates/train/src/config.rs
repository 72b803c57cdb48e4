//! Settings of a run.

use crate::data::Plan;
use crate::optimizer::OptimizerConfig;
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Settings of a run.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct TrainConfig {
    /// Passes over the data.
    pub epochs: usize,
    /// Optimizer steps in all, in place of `epochs`.
    pub max_steps: Option<usize>,
    /// Examples in one batch on one device.
    pub batch_size: usize,
    /// Batches of each device to one optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Put several examples into each row of up to this many tokens. A batch then has `batch_size` such rows.
    pub packing: Option<usize>,
    /// Put examples of similar length into a batch.
    pub group_by_length: bool,
    /// Evaluate every so many steps, besides the end.
    pub eval_steps: Option<usize>,
    /// Write a checkpoint to resume from every so many steps.
    pub save_steps: Option<usize>,
    /// Keep the newest so many checkpoints, also when the run is over. Without it the newest is kept, until the run is over.
    pub save_total_limit: Option<usize>,
    /// End with the parameters of the best evaluation instead of the last ones.
    pub load_best_model_at_end: bool,
    /// What makes an evaluation the best: `loss` (lowest), or a metric of the task (highest).
    pub metric_for_best_model: String,
    /// End after so many evaluations in a row that were no better than the best.
    pub early_stopping_patience: Option<usize>,
    /// Determines the order of the data and every random number.
    pub seed: u64,
    /// The optimizer.
    #[serde(flatten)]
    pub optimizer: OptimizerConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            max_steps: None,
            batch_size: 8,
            gradient_accumulation_steps: 1,
            packing: None,
            group_by_length: false,
            eval_steps: None,
            save_steps: None,
            save_total_limit: None,
            load_best_model_at_end: false,
            metric_for_best_model: LOSS.into(),
            early_stopping_patience: None,
            seed: 0,
            optimizer: OptimizerConfig::default(),
        }
    }
}

/// The metric that every task has.
pub(crate) const LOSS: &str = "loss";

impl TrainConfig {
    /// Check the ranges.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("epochs", Some(self.epochs)),
            ("max_steps", self.max_steps),
            ("batch_size", Some(self.batch_size)),
            ("gradient_accumulation_steps", Some(self.gradient_accumulation_steps)),
            ("eval_steps", self.eval_steps),
            ("save_steps", self.save_steps),
            ("save_total_limit", self.save_total_limit),
            ("early_stopping_patience", self.early_stopping_patience),
            ("packing", self.packing),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == Some(0)) {
            return Err(Error::InvalidConfig(format!("{name} must be at least 1")));
        }
        if self.packing.is_some() && self.group_by_length {
            return Err(Error::InvalidConfig("packing leaves nothing to group by length; choose one of them".into()));
        }
        self.optimizer.validate()
    }

    /// Say which settings do nothing in a run of so many steps.
    pub(crate) fn warn_of_idle(&self, steps: usize) {
        if self.optimizer.warmup_steps >= steps && self.optimizer.warmup_steps > 0 {
            tracing::warn!(
                "warmup_steps is {} and the run has {steps} steps: it ends before the learning rate is reached",
                self.optimizer.warmup_steps
            );
        }
        for (name, every, what) in [
            ("eval_steps", self.eval_steps, "it is evaluated at its end alone"),
            ("save_steps", self.save_steps, "no checkpoint is written"),
        ] {
            if let Some(every) = every.filter(|every| *every >= steps) {
                tracing::warn!("{name} is {every} and the run has {steps} steps: {what}");
            }
        }
    }

    /// Whether evaluations are compared with each other.
    pub(crate) fn needs_best(&self) -> bool {
        self.load_best_model_at_end || self.early_stopping_patience.is_some()
    }

    /// The batches that a run makes of examples of these lengths.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without examples, or if one does not fit in a packed row.
    pub fn plan(&self, lengths: &[u32]) -> Result<Plan> {
        match self.packing {
            Some(capacity) => Plan::packed(lengths, capacity, self.batch_size, self.seed),
            None if self.group_by_length => Plan::grouped(lengths, self.batch_size, self.seed),
            None => Plan::shuffled(lengths.len(), self.batch_size, self.seed),
        }
    }

    /// The settings that determine the losses of a run: a checkpoint is continued with these alone.
    pub(crate) fn decisive(&self) -> Self {
        Self { eval_steps: None, save_steps: None, save_total_limit: None, ..self.clone() }
    }
}
