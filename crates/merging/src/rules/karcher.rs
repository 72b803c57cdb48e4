//! The point on the sphere with the least squared distance to all models.

use super::Rule;
use crate::gram::{Gram, combine};
use crate::stack::{Output, Stack};
use peft_core::Result;

/// The Karcher mean of the models' directions, at the mean of their lengths.
///
/// Everything it computes is a sum of the models, so that it works on what each counts in the sum; the weights are read twice in all,
/// however many steps it takes.
#[derive(Clone, Copy, Debug)]
pub struct Karcher {
    /// The most steps.
    pub max_iter: usize,
    /// A step, an angle or a length below this is none.
    pub tol: f64,
}

impl Rule for Karcher {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let coefficients = match stack.others.len() {
            1 => vec![1.0],
            _ => self.coefficients(&Gram::of(stack)),
        };
        stack.fill(1, out, |block, out| combine(block, &coefficients, 0.0, out))
    }
}

impl Karcher {
    /// What each model counts in the mean.
    fn coefficients(self, gram: &Gram) -> Vec<f64> {
        let n = gram.len();
        let valid: Vec<usize> = (0..n).filter(|i| gram.norm(*i) > self.tol).collect();
        if valid.is_empty() {
            return vec![0.0; n];
        }
        let share = 1.0 / valid.len() as f64;
        // The models at unit length, as sums of models.
        let units: Vec<Vec<f64>> = valid.iter().map(|i| one(n, *i, 1.0 / gram.norm(*i))).collect();
        let mut mean = vec![0.0; n];
        units.iter().for_each(|unit| add(&mut mean, share, unit));
        let length = norm(gram, &mean);
        mean = if length < self.tol { units[0].clone() } else { scaled(&mean, 1.0 / length) };
        for _ in 0..self.max_iter {
            let step = self.step(gram, &units, share, &mean);
            let length = norm(gram, &step);
            if length < self.tol {
                break;
            }
            mean = scaled(&mean, length.cos());
            add(&mut mean, length.sin() / length, &step);
            let unit = norm(gram, &mean);
            if unit > self.tol {
                mean = scaled(&mean, 1.0 / unit);
            }
        }
        let average = (0..n).map(|i| gram.norm(i)).sum::<f64>() / n as f64;
        scaled(&mean, average)
    }

    /// The mean of the ways to each model, in the tangent at `mean`.
    fn step(self, gram: &Gram, units: &[Vec<f64>], share: f64, mean: &[f64]) -> Vec<f64> {
        let mut step = vec![0.0; mean.len()];
        for unit in units {
            let cosine = gram.of_sums(mean, unit).clamp(-1.0, 1.0);
            let angle = cosine.acos();
            if angle < self.tol {
                continue;
            }
            let factor = share * angle / angle.sin();
            add(&mut step, factor, unit);
            add(&mut step, -factor * cosine, mean);
        }
        step
    }
}

fn one(n: usize, i: usize, value: f64) -> Vec<f64> {
    let mut vector = vec![0.0; n];
    vector[i] = value;
    vector
}

fn add(sum: &mut [f64], factor: f64, vector: &[f64]) {
    sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += factor * x);
}

fn scaled(vector: &[f64], factor: f64) -> Vec<f64> {
    vector.iter().map(|x| x * factor).collect()
}

fn norm(gram: &Gram, sum: &[f64]) -> f64 {
    gram.of_sums(sum, sum).max(0.0).sqrt()
}
