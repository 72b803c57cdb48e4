//! Merges that are trained, on DM4.

mod adamerging;
mod atlas;
mod concrete;

use super::dm4::{Dm4, Trunk};
use crate::Outcome;
use burn::tensor::{Int, Tensor};
use peft_merge::{Loss, Stream, TaskVectors};
use peft_objectives::{cross_entropy, entropy};

pub use adamerging::AdaMerging;
pub use atlas::Atlas;
pub use concrete::Concrete;

const BASE: &str = "base, not merged";

/// A batch of a task.
type Batch = (usize, Tensor<2>, Tensor<1, Int>);

/// The vectors of these tasks, named by their numbers.
fn vectors(dm4: &Dm4, tasks: &[usize]) -> Outcome<TaskVectors<Trunk>> {
    let models = tasks.iter().map(|task| (task.to_string(), dm4.experts[*task].clone())).collect();
    Ok(TaskVectors::new(dm4.base.clone(), models, |_| true)?)
}

/// `θ⁰ + λ Σ τ_i`.
fn task_arithmetic(dm4: &Dm4, lambda: f32) -> Outcome<Trunk> {
    let vectors = vectors(dm4, &all(dm4))?;
    Ok(vectors.compose(|block| vectors.deltas(block).into_iter().reduce(|a, b| a + b).map(|sum| sum * lambda)))
}

fn all(dm4: &Dm4) -> Vec<usize> {
    (0..dm4.tasks.len()).collect()
}

/// Batches of 64 of each task's test images, whose digits are not looked at.
fn unlabelled(dm4: &Dm4, seed: u64) -> Outcome<Vec<Stream<'_, Batch>>> {
    let stream = |(task, data): (usize, &super::dm4::Task)| {
        let make = move |rows: &[usize]| {
            let rows: Vec<usize> = rows.iter().map(|row| super::dm4::TRAIN + row).collect();
            let (x, digits) = dm4.tasks[task].rows(&rows);
            (task, x, digits)
        };
        Ok(Stream::shuffled(task.to_string(), data.tests(), 64, seed, make)?)
    };
    dm4.tasks.iter().enumerate().map(stream).collect()
}

/// Batches of these training images of a task.
fn labelled(dm4: &Dm4, task: usize, rows: Vec<usize>, batch: usize, seed: u64) -> Outcome<Stream<'_, Batch>> {
    let count = rows.len();
    let make = move |indices: &[usize]| {
        let (x, digits) = dm4.tasks[task].rows(&indices.iter().map(|index| rows[*index]).collect::<Vec<_>>());
        (task, x, digits)
    };
    Ok(Stream::shuffled(task.to_string(), count, batch, seed, make)?)
}

/// The mean entropy of the predictions.
fn unsure(dm4: &Dm4) -> impl Fn(&Trunk, &Batch) -> Loss + '_ {
    |trunk, (task, x, _)| {
        let logits = dm4.logits(trunk, *task, x.clone());
        let predicted = logits.clone().argmax(1).flatten(0, 1);
        Loss { value: entropy(logits), predicted: Some(predicted) }
    }
}

/// The cross-entropy of the digits.
fn wrong(dm4: &Dm4) -> impl Fn(&Trunk, &Batch) -> Loss + '_ {
    |trunk, (task, x, digits)| cross_entropy(dm4.logits(trunk, *task, x.clone()), digits.clone()).into()
}

fn points(gains: &[f64]) -> String {
    gains.iter().map(|gain| format!("{:+.2}", gain * 100.0)).collect::<Vec<_>>().join(", ")
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
