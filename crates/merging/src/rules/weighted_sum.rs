//! Sums as HF PEFT forms them of adapters.

use super::Rule;
use super::mask::Mask;
use crate::select::Band;
use crate::stack::{Block, Output, Stack};
use peft_core::Result;

/// `Σ w_i S(x_i)`, with `S` dropping numbers. With a majority, each sum is of the numbers that have its sign, divided by their number.
///
/// What differs from [`TaskVectors`](super::TaskVectors): the sign is elected by the numbers without their weights, the sum is divided by
/// a count and not by weights, and what a random mask keeps is divided by the density.
#[derive(Clone, Debug)]
pub struct WeightedSum {
    /// What each input counts.
    pub weights: Vec<f64>,
    /// What is dropped of each input.
    pub pruning: Pruning,
    /// How the sign of each sum is elected; nothing to add up all.
    pub majority: Option<Majority>,
    /// What random numbers start from.
    pub seed: u64,
    /// What is kept of each input, in place of what `pruning` would draw: to compare with another implementation that drew its own.
    pub masks: Option<Vec<Vec<bool>>>,
}

/// What is dropped of an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pruning {
    /// Nothing.
    None,
    /// All but the largest numbers, of which this share is kept.
    Magnitude(f64),
    /// Each number with the same probability; this share is kept, and divided by it.
    Random(f64),
}

/// How the sign of a sum is elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Majority {
    /// It is the sign of the sum.
    Total,
    /// It is the sign that most numbers have.
    Frequency,
}

impl WeightedSum {
    fn masks(&self, stack: &Stack) -> Vec<Mask> {
        let count = stack.others.len();
        if let Some(masks) = &self.masks {
            return masks.iter().cloned().map(Mask::Given).collect();
        }
        match self.pruning {
            Pruning::None => (0..count).map(|_| Mask::All).collect(),
            Pruning::Magnitude(_) if stack.is_empty() => (0..count).map(|_| Mask::All).collect(),
            Pruning::Magnitude(density) => {
                let keep = ((density * stack.len() as f64) as usize).max(1);
                let write = |block: &Block, list: usize, out: &mut Vec<f32>| {
                    out.clear();
                    out.extend_from_slice(block.others[list]);
                };
                Band::of(stack, &vec![(stack.len() - keep, stack.len()); count], write).into_iter().map(Mask::Band).collect()
            }
            Pruning::Random(density) => {
                (0..count).map(|i| Mask::Random { density, seed: self.seed, path: format!("{}/{i}", stack.name) }).collect()
            }
        }
    }

    fn kept(&self, stack: &Stack, block: &Block, masks: &[Mask]) -> Vec<Vec<f32>> {
        let kept = |(numbers, mask): (&&[f32], &Mask)| {
            let mut numbers = numbers.to_vec();
            mask.apply(stack, block, 1, &mut numbers);
            if let Pruning::Random(density) = self.pruning {
                numbers.iter_mut().for_each(|x| *x /= density as f32);
            }
            numbers
        };
        block.others.iter().zip(masks).map(kept).collect()
    }
}

impl Rule for WeightedSum {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let masks = self.masks(stack);
        let weights: Vec<f32> = self.weights.iter().map(|weight| *weight as f32).collect();
        stack.fill(1, out, |block, out| {
            let kept = self.kept(stack, block, &masks);
            match self.majority {
                None => sum(&kept, &weights, out),
                Some(majority) => elected(&kept, &weights, &votes(&kept, majority, out.len()), out),
            }
        })
    }
}

fn sum(kept: &[Vec<f32>], weights: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (numbers, weight) in kept.iter().zip(weights) {
        out.iter_mut().zip(numbers).for_each(|(out, x)| *out += x * weight);
    }
}

/// At each place the sum whose sign is the majority's.
fn votes(kept: &[Vec<f32>], majority: Majority, len: usize) -> Vec<f32> {
    let mut votes = vec![0f32; len];
    for numbers in kept {
        for (vote, x) in votes.iter_mut().zip(numbers) {
            *vote += match majority {
                Majority::Total => *x,
                Majority::Frequency => f32::from(*x > 0.0) - f32::from(*x < 0.0),
            };
        }
    }
    votes
}

/// The mean of those weighted numbers that agree with the vote; zero agrees with nobody, and a vote of zero is positive.
fn elected(kept: &[Vec<f32>], weights: &[f32], votes: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    let mut counts = vec![0f32; out.len()];
    for (numbers, weight) in kept.iter().zip(weights) {
        for (((x, vote), out), count) in numbers.iter().zip(votes).zip(out.iter_mut()).zip(&mut counts) {
            let agrees = (*x > 0.0) & (*vote >= 0.0) | (*x < 0.0) & (*vote < 0.0);
            *out += if agrees { x * weight } else { 0.0 };
            *count += f32::from(agrees);
        }
    }
    out.iter_mut().zip(counts).for_each(|(out, count)| *out /= count.max(1.0));
}
