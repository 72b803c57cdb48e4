//! How the coefficients are learned.

use super::{Atlas, Objective};
use crate::composition::{Descent, Loss, Step, Stream, host};
use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::{Error, Result};

/// What becomes of the present coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// They are the best so far.
    Best,
    /// They are not.
    Other,
    /// They are not, and no others will be looked for.
    Stop,
}

impl<M: Module> Atlas<M> {
    /// Learn the coefficients. The loss is the sum of what `objective` says of one batch of each stream, a negation's first one counted
    /// negatively; `on_step` sees each step.
    ///
    /// # Errors
    /// [`Error::NonFinite`] with step and task for a loss that is no number, or a coefficient: they stay as they were before the step.
    /// [`Error::InvalidConfig`] without streams, or for a negation without a target and a control.
    pub fn train<B>(
        &mut self,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        mut on_step: impl FnMut(&Step),
    ) -> Result<()> {
        self.train_choosing(self.config.steps.max(1), streams, objective, |_| Ok(Choice::Best), &mut on_step)
    }

    /// Learn the coefficients, and end with those that `judge` says are best, looking at the model after every `every` steps and at the
    /// end. With none, the start is best.
    ///
    /// # Errors
    /// Those of [`train`](Self::train) and of `judge`.
    pub fn train_choosing<B>(
        &mut self,
        every: usize,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        mut judge: impl FnMut(&M) -> Result<Choice>,
        on_step: &mut dyn FnMut(&Step),
    ) -> Result<()> {
        self.check_streams(streams)?;
        if let Some(most) = self.config.select_top.filter(|_| self.step == 0) {
            self.select(most, streams, objective)?;
        }
        let mut descent = Descent::new(false);
        let mut best = self.values.clone();
        while self.step < self.config.steps {
            self.one_step(&mut descent, streams, objective, on_step)?;
            if self.step.is_multiple_of(every.max(1)) || self.step == self.config.steps {
                match judge(&self.merged())? {
                    Choice::Best => best.clone_from(&self.values),
                    Choice::Other => {}
                    Choice::Stop => break,
                }
            }
        }
        self.values = best;
        Ok(())
    }

    /// Unlearn the target: the first stream's accuracy falls while the second's, the control's, stays. `accuracies` measures both.
    ///
    /// The run ends when the control is below [`control_threshold`](super::AtlasConfig::control_threshold) of what it was, and with the
    /// coefficients that had the lowest accuracy on the target before that. Gives the accuracies that they have.
    ///
    /// # Errors
    /// Those of [`train`](Self::train) and of `accuracies`; [`Error::InvalidConfig`] if the objective is another.
    pub fn negate<B>(
        &mut self,
        every: usize,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        mut accuracies: impl FnMut(&M) -> Result<[f64; 2]>,
        on_step: &mut dyn FnMut(&Step),
    ) -> Result<[f64; 2]> {
        if self.config.objective != Objective::Negation {
            return Err(Error::InvalidConfig("objective: negation is what unlearns a task".into()));
        }
        self.check_streams(streams)?;
        let start = accuracies(&self.merged())?;
        let least = self.config.control_threshold * start[1];
        let mut best = start;
        let judge = |model: &M| {
            let found = accuracies(model)?;
            Ok(match found {
                [_, control] if control < least => Choice::Stop,
                [target, _] if target < best[0] => {
                    best = found;
                    Choice::Best
                }
                _ => Choice::Other,
            })
        };
        self.train_choosing(every, streams, objective, judge, on_step)?;
        Ok(best)
    }

    fn check_streams<B>(&self, streams: &[Stream<'_, B>]) -> Result<()> {
        if self.config.objective == Objective::Negation && streams.len() != 2 {
            let reason = "objective: negation needs two streams of data: the target to unlearn, then the control to keep";
            return Err(Error::InvalidConfig(format!("{reason}; there are {}", streams.len())));
        }
        let names = self.vectors.names();
        if let ([stream], true) = (streams, names.len() > 1 && self.config.objective == Objective::Ce)
            && names.contains(&stream.task)
        {
            tracing::warn!("task `{}` is to be learned and is among the task vectors", stream.task);
        }
        Ok(())
    }

    fn one_step<B>(
        &mut self,
        descent: &mut Descent,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        on_step: &mut dyn FnMut(&Step),
    ) -> Result<()> {
        let step = self.step + 1;
        let model = self.merged();
        let slope = descent.slope(&self.vectors, &model, streams, objective, (step, &|stream| self.config.sign(stream)))?;
        drop(model);
        on_step(&Step { step, steps: self.config.steps, trained: "coefficients", losses: &slope.losses });
        if self.config.objective == Objective::Entropy || self.config.objective == Objective::Ufm {
            let _ = descent.judge(&slope.losses, || {});
        }
        let mut gradient = self.gradient(slope.gradients);
        self.add_penalty(&mut gradient);
        self.clip(&mut gradient);
        let tensor = |numbers: &[f32]| Tensor::<1>::from_floats(numbers, self.vectors.device());
        let (value, gradient) = (tensor(&self.values), tensor(&gradient));
        let values = host(self.adam.step(0, value, gradient, self.config.rate(step)));
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::NonFinite { what: format!("a coefficient after step {step}") });
        }
        (self.values, self.step) = (values, step);
        Ok(())
    }

    /// Add the gradient of `0.5 · mean_b ‖Λ_{:,b}‖_p`.
    fn add_penalty(&self, gradient: &mut [f32]) {
        let Some(p) = self.config.lp_reg else { return };
        let columns = self.slots.columns();
        let weight = 0.5 / columns.len() as f32;
        for column in columns {
            let norm = column.iter().map(|place| self.values[*place].powi(2)).sum::<f32>().sqrt();
            for place in column {
                let value = self.values[place];
                gradient[place] += match p {
                    _ if value == 0.0 => 0.0,
                    1 => weight * value.signum(),
                    _ => weight * value / norm,
                };
            }
        }
    }

    fn clip(&self, gradient: &mut [f32]) {
        let Some(most) = self.config.clip else { return };
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        // What PyTorch adds to the norm.
        let scale = most / (norm + 1e-6);
        if scale < 1.0 {
            gradient.iter_mut().for_each(|g| *g = (f64::from(*g) * scale) as f32);
        }
    }
}
