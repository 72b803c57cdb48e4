//! Settings of aTLAS.

use crate::composition::{above_zero, at_least_one};
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a coefficient belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    /// A parameter of a task vector.
    #[default]
    Block,
    /// A whole task vector: learned task arithmetic.
    Global,
}

/// How the learning rate goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// Along a cosine to zero at the last step.
    Cosine,
}

/// What is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The labels of all streams.
    #[default]
    Ce,
    /// To unlearn the first stream, the target, and to keep the second, the control: the loss of the first counts negatively.
    Negation,
    /// Confident predictions for inputs without labels, learned from pseudo-labels (see [`ufm`](super::ufm)).
    Ufm,
    /// Sure predictions for inputs without labels.
    Entropy,
}

/// Settings of aTLAS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AtlasConfig {
    /// What a coefficient belongs to.
    pub granularity: Span,
    /// Into how many parts each matrix is split, each with a coefficient of its own. Parameters that are no matrix then have none.
    pub partition: Option<usize>,
    /// Whether parameters that are no matrix have one coefficient each beside a partition.
    pub partition_1d: bool,
    /// Of each parameter, how many task vectors are kept: those with the largest gradients at the start.
    pub select_top: Option<usize>,
    /// Learning rate of AdamW.
    pub lr: f64,
    /// How the learning rate goes.
    pub schedule: Schedule,
    /// Steps.
    pub steps: usize,
    /// Examples of each task in a step.
    pub batch: usize,
    /// Weight decay of the coefficients, which pulls to the base model.
    pub weight_decay: f64,
    /// The largest norm of the gradient; longer ones are scaled to it. None for no bound.
    pub clip: Option<f64>,
    /// `p` of the regulariser `0.5 · mean_b ‖Λ_{:,b}‖_p`, 1 or 2.
    pub lp_reg: Option<u8>,
    /// What is learned.
    pub objective: Objective,
    /// How probable a class must be to become a pseudo-label.
    pub ufm_threshold: f64,
    /// How many inputs of a class have a trusted pseudo-label at most.
    pub trusted_max: usize,
    /// What share of its accuracy the control must keep.
    pub control_threshold: f64,
    /// What the parts start from.
    pub part_seed: u64,
    /// What the order of the examples starts from.
    pub seed: u64,
}

impl Default for AtlasConfig {
    fn default() -> Self {
        Self {
            granularity: Span::Block,
            partition: None,
            partition_1d: false,
            select_top: None,
            lr: 1e-3,
            schedule: Schedule::Constant,
            steps: 500,
            batch: 16,
            weight_decay: 0.1,
            clip: Some(1.0),
            lp_reg: None,
            objective: Objective::Ce,
            ufm_threshold: 0.99,
            trusted_max: 100,
            control_threshold: 0.95,
            part_seed: 0,
            seed: 0,
        }
    }
}

impl AtlasConfig {
    /// Check the settings for so many task vectors.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a setting outside its range.
    pub fn check(&self, tasks: usize) -> Result<()> {
        let wrong = |reason: String| Err(Error::InvalidConfig(reason));
        above_zero("lr", self.lr)?;
        at_least_one("batch", self.batch)?;
        self.clip.map_or(Ok(()), |clip| above_zero("clip", clip))?;
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return wrong(format!("weight_decay: at least 0, not {}", self.weight_decay));
        }
        if let Some(p) = self.lp_reg.filter(|p| ![1, 2].contains(p)) {
            return wrong(format!("lp_reg: 1 or 2, not {p}"));
        }
        if let Some(parts) = self.partition.filter(|parts| !(1..=usize::from(u16::MAX)).contains(parts)) {
            return wrong(format!("partition: from 1 to {}, not {parts}", u16::MAX));
        }
        if let Some(top) = self.select_top.filter(|top| !(1..=tasks).contains(top)) {
            return wrong(format!("select_top: from 1 to the number of task vectors, {tasks}, not {top}"));
        }
        if self.granularity == Span::Global && (self.partition.is_some() || self.select_top.is_some()) {
            return wrong("partition and select_top are about parameters; they exclude granularity: global".into());
        }
        for (name, value) in [("ufm_threshold", self.ufm_threshold), ("control_threshold", self.control_threshold)] {
            if !(0.0..=1.0).contains(&value) {
                return wrong(format!("{name}: between 0 and 1, not {value}"));
            }
        }
        if self.objective == Objective::Negation && tasks != 1 {
            return wrong(format!("objective: negation unlearns the task of one vector, not of {tasks}"));
        }
        Ok(())
    }

    /// How the loss of a stream counts.
    pub(super) fn sign(&self, stream: usize) -> f64 {
        if self.objective == Objective::Negation && stream == 0 { -1.0 } else { 1.0 }
    }

    /// The learning rate of a step, from 1.
    pub(super) fn rate(&self, step: usize) -> f64 {
        match self.schedule {
            Schedule::Constant => self.lr,
            Schedule::Cosine => {
                let done = (step - 1) as f64 / self.steps.max(1) as f64;
                self.lr * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
            }
        }
    }
}
