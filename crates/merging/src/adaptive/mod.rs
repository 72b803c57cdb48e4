//! AdaMerging: how much of each task vector a merged model has is learned on inputs without labels.
//!
//! `θ_b = θ⁰_b + Σ_i clamp(λ_i, 0, 1) τ_{i,b}`, with one `λ_i` for a task or one for each of its parameters, trained to make the model sure
//! of its predictions: the mean entropy of `softmax(h_i(f_θ(x)))` over the inputs of all tasks, with the frozen head `h_i` of each.
//! With `trim`, task vectors are first reduced to their largest entries of the elected sign (AdaMerging++).
//!
//! Yang et al., "AdaMerging: Adaptive Model Merging for Multi-Task Learning", ICLR 2024, arXiv 2310.02575.

mod scales;
mod trim;

use crate::composition::{Coefficient, Descent, InnerProducts, Loss, Step, Stream, TaskVectors, above_zero, at_least_one};
use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};

pub(crate) use scales::Scales;
pub use trim::Trim;

/// What a coefficient belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// A whole task vector.
    Task,
    /// A parameter of a task vector; "layer-wise" in the paper.
    #[default]
    Layer,
}

/// Settings of AdaMerging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaMergingConfig {
    /// What a coefficient belongs to.
    pub granularity: Granularity,
    /// What all coefficients start from.
    pub scaling: f64,
    /// Learning rate of Adam.
    pub lr: f64,
    /// Steps.
    pub steps: usize,
    /// Inputs of each task in a step.
    pub batch: usize,
    /// Whether coefficients count as 0 below 0 and as 1 above 1.
    pub clamp: bool,
    /// AdaMerging++: the share of each task vector that is kept, 0.2 in the paper.
    pub trim: Option<f64>,
    /// Whether a loss that keeps rising ends the run, at the lowest.
    pub early_stop: bool,
    /// What the order of the inputs starts from.
    pub seed: u64,
}

impl Default for AdaMergingConfig {
    fn default() -> Self {
        Self {
            granularity: Granularity::Layer,
            scaling: 0.3,
            lr: 1e-3,
            steps: 500,
            batch: 16,
            clamp: true,
            trim: None,
            early_stop: false,
            seed: 0,
        }
    }
}

impl AdaMergingConfig {
    /// Check the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a setting outside its range.
    pub fn check(&self) -> Result<()> {
        above_zero("lr", self.lr)?;
        at_least_one("batch", self.batch)?;
        match self.scaling.is_finite() {
            true => Ok(()),
            false => Err(Error::InvalidConfig(format!("scaling: a finite number, not {}", self.scaling))),
        }
    }
}

/// A merge whose coefficients are learned.
pub struct AdaMerging<M> {
    vectors: TaskVectors<M>,
    config: AdaMergingConfig,
    trim: Option<Trim>,
    scales: Scales,
}

impl<M: Module> AdaMerging<M> {
    /// All coefficients at their start.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a setting outside its range.
    pub fn new(vectors: TaskVectors<M>, config: AdaMergingConfig) -> Result<Self> {
        config.check()?;
        let trim = config.trim.map(|density| Trim::new(&vectors, density)).transpose()?;
        let scales = Scales::new(&vectors, config.granularity, config.scaling, config.clamp);
        Ok(Self { vectors, config, trim, scales })
    }

    /// Learn the coefficients. The loss is the sum of what `objective` says of one batch of each stream, usually the mean entropy of the
    /// predictions; `on_step` sees each step.
    ///
    /// # Errors
    /// [`Error::NonFinite`] with step and task for a loss that is no number, or a coefficient: they stay as they were before the step.
    /// [`Error::InvalidConfig`] without streams.
    pub fn train<B>(
        &mut self,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        mut on_step: impl FnMut(&Step),
    ) -> Result<()> {
        let Self { vectors, config, trim, scales } = self;
        let (vectors, trim) = (&*vectors, trim.as_ref());
        let of_block = |block: usize| trimmed(vectors, trim, block);
        let run = Adapt { steps: config.steps, first: 0, all: config.steps, lr: config.lr, early_stop: config.early_stop };
        run.adapt((vectors, scales, &of_block), streams, objective, &mut on_step)
    }

    /// The merged model. Parameters that are not merged are the base's.
    pub fn merged(&self) -> M {
        self.vectors.compose(|block| self.scales.sum(block, trimmed(&self.vectors, self.trim.as_ref(), block)))
    }

    /// The coefficients as they count.
    pub fn coefficients(&self) -> Vec<Coefficient> {
        self.scales.coefficients(&self.vectors)
    }

    /// The task vectors.
    pub fn vectors(&self) -> &TaskVectors<M> {
        &self.vectors
    }
}

fn trimmed<M: Module>(vectors: &TaskVectors<M>, trim: Option<&Trim>, block: usize) -> Vec<Tensor<1>> {
    let deltas = vectors.deltas(block);
    match trim {
        Some(trim) => trim.apply(deltas),
        None => deltas,
    }
}

/// A run that trains scales.
pub(crate) struct Adapt {
    /// How many steps.
    pub steps: usize,
    /// How many steps other runs have made before it.
    pub first: usize,
    /// How many steps all runs make.
    pub all: usize,
    /// Learning rate.
    pub lr: f64,
    /// Whether a loss that keeps rising ends the run.
    pub early_stop: bool,
}

impl Adapt {
    /// Train the scales of what `of_block` gives for each task.
    pub fn adapt<M: Module, B>(
        &self,
        (vectors, scales, of_block): (&TaskVectors<M>, &mut Scales, &dyn Fn(usize) -> Vec<Tensor<1>>),
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        on_step: &mut dyn FnMut(&Step),
    ) -> Result<()> {
        let mut descent = Descent::new(self.early_stop);
        let mut best = None;
        for step in 1 + self.first..=self.steps + self.first {
            let model = vectors.compose(|block| scales.sum(block, of_block(block)));
            let slope = descent.slope(vectors, &model, streams, objective, (step, &|_| 1.0))?;
            drop(model);
            let present = scales.values.clone();
            let judged = descent.judge(&slope.losses, || best = Some(present));
            on_step(&Step { step, steps: self.all, trained: "coefficients", losses: &slope.losses });
            if judged.is_break() {
                break;
            }
            scales.step(products(vectors.tasks(), slope.gradients, of_block), self.lr, step)?;
        }
        if let Some(best) = best {
            scales.values = best;
        }
        Ok(())
    }
}

/// `⟨∂L/∂θ_b, v_{i,b}⟩` in the order of tasks, then blocks.
pub(crate) fn products(tasks: usize, gradients: Vec<Option<Tensor<1>>>, of_block: &dyn Fn(usize) -> Vec<Tensor<1>>) -> Vec<f32> {
    let blocks = gradients.len();
    let mut products = InnerProducts::default();
    for (block, gradient) in gradients.into_iter().enumerate() {
        let Some(gradient) = gradient else { continue };
        of_block(block).into_iter().enumerate().for_each(|(task, vector)| products.add(task * blocks + block, gradient.clone(), vector));
    }
    products.read(tasks * blocks)
}
