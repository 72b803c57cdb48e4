//! What is reported of a classifier.

use super::confusion::{Average, ClassScores, Confusion};
use super::estimate::Estimate;
use peft_core::Result;
use serde::Serialize;

/// The scores of a classifier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Classification {
    /// Examples.
    pub examples: usize,
    /// Share of right predictions.
    pub accuracy: Estimate,
    /// F1 of class 1 if there are two classes, the unweighted mean of all classes' F1 (macro) if there are more.
    pub f1: Estimate,
    /// Matthews' correlation coefficient.
    pub matthews: Estimate,
    /// The scores of each class.
    pub classes: Vec<ClassScores>,
    /// Counts, `[expected][predicted]`.
    pub confusion: Confusion,
}

impl Classification {
    /// Score `predicted` classes, from 0 to below `num_labels`, against the `expected` ones.
    ///
    /// The standard error of accuracy is that of a mean; those of F1 and Matthews' coefficient come from a bootstrap.
    ///
    /// # Errors
    /// [`InvalidConfig`](peft_core::Error::InvalidConfig) if there are no examples, one list is longer than the other, or a class is out
    /// of range.
    pub fn new(predicted: &[usize], expected: &[usize], num_labels: usize) -> Result<Self> {
        let confusion = Confusion::new(predicted, expected, num_labels)?;
        let right: Vec<f64> = predicted.iter().zip(expected).map(|(p, e)| f64::from(u8::from(p == e))).collect();
        let drawn = |statistic: fn(&Confusion) -> f64| {
            let of = |indices: &[usize]| {
                let pairs = indices.iter().map(|index| (predicted[*index], expected[*index]));
                Some(statistic(&Confusion::of(pairs, num_labels)))
            };
            Estimate::bootstrap(predicted.len(), of).expect("these statistics are always defined")
        };
        Ok(Self {
            examples: predicted.len(),
            accuracy: Estimate::mean(&right),
            f1: drawn(f1),
            matthews: drawn(Confusion::matthews),
            classes: (0..num_labels).map(|class| confusion.class(class)).collect(),
            confusion,
        })
    }
}

fn f1(confusion: &Confusion) -> f64 {
    let average = if confusion.counts().len() == 2 { Average::Binary } else { Average::Macro };
    confusion.average(average).f1
}
