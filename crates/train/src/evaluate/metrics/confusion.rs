//! How often each class was predicted for each: what all scores of a classifier follow from.

use peft_core::{Error, Result};
use serde::Serialize;

/// Counts of predictions, `[expected][predicted]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Confusion {
    counts: Vec<Vec<usize>>,
}

/// How the scores of several classes become one. Classes that were neither expected nor predicted do not take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// Those of class 1 alone.
    Binary,
    /// Each class counts the same.
    Macro,
    /// Each prediction counts the same.
    Micro,
    /// Each class counts as often as it was expected.
    Weighted,
}

/// The scores of one class, or an average; a score whose denominator is 0 is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClassScores {
    /// Right predictions of the class over all predictions of it.
    pub precision: f64,
    /// Right predictions of the class over all examples of it.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
    /// Examples of the class.
    pub support: usize,
}

impl Confusion {
    /// Count predictions of `num_labels` classes.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if there are no examples, one list is longer than the other, or a class is out of range.
    pub fn new(predicted: &[usize], expected: &[usize], num_labels: usize) -> Result<Self> {
        check_lengths(predicted.len(), expected.len())?;
        if let Some(label) = predicted.iter().chain(expected).find(|label| **label >= num_labels) {
            return Err(Error::InvalidConfig(format!("class {label} is outside the {num_labels} classes, which count from 0")));
        }
        Ok(Self::of(predicted.iter().copied().zip(expected.iter().copied()), num_labels))
    }

    /// Count pairs of predicted and expected classes that are known to be below `num_labels`.
    pub(super) fn of(pairs: impl Iterator<Item = (usize, usize)>, num_labels: usize) -> Self {
        let mut counts = vec![vec![0; num_labels]; num_labels];
        for (predicted, expected) in pairs {
            counts[expected][predicted] += 1;
        }
        Self { counts }
    }

    /// The counts, `[expected][predicted]`.
    pub fn counts(&self) -> &[Vec<usize>] {
        &self.counts
    }

    fn right(&self) -> usize {
        (0..self.counts.len()).map(|class| self.counts[class][class]).sum()
    }

    fn expected(&self, class: usize) -> usize {
        self.counts[class].iter().sum()
    }

    fn predicted(&self, class: usize) -> usize {
        self.counts.iter().map(|row| row[class]).sum()
    }

    /// The scores of one class.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn class(&self, class: usize) -> ClassScores {
        let (right, expected, predicted) = (self.counts[class][class], self.expected(class), self.predicted(class));
        ClassScores {
            precision: ratio(right, predicted),
            recall: ratio(right, expected),
            f1: ratio(2 * right, expected + predicted),
            support: expected,
        }
    }

    /// The scores of all classes together.
    pub fn average(&self, average: Average) -> ClassScores {
        let classes: Vec<usize> = (0..self.counts.len()).filter(|class| self.expected(*class) + self.predicted(*class) > 0).collect();
        let support = self.counts.iter().flatten().sum();
        let weighted = |weight: &dyn Fn(&ClassScores) -> f64| {
            let scores: Vec<ClassScores> = classes.iter().map(|class| self.class(*class)).collect();
            let total: f64 = scores.iter().map(weight).sum();
            let mean = |of: fn(&ClassScores) -> f64| scores.iter().map(|score| weight(score) * of(score)).sum::<f64>() / total.max(1.0);
            ClassScores { precision: mean(|s| s.precision), recall: mean(|s| s.recall), f1: mean(|s| s.f1), support }
        };
        match average {
            Average::Binary if self.counts.len() > 1 => self.class(1),
            Average::Binary => ClassScores::default(),
            Average::Macro => weighted(&|_| 1.0),
            Average::Weighted => weighted(&|score| score.support as f64),
            // Every wrong prediction is one too many of a class and one too few of another.
            Average::Micro => {
                let share = ratio(self.right(), support);
                ClassScores { precision: share, recall: share, f1: share, support }
            }
        }
    }

    /// Share of right predictions.
    pub fn accuracy(&self) -> f64 {
        ratio(self.right(), self.counts.iter().flatten().sum())
    }

    /// Matthews' correlation coefficient, for any number of classes (Gorodkin 2004); 0 where it is undefined, because all examples or
    /// all predictions are of one class.
    pub fn matthews(&self) -> f64 {
        let all = self.counts.iter().flatten().sum::<usize>() as f64;
        let classes = 0..self.counts.len();
        let (mut both, mut expected, mut predicted) = (0.0, 0.0, 0.0);
        for class in classes {
            let (e, p) = (self.expected(class) as f64, self.predicted(class) as f64);
            both += e * p;
            expected += e * e;
            predicted += p * p;
        }
        let spread = (all * all - predicted) * (all * all - expected);
        if spread > 0.0 { (self.right() as f64 * all - both) / spread.sqrt() } else { 0.0 }
    }
}

pub(super) fn check_lengths(predicted: usize, expected: usize) -> Result<()> {
    match (predicted, expected) {
        (0, 0) => Err(Error::InvalidConfig("there are no examples to score".into())),
        (p, e) if p != e => Err(Error::InvalidConfig(format!("there are {p} predictions for {e} examples"))),
        _ => Ok(()),
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_outside_the_range_is_named() {
        let error = Confusion::new(&[0, 3], &[0, 1], 3).unwrap_err().to_string();
        assert_eq!(error, "invalid configuration: class 3 is outside the 3 classes, which count from 0");
        assert!(Confusion::new(&[0], &[0, 1], 2).unwrap_err().to_string().contains("1 predictions for 2 examples"));
        assert!(Confusion::new(&[], &[], 2).unwrap_err().to_string().contains("no examples"));
    }

    #[test]
    fn one_class_only_has_no_correlation() {
        assert_eq!(Confusion::new(&[1, 1], &[1, 1], 2).unwrap().matthews(), 0.0);
        assert_eq!(Confusion::new(&[0, 1], &[0, 1], 2).unwrap().matthews(), 1.0);
        assert_eq!(Confusion::new(&[1, 0], &[0, 1], 2).unwrap().matthews(), -1.0);
    }
}
