//! One step's losses and gradients.

use super::guard::{Guard, Trend};
use super::{Stream, TaskVectors};
use burn::module::Module;
use burn::tensor::{Int, Tensor};
use peft_core::{Error, Result};
use std::ops::ControlFlow;

/// What an objective says of a model on a batch.
pub struct Loss {
    /// The loss, `[1]`.
    pub value: Tensor<1>,
    /// The predicted classes, to notice when they become one and the same.
    pub predicted: Option<Tensor<1, Int>>,
}

impl From<Tensor<1>> for Loss {
    fn from(value: Tensor<1>) -> Self {
        Self { value, predicted: None }
    }
}

/// A step that has been made.
#[derive(Clone, Debug, PartialEq)]
pub struct Step<'a> {
    /// Its number, from 1.
    pub step: usize,
    /// How many there are.
    pub steps: usize,
    /// What it trained: `coefficients` or `mask`.
    pub trained: &'static str,
    /// The loss of each task before the step.
    pub losses: &'a [(String, f32)],
}

impl Step<'_> {
    /// The sum of the losses.
    pub fn loss(&self) -> f64 {
        self.losses.iter().map(|(_, loss)| f64::from(*loss)).sum()
    }
}

/// The losses of a run, and whether they go where they should.
#[derive(Default)]
pub struct Descent {
    guard: Guard,
    early_stop: bool,
}

/// The losses of a step and the gradient of their sum, by block.
pub struct Slope {
    /// The loss of each task.
    pub losses: Vec<(String, f32)>,
    /// `Σ_tasks ∂L/∂θ_b`.
    pub gradients: Vec<Option<Tensor<1>>>,
}

impl Descent {
    /// With `early_stop`, a loss that keeps rising ends the run.
    pub fn new(early_stop: bool) -> Self {
        Self { guard: Guard::default(), early_stop }
    }

    /// The next batch of each stream through a composed model, forward and backward. `step` is told in errors, `sign` multiplies the
    /// loss of each stream.
    pub fn slope<M: Module, B>(
        &mut self,
        vectors: &TaskVectors<M>,
        model: &M,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        (step, sign): (usize, &dyn Fn(usize) -> f64),
    ) -> Result<Slope> {
        if streams.is_empty() {
            return Err(Error::InvalidConfig("there are no data to learn from: give a stream of batches for each task".into()));
        }
        let mut slope = Slope { losses: Vec::new(), gradients: vectors.blocks().map(|_| None).collect() };
        for (index, stream) in streams.iter_mut().enumerate() {
            let batch = stream.next_batch();
            let Loss { value, predicted } = objective(model, &batch);
            let loss = value.clone().without_autodiff().into_scalar::<f32>();
            if !loss.is_finite() {
                return Err(Error::NonFinite { what: format!("the loss of task `{}` in step {step}", stream.task) });
            }
            slope.losses.push((stream.task.clone(), loss));
            if let Some(predicted) = predicted {
                self.watch(&stream.task, predicted);
            }
            let value = if sign(index) == 1.0 { value } else { value * sign(index) };
            let found = vectors.gradients(model, value.backward());
            for (sum, found) in slope.gradients.iter_mut().zip(found) {
                *sum = match (sum.take(), found) {
                    (Some(sum), Some(found)) => Some(sum + found),
                    (sum, found) => sum.or(found),
                };
            }
        }
        Ok(slope)
    }

    /// Whether to go on after a step with these losses; `at_best` is called when the smoothed loss has never been lower.
    pub fn judge(&mut self, losses: &[(String, f32)], at_best: impl FnOnce()) -> ControlFlow<()> {
        match self.guard.loss(losses.iter().map(|(_, loss)| f64::from(*loss)).sum()) {
            Trend::Lowest if self.early_stop => at_best(),
            Trend::Risen if self.early_stop => {
                tracing::warn!("the loss has risen for 200 steps; the run ends at the lowest");
                return ControlFlow::Break(());
            }
            Trend::Risen => tracing::warn!("the loss has risen for 200 steps; early_stop ends such a run at the lowest"),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn watch(&mut self, task: &str, predicted: Tensor<1, Int>) {
        let classes: Vec<i64> = predicted.into_data().iter::<i64>().collect();
        if let Some(class) = self.guard.predictions(task, classes) {
            tracing::warn!(
                "task `{task}`: more than 95 % of the recent predictions are class {class}; the merged model may have collapsed"
            );
        }
    }
}

/// The numbers of a tensor of f32.
pub fn host(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().expect("task vectors are read in f32")
}
