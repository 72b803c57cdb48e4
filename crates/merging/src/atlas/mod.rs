//! aTLAS: task vectors as a tiny trainable basis, with one learned coefficient for each parameter of each vector.
//!
//! `θ_b = θ⁰_b + Σ_i Λ_{ib} τ_{i,b}` ("anisotropic scaling"), `Λ` from 0, of any sign and size, with `∂L/∂Λ_{ib} = ⟨∂L/∂θ_b, τ_{i,b}⟩`. With
//! `partition: K` every matrix is split at random into `K` parts, each with a coefficient of its own: a method of fine-tuning with a few
//! hundred to thousands of parameters. The coefficients serve to add tasks, to unlearn one ([`Atlas::negate`]), to adapt to a new task
//! from few examples, and to adapt to inputs without labels ([`ufm`]).
//!
//! Zhang et al., "Knowledge Composition using Task Vectors with Learned Anisotropic Scaling", NeurIPS 2024, arXiv 2407.02880.

mod config;
mod parts;
mod slots;
mod train;
pub mod ufm;

use crate::composition::{Adam, Coefficient, InnerProducts, Loss, Stream, TaskVectors, host};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use peft_core::{Error, Result};
use std::collections::HashMap;

pub use config::{AtlasConfig, Objective, Schedule, Span};
pub use train::Choice;

use parts::Parts;
use slots::Slots;

/// A merge whose coefficients have no bounds.
pub struct Atlas<M> {
    vectors: TaskVectors<M>,
    config: AtlasConfig,
    slots: Slots,
    /// `Λ`.
    values: Vec<f32>,
    adam: Adam,
    step: usize,
}

impl<M: Module> Atlas<M> {
    /// All coefficients zero: the base model.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a setting outside its range, or several task vectors to unlearn.
    pub fn new(vectors: TaskVectors<M>, config: AtlasConfig) -> Result<Self> {
        config.check(vectors.tasks())?;
        let slots = Slots::new(&vectors, &config)?;
        let values = vec![0.0; slots.count()];
        let adam = Adam::new(1, config.weight_decay);
        Ok(Self { vectors, config, slots, values, adam, step: 0 })
    }

    /// The number of coefficients.
    pub fn num_coefficients(&self) -> usize {
        self.values.len()
    }

    /// The model with these coefficients.
    pub fn merged(&self) -> M {
        self.vectors.compose(|block| self.change(block))
    }

    /// The coefficients with their names.
    pub fn coefficients(&self) -> Vec<Coefficient> {
        let names = self.vectors.names();
        if self.config.granularity == Span::Global {
            let each = names.iter().zip(&self.values);
            return each.map(|(task, value)| Coefficient { task: task.clone(), block: None, part: None, value: *value }).collect();
        }
        let mut all = Vec::with_capacity(self.values.len());
        for (task, name) in names.iter().enumerate() {
            for (block, site) in self.vectors.blocks().enumerate() {
                let Some(range) = self.slots.of(task, block) else { continue };
                let several = range.len() > 1;
                all.extend(range.enumerate().map(|(part, place)| Coefficient {
                    task: name.clone(),
                    block: Some(site.path()),
                    part: several.then_some(part),
                    value: self.values[place],
                }));
            }
        }
        all
    }

    /// Put coefficients in the place of the present ones, zeros where there are none.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for one that this merge does not have, and [`Error::NonFinite`].
    pub fn set_coefficients(&mut self, coefficients: &[Coefficient]) -> Result<()> {
        let key = |c: &Coefficient| (c.task.clone(), c.block.clone(), c.part);
        let places: HashMap<_, usize> = self.coefficients().iter().map(key).zip(self.places()).collect();
        let mut values = vec![0.0; self.values.len()];
        for new in coefficients {
            let Some(place) = places.get(&key(new)) else {
                let block = new.block.as_deref().unwrap_or("the whole vector");
                return Err(Error::InvalidConfig(format!("task `{}` has no coefficient for {block}", new.task)));
            };
            if !new.value.is_finite() {
                return Err(Error::NonFinite { what: format!("a coefficient of task `{}`", new.task) });
            }
            values[*place] = new.value;
        }
        self.values = values;
        Ok(())
    }

    /// The task vectors.
    pub fn vectors(&self) -> &TaskVectors<M> {
        &self.vectors
    }

    /// Where each of [`coefficients`](Self::coefficients) lies in `Λ`.
    fn places(&self) -> Vec<usize> {
        match self.config.granularity {
            Span::Global => (0..self.values.len()).collect(),
            Span::Block => {
                let blocks = self.vectors.blocks().len();
                let all = (0..self.vectors.tasks()).flat_map(|task| (0..blocks).map(move |block| (task, block)));
                all.filter_map(|(task, block)| self.slots.of(task, block)).flatten().collect()
            }
        }
    }

    /// `Σ_i Λ_{ib} τ_{i,b}`; nothing where all coefficients are zero.
    fn change(&self, block: usize) -> Option<Tensor<1>> {
        let ranges = (0..self.vectors.tasks()).filter_map(|task| Some((task, self.slots.of(task, block)?)));
        let used: Vec<_> = ranges.filter(|(_, range)| self.values[range.clone()].iter().any(|value| *value != 0.0)).collect();
        if used.is_empty() {
            return None;
        }
        if self.slots.parts(block) > 1 {
            return Some(self.change_in_parts(block, &used));
        }
        used.into_iter().map(|(task, range)| self.vectors.delta(task, block) * self.values[range.start]).reduce(|a, b| a + b)
    }

    fn change_in_parts(&self, block: usize, used: &[(usize, std::ops::Range<usize>)]) -> Tensor<1> {
        let parts = self.parts(block);
        let mut change = vec![0f32; parts.len()];
        for (task, range) in used {
            parts.add(&self.values[range.clone()], &host(self.vectors.delta(*task, block)), &mut change);
        }
        let count = change.len();
        Tensor::from_data(TensorData::new(change, [count]), self.vectors.device())
    }

    fn parts(&self, block: usize) -> Parts {
        let site = self.vectors.block(block);
        Parts::new(self.config.part_seed, &site.path(), site.shape.iter().product(), self.slots.parts(block))
    }

    /// `∂L/∂Λ` from `∂L/∂θ_b`.
    fn gradient(&self, gradients: Vec<Option<Tensor<1>>>) -> Vec<f32> {
        let mut products = InnerProducts::default();
        let mut in_parts = vec![0f32; self.values.len()];
        for (block, gradient) in gradients.into_iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            let parts = (self.slots.parts(block) > 1).then(|| (self.parts(block), host(gradient.clone())));
            for task in 0..self.vectors.tasks() {
                let Some(range) = self.slots.of(task, block) else { continue };
                let delta = self.vectors.delta(task, block);
                match &parts {
                    Some((parts, gradient)) => parts.products(gradient, &host(delta), &mut in_parts[range]),
                    None => products.add(range.start, gradient.clone(), delta),
                }
            }
        }
        let mut gradient = products.read(self.values.len());
        gradient.iter_mut().zip(in_parts).for_each(|(sum, part)| *sum += part);
        gradient
    }

    /// Keep, of each block, only the vectors with the largest `|∂L/∂Λ_{ib}|` at `Λ = 0` on one batch of each stream.
    fn select<B>(&mut self, most: usize, streams: &mut [Stream<'_, B>], objective: &impl Fn(&M, &B) -> Loss) -> Result<()> {
        let mut descent = crate::composition::Descent::new(false);
        let model = self.vectors.compose(|_| None);
        let slope = descent.slope(&self.vectors, &model, streams, objective, (0, &|stream| self.config.sign(stream)))?;
        let gradient = self.gradient(slope.gradients);
        self.slots.keep(most, |range| range.map(|place| f64::from(gradient[place]).powi(2)).sum());
        self.values = vec![0.0; self.slots.count()];
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use peft_core::{device, seed, with_parameters};

    fn tensor<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
        seed::uniform(shape, 1.0, &mut seed::rng(0, name), &device::host().autodiff())
    }

    fn linear(name: &str) -> Linear {
        let model = LinearConfig::new(6, 5).with_bias(false).init(&device::host().autodiff());
        with_parameters(model, |_, _| Some(tensor(name, [30])))
    }

    /// Anything that is not linear in the weights `[30]`.
    fn loss(weights: Tensor<2>) -> Tensor<1> {
        (tensor("x", [4, 6]).matmul(weights).tanh() * tensor("g", [4, 5])).sum()
    }

    #[test]
    fn gradients_of_coefficients_are_those_that_autodiff_finds_through_the_composition() {
        for partition in [None, Some(3)] {
            let count = partition.unwrap_or(1);
            let models = ["first", "second"].map(|name| (name.to_string(), linear(name))).to_vec();
            let vectors = TaskVectors::new(linear("base"), models, |_| true).unwrap();
            let mut merge = Atlas::new(vectors, AtlasConfig { partition, ..AtlasConfig::default() }).unwrap();
            merge.values = (0..2 * count).map(|i| 0.3 - 0.2 * i as f32).collect();
            let model = merge.merged();
            let found = loss(model.weight.val()).backward();
            let found = merge.gradient(merge.vectors.gradients(&model, found));

            let coefficients = Tensor::<1>::from_floats(merge.values.as_slice(), &device::host().autodiff()).require_grad();
            let mut weights = tensor("base", [30]);
            for (task, name) in ["first", "second"].into_iter().enumerate() {
                for part in 0..count {
                    let place = task * count + part;
                    let mut mask = vec![0f32; 30];
                    let one: Vec<f32> = (0..count).map(|other| if other == part { 1.0 } else { 0.0 }).collect();
                    merge.parts(0).add(&one, &[1.0; 30], &mut mask);
                    let mask = Tensor::<1>::from_floats(mask.as_slice(), &device::host().autodiff());
                    let delta = (tensor(name, [30]) - tensor("base", [30])) * mask;
                    weights = weights + delta * coefficients.clone().slice_dim(0, place..place + 1);
                }
            }
            let expected = host(coefficients.grad(&loss(weights.reshape([6, 5])).backward()).unwrap());
            let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5 * largest), "{found:?} {expected:?}");
        }
    }
}
