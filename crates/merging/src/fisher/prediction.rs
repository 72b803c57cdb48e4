//! What a model says of one example, and the directions in which its gradients are taken.
//!
//! For logits `z` and a prediction `y`, `∂ log p(y) / ∂z` is one at `y` less the probabilities: a constant, known before the backward pass. So
//! every gradient here is that of a sum of outputs times a constant direction, for classes and for numbers alike.

use super::estimate::{Estimator, FisherConfig};
use burn::tensor::{DType, Tensor};
use peft_core::{Error, Result, as_type};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use std::ops::Range;

/// More classes take as many backward passes for each row.
const MOST_CLASSES: usize = 1000;

/// What a model says of one example.
#[derive(Clone, Debug)]
pub enum Prediction {
    /// A class for each row, one for an example or one for each token, independent of each other given the input.
    Classes {
        /// `[rows, classes]`.
        logits: Tensor<2>,
        /// The right class of each row, for [`Estimator::Empirical`].
        labels: Option<Vec<usize>>,
    },
    /// Numbers, each normal with variance 1 around what the model says.
    Numbers {
        /// `[rows, numbers]`.
        means: Tensor<2>,
        /// The right numbers, row by row, for [`Estimator::Empirical`].
        labels: Option<Vec<f32>>,
    },
}

/// What the model says of the example, on the host.
pub(super) struct Host {
    /// Columns.
    pub outputs: usize,
    rows: usize,
    /// Probabilities or means, row by row.
    values: Vec<f32>,
    labels: Labels,
}

enum Labels {
    Classes(Option<Vec<usize>>),
    Numbers(Option<Vec<f32>>),
}

/// One backward pass.
pub(super) struct Term {
    /// What the square of the gradient counts.
    pub weight: f64,
    /// The rows of the outputs that take part.
    pub rows: Range<usize>,
    target: Target,
}

/// What is predicted for the rows of a term.
enum Target {
    /// A class for each row.
    Classes(Vec<usize>),
    /// For numbers the direction itself.
    Direction(Vec<f32>),
}

impl Prediction {
    /// Classes by their logits `[rows, classes]`.
    pub fn logits(logits: Tensor<2>) -> Self {
        Self::Classes { logits, labels: None }
    }

    /// Numbers `[rows, numbers]`.
    pub fn numbers(means: Tensor<2>) -> Self {
        Self::Numbers { means, labels: None }
    }

    pub(super) fn outputs(&self) -> &Tensor<2> {
        match self {
            Self::Classes { logits: outputs, .. } | Self::Numbers { means: outputs, .. } => outputs,
        }
    }

    /// The outputs in f32.
    pub(super) fn into_outputs(self) -> Tensor<2> {
        match self {
            Self::Classes { logits: outputs, .. } | Self::Numbers { means: outputs, .. } => as_type(outputs, DType::F32),
        }
    }
}

impl Host {
    /// Reads the outputs for example `number` from their device.
    pub fn of(prediction: &Prediction, number: usize) -> Result<Self> {
        let [rows, outputs] = prediction.outputs().dims();
        let values = prediction.outputs().clone().without_autodiff().try_into_vec_as::<f32>();
        let mut values = values.map_err(|e| Error::Device(format!("outputs could not be read: {e}")))?;
        if !values.iter().all(|value| value.is_finite()) {
            return Err(Error::NonFinite { what: format!("the model's outputs for example {number}") });
        }
        let labels = match prediction {
            Prediction::Classes { labels, .. } => {
                values.chunks_mut(outputs.max(1)).for_each(softmax);
                Labels::Classes(labels.clone())
            }
            Prediction::Numbers { labels, .. } => Labels::Numbers(labels.clone()),
        };
        Ok(Self { outputs, rows, values, labels })
    }

    /// The backward passes for this example.
    pub fn terms(&self, config: &FisherConfig, rng: &mut ChaCha8Rng) -> Result<Vec<Term>> {
        match (config.estimator, &self.labels) {
            (Estimator::Exact, Labels::Classes(_)) => self.all_classes(),
            (Estimator::Exact, Labels::Numbers(_)) => Ok(self.all_numbers()),
            (Estimator::Sampled { samples }, Labels::Classes(_)) => {
                let draw = |rng: &mut ChaCha8Rng| (0..self.rows).map(|row| self.draw(row, rng)).collect::<Vec<_>>();
                let drawn = (0..samples).flat_map(|_| self.of_classes(&draw(rng), config.per_row, 1.0 / samples as f64));
                Ok(drawn.collect())
            }
            (Estimator::Sampled { samples }, Labels::Numbers(_)) => {
                // A number less its mean is what was drawn.
                let draw = |rng: &mut ChaCha8Rng| (0..self.values.len()).map(|_| rng.sample(StandardNormal)).collect::<Vec<f32>>();
                let drawn = (0..samples).flat_map(|_| self.along(&draw(rng), config.per_row, 1.0 / samples as f64));
                Ok(drawn.collect())
            }
            (Estimator::Empirical, Labels::Classes(Some(labels))) => {
                let (rows, classes) = (self.rows, self.outputs);
                match labels.iter().find(|label| **label >= classes) {
                    Some(label) => Err(Error::InvalidConfig(format!("label {label} is none of {classes} classes, which count from 0"))),
                    None if labels.len() != rows => Err(Error::InvalidConfig(format!("{} labels for {rows} rows", labels.len()))),
                    None => Ok(self.of_classes(labels, config.per_row, 1.0)),
                }
            }
            (Estimator::Empirical, Labels::Numbers(Some(labels))) => {
                if labels.len() != self.values.len() {
                    return Err(Error::InvalidConfig(format!("{} labels for {} numbers", labels.len(), self.values.len())));
                }
                let residuals: Vec<f32> = labels.iter().zip(&self.values).map(|(label, mean)| label - mean).collect();
                Ok(self.along(&residuals, config.per_row, 1.0))
            }
            (Estimator::Empirical, Labels::Classes(None) | Labels::Numbers(None)) => {
                Err(Error::InvalidConfig("the empirical Fisher information needs labels, and an example has none".into()))
            }
        }
    }

    /// Along which the outputs of a term are summed.
    pub fn direction(&self, term: &Term) -> Vec<f32> {
        match &term.target {
            Target::Direction(direction) => direction.clone(),
            Target::Classes(classes) => {
                let probabilities = &self.values[term.rows.start * self.outputs..term.rows.end * self.outputs];
                let mut direction: Vec<f32> = probabilities.iter().map(|p| -p).collect();
                for (row, class) in classes.iter().enumerate() {
                    direction[row * self.outputs + class] += 1.0;
                }
                direction
            }
        }
    }

    fn all_classes(&self) -> Result<Vec<Term>> {
        if self.outputs > MOST_CLASSES {
            return Err(Error::InvalidConfig(format!(
                "the exact estimator takes a backward pass for each of {} classes, of which {MOST_CLASSES} are the most it goes through; use \
                 the sampled estimator",
                self.outputs
            )));
        }
        let term = |(place, probability): (usize, &f32)| {
            let (row, class) = (place / self.outputs, place % self.outputs);
            Term { weight: f64::from(*probability), rows: row..row + 1, target: Target::Classes(vec![class]) }
        };
        // A class that cannot be does not count, and needs no pass.
        Ok(self.values.iter().enumerate().filter(|(_, probability)| **probability > 0.0).map(term).collect())
    }

    /// The expected square along a normal vector is the sum of the squares along the axes.
    fn all_numbers(&self) -> Vec<Term> {
        let axis = |place: usize| {
            let row = place / self.outputs;
            let direction = (0..self.outputs).map(|column| if column == place % self.outputs { 1.0 } else { 0.0 }).collect();
            Term { weight: 1.0, rows: row..row + 1, target: Target::Direction(direction) }
        };
        (0..self.values.len()).map(axis).collect()
    }

    fn of_classes(&self, classes: &[usize], per_row: bool, weight: f64) -> Vec<Term> {
        let term = |rows: Range<usize>| Term { weight, target: Target::Classes(classes[rows.clone()].to_vec()), rows };
        self.groups(per_row).map(term).collect()
    }

    fn along(&self, direction: &[f32], per_row: bool, weight: f64) -> Vec<Term> {
        let values = |rows: &Range<usize>| direction[rows.start * self.outputs..rows.end * self.outputs].to_vec();
        let term = |rows: Range<usize>| Term { weight, target: Target::Direction(values(&rows)), rows };
        self.groups(per_row).map(term).collect()
    }

    /// The rows that share a backward pass.
    fn groups(&self, per_row: bool) -> impl Iterator<Item = Range<usize>> + use<> {
        let size = if per_row { 1 } else { self.rows.max(1) };
        (0..self.rows).step_by(size).map(move |row| row..row + size)
    }

    /// A class of a row, drawn by the probabilities.
    fn draw(&self, row: usize, rng: &mut ChaCha8Rng) -> usize {
        let probabilities = &self.values[row * self.outputs..(row + 1) * self.outputs];
        let mut left = rng.random::<f64>() * probabilities.iter().map(|p| f64::from(*p)).sum::<f64>();
        let reached = probabilities.iter().position(|p| {
            left -= f64::from(*p);
            left < 0.0
        });
        // Rounding may leave a last bit over.
        reached.unwrap_or_else(|| probabilities.iter().rposition(|p| *p > 0.0).unwrap_or(0))
    }
}

fn softmax(logits: &mut [f32]) {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, x| largest.max(*x));
    let exponentials = |x: f32| f64::from(x - largest).exp();
    let sum: f64 = logits.iter().map(|x| exponentials(*x)).sum();
    logits.iter_mut().for_each(|x| *x = (exponentials(*x) / sum) as f32);
}
