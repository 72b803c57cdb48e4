//! How a mask is learned.

use super::mask::is_all_masked;
use super::{Algorithm, Concrete};
use crate::adaptive::{Adapt, products};
use crate::composition::{Descent, Loss, Step, Stream, host};
use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::{Error, Result};

impl<M: Module> Concrete<M> {
    /// Learn the mask, and the coefficients if the algorithm has some. The loss is the sum of what `objective` says of one batch of each
    /// stream, usually the mean entropy of the predictions; `on_step` sees each step.
    ///
    /// # Errors
    /// [`Error::NonFinite`] with step and task for a loss that is no number: mask and coefficients stay as they were before the step.
    /// [`Error::InvalidConfig`] without streams.
    pub fn train<B>(
        &mut self,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        mut on_step: impl FnMut(&Step),
    ) -> Result<()> {
        self.train_mask(streams, objective, &mut on_step)?;
        match self.config.algorithm {
            Algorithm::TaskArithmetic => Ok(()),
            Algorithm::AdaMerging => self.train_scales(streams, objective, &mut on_step),
        }
    }

    fn train_mask<B>(
        &mut self,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        on_step: &mut dyn FnMut(&Step),
    ) -> Result<()> {
        let mut descent = Descent::new(self.config.early_stop);
        let (mut best, mut warned) = (None, false);
        for step in 1..=self.config.steps {
            if self.config.algorithm == Algorithm::AdaMerging {
                self.inner_step(&mut descent, streams, objective, step)?;
            }
            let (model, means) = self.composed(self.draws);
            if !warned && means.iter().any(|mean| is_all_masked(*mean)) {
                let masked = means.iter().zip(self.vectors.blocks()).find(|(mean, _)| is_all_masked(**mean));
                tracing::warn!("the mask has closed over {}", masked.map(|(_, site)| site.path()).unwrap_or_default());
                warned = true;
            }
            let slope = descent.slope(&self.vectors, &model, streams, objective, (step, &|_| 1.0))?;
            drop(model);
            let present = self.logits.clone();
            let judged = descent.judge(&slope.losses, || best = Some(present));
            on_step(&Step { step, steps: self.config.all_steps(), trained: "mask", losses: &slope.losses });
            if judged.is_break() {
                break;
            }
            self.outer_step(slope.gradients, step)?;
            self.draws += 1;
        }
        if let Some(best) = best {
            self.logits = best;
        }
        Ok(())
    }

    /// One step of the coefficients from their start under a fixed mask, on a batch of its own.
    fn inner_step<B>(
        &mut self,
        descent: &mut Descent,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        step: usize,
    ) -> Result<()> {
        self.scales.reset();
        let draw = self.draws;
        let (model, _) = self.composed(draw);
        let slope = descent.slope(&self.vectors, &model, streams, objective, (step, &|_| 1.0))?;
        drop(model);
        let products = products(self.vectors.tasks(), slope.gradients, &|block| self.masked(draw, block));
        self.scales.step(products, self.config.base_lr, step)?;
        self.draws += 1;
        Ok(())
    }

    fn outer_step(&mut self, gradients: Vec<Option<Tensor<1>>>, step: usize) -> Result<()> {
        let mut sums = Vec::new();
        let mut stepped = Vec::with_capacity(self.logits.len());
        for (block, gradient) in gradients.into_iter().enumerate() {
            let logits = self.logits[block].clone();
            stepped.push(match (gradient, self.sum(block)) {
                (Some(gradient), Some(sum)) => {
                    let gradient = self.drawn(self.draws, block).gradient(gradient, sum, self.config.temperature);
                    let logits = self.adam.step(block, logits, gradient, self.config.lr);
                    sums.push(logits.clone().sum());
                    logits
                }
                _ => logits,
            });
        }
        if !sums.is_empty() && host(Tensor::cat(sums, 0)).iter().any(|sum| !sum.is_finite()) {
            return Err(Error::NonFinite { what: format!("the logits of the mask after step {step}") });
        }
        self.logits = stepped;
        Ok(())
    }

    /// The coefficients under one mask that stays.
    fn train_scales<B>(
        &mut self,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        on_step: &mut dyn FnMut(&Step),
    ) -> Result<()> {
        self.scales.restart();
        let steps = self.config.adamerging_steps;
        let run = Adapt {
            steps,
            first: self.config.steps,
            all: self.config.all_steps(),
            lr: self.config.adamerging_lr,
            early_stop: self.config.early_stop,
        };
        let mut scales = self.scales.clone();
        let trained = run.adapt((&self.vectors, &mut scales, &|block| self.masked(self.draws, block)), streams, objective, on_step);
        self.scales = scales;
        trained
    }

    /// The model under the mask of this number, and the means of the masks.
    fn composed(&self, draw: u64) -> (M, Vec<f32>) {
        let mut means = Vec::new();
        let model = self.vectors.compose(|block| {
            let mask = self.drawn(draw, block);
            means.push((block, mask.mean()));
            self.sum(block).map(|sum| mask.scaled(sum))
        });
        means.sort_by_key(|(block, _)| *block);
        (model, host(Tensor::cat(means.into_iter().map(|(_, mean)| mean).collect(), 0)))
    }

    /// `τ̂_i` of all tasks under the mask of this number.
    fn masked(&self, draw: u64, block: usize) -> Vec<Tensor<1>> {
        let mask = self.drawn(draw, block);
        self.vectors.deltas(block).into_iter().map(|delta| mask.scaled(delta)).collect()
    }
}
