//! Learning-rate schedules, as in transformers.

use burn::optim::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the learning rate moves after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerType {
    /// Falls to 0 in a straight line.
    #[default]
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
    /// Stays.
    Constant,
}

/// A learning rate that rises from 0 over `warmup` steps and then moves as `kind` says until step `total`.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The rate at the end of warm-up.
    pub peak: f64,
    /// Steps of warm-up.
    pub warmup: usize,
    /// All steps.
    pub total: usize,
    /// What follows warm-up.
    pub kind: SchedulerType,
    /// Steps taken.
    pub step: usize,
}

impl Schedule {
    /// The rate of step `step`, from 0.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let rest = self.total.saturating_sub(self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / rest).min(1.0);
        self.peak
            * match self.kind {
                SchedulerType::Constant => 1.0,
                SchedulerType::Linear => 1.0 - progress,
                SchedulerType::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
            }
    }
}

impl LrScheduler for Schedule {
    fn step(&mut self) -> f64 {
        let rate = self.rate(self.step);
        self.step += 1;
        rate
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar("step", self.step as u64)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        if let Some(step) = record.scalar::<u64>("step") {
            self.step = step as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: SchedulerType) -> Vec<f64> {
        let mut schedule = Schedule { peak: 1.0, warmup: 2, total: 6, kind, step: 0 };
        (0..7).map(|_| (LrScheduler::step(&mut schedule) * 1e4).round() / 1e4).collect()
    }

    /// The numbers of transformers 5.23, `get_scheduler(kind, num_warmup_steps=2, num_training_steps=6)`.
    #[test]
    fn rates_are_those_of_transformers() {
        assert_eq!(rates(SchedulerType::Linear), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(rates(SchedulerType::Cosine), [0.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 0.0]);
        assert_eq!(rates(SchedulerType::Constant), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
    }
}
