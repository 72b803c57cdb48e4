//! Coefficients of task vectors that are clamped to [0, 1].

use super::Granularity;
use crate::composition::{Adam, Coefficient, TaskVectors, host};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use peft_core::{Error, Result};

/// `λ`, one for each task or for each block of each task.
#[derive(Clone)]
pub struct Scales {
    /// Task by task; of each its blocks, where each has its own.
    pub values: Vec<f32>,
    start: f32,
    blocks: usize,
    granularity: Granularity,
    clamp: bool,
    adam: Adam,
    device: Device,
}

impl Scales {
    /// All at `start`.
    pub fn new<M: Module>(vectors: &TaskVectors<M>, granularity: Granularity, start: f64, clamp: bool) -> Self {
        let (blocks, start) = (vectors.blocks().len(), start as f32);
        let per_task = if granularity == Granularity::Task { 1 } else { blocks };
        let values = vec![start; vectors.tasks() * per_task];
        Self { values, start, blocks, granularity, clamp, adam: Adam::new(1, 0.0), device: vectors.device().clone() }
    }

    fn place(&self, task: usize, block: usize) -> usize {
        match self.granularity {
            Granularity::Task => task,
            Granularity::Layer => task * self.blocks + block,
        }
    }

    /// The coefficient as it counts.
    pub fn at(&self, task: usize, block: usize) -> f32 {
        let value = self.values[self.place(task, block)];
        if self.clamp { value.clamp(0.0, 1.0) } else { value }
    }

    /// `Σ_i λ_i v_i` of a block; nothing if all are zero.
    pub fn sum(&self, block: usize, vectors: Vec<Tensor<1>>) -> Option<Tensor<1>> {
        let scaled = vectors.into_iter().enumerate().map(|(task, vector)| (self.at(task, block), vector));
        scaled.filter(|(scale, _)| *scale != 0.0).map(|(scale, vector)| vector * scale).reduce(|a, b| a + b)
    }

    /// All at their start again; what the optimizer remembers stays.
    pub fn reset(&mut self) {
        self.values.fill(self.start);
    }

    /// All at their start, and an optimizer that remembers nothing.
    pub fn restart(&mut self) {
        self.reset();
        self.adam = Adam::new(1, 0.0);
    }

    /// One step of Adam; `products` are `⟨∂L/∂θ_b, v_{i,b}⟩` by task, then block.
    ///
    /// # Errors
    /// [`Error::NonFinite`]; the coefficients stay as they were.
    pub fn step(&mut self, products: Vec<f32>, lr: f64, step: usize) -> Result<()> {
        let mut gradient = vec![0.0; self.values.len()];
        for (index, product) in products.into_iter().enumerate() {
            gradient[self.place(index / self.blocks, index % self.blocks)] += product;
        }
        if self.clamp {
            // Outside, a clamped number does not move the model; at the bounds it still does.
            gradient.iter_mut().zip(&self.values).filter(|(_, value)| !(0.0..=1.0).contains(*value)).for_each(|(g, _)| *g = 0.0);
        }
        let tensor = |numbers: &[f32]| Tensor::<1>::from_floats(numbers, &self.device);
        let (value, gradient) = (tensor(&self.values), tensor(&gradient));
        let values = host(self.adam.step(0, value, gradient, lr));
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::NonFinite { what: format!("a coefficient after step {step}") });
        }
        self.values = values;
        Ok(())
    }

    /// The coefficients as they count, with their names.
    pub fn coefficients<M: Module>(&self, vectors: &TaskVectors<M>) -> Vec<Coefficient> {
        let mut all = Vec::new();
        for (task, name) in vectors.names().iter().enumerate() {
            match self.granularity {
                Granularity::Task => all.push(Coefficient { task: name.clone(), block: None, part: None, value: self.at(task, 0) }),
                Granularity::Layer => all.extend(vectors.blocks().enumerate().map(|(block, site)| Coefficient {
                    task: name.clone(),
                    block: Some(site.path()),
                    part: None,
                    value: self.at(task, block),
                })),
            }
        }
        all
    }
}
