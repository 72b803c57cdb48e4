//! Signs that an objective without labels has gone astray.

use std::collections::{BTreeMap, VecDeque};

/// How many steps the loss must have been high, one after the other.
const STEPS: usize = 200;
/// How far above its lowest the smoothed loss is high.
const RISE: f64 = 0.05;
/// The weight of the past in the smoothed loss.
const MEMORY: f64 = 0.95;
/// How many predictions of a task are looked at.
const PREDICTIONS: usize = 256;
/// The share of one class among them that is too much.
const COLLAPSED: f64 = 0.95;

/// Watches losses and predictions.
#[derive(Default)]
pub struct Guard {
    smoothed: Option<f64>,
    lowest: f64,
    high: usize,
    tasks: BTreeMap<String, Task>,
}

#[derive(Default)]
struct Task {
    recent: VecDeque<i64>,
    collapsed: bool,
}

/// What the guard thinks of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// The smoothed loss has never been lower.
    Lowest,
    /// Nothing to be said.
    Usual,
    /// The smoothed loss has been more than 5 % above its lowest for the 200th step.
    Risen,
}

impl Guard {
    /// Take note of the loss of a step.
    pub fn loss(&mut self, loss: f64) -> Trend {
        let smoothed = self.smoothed.map_or(loss, |old| MEMORY * old + (1.0 - MEMORY) * loss);
        let first = self.smoothed.replace(smoothed).is_none();
        if first || smoothed < self.lowest {
            (self.lowest, self.high) = (smoothed, 0);
            return Trend::Lowest;
        }
        self.high = if smoothed > self.lowest + RISE * self.lowest.abs() { self.high + 1 } else { 0 };
        if self.high == STEPS { Trend::Risen } else { Trend::Usual }
    }

    /// Take note of the classes that a task's batch was given; the class that nearly all of the recent ones have, once.
    pub fn predictions(&mut self, name: &str, classes: impl IntoIterator<Item = i64>) -> Option<i64> {
        let task = self.tasks.entry(name.into()).or_default();
        task.recent.extend(classes);
        while task.recent.len() > PREDICTIONS {
            task.recent.pop_front();
        }
        if task.collapsed || task.recent.len() < PREDICTIONS {
            return None;
        }
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        task.recent.iter().for_each(|class| *counts.entry(*class).or_default() += 1);
        let (class, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        task.collapsed = count as f64 > COLLAPSED * PREDICTIONS as f64;
        task.collapsed.then_some(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_stays_high_is_told_once_and_noise_is_not() {
        let mut guard = Guard::default();
        assert_eq!(guard.loss(1.0), Trend::Lowest);
        let noise = (0..1000).map(|i| guard.loss(1.0 + if i % 2 == 0 { 0.03 } else { -0.02 }));
        assert!(noise.into_iter().all(|trend| trend != Trend::Risen));
        let risen = (0..500).filter(|_| guard.loss(1.5) == Trend::Risen).count();
        assert_eq!(risen, 1);
    }

    #[test]
    fn a_task_that_predicts_one_class_is_told_once() {
        let mut guard = Guard::default();
        assert_eq!(guard.predictions("varied", (0..1000).map(|i| i % 2)), None);
        assert_eq!(guard.predictions("same", vec![7; 200]), None, "too few to say");
        assert_eq!(guard.predictions("same", vec![7; 100]), Some(7));
        assert_eq!(guard.predictions("same", vec![7; 100]), None);
    }
}
