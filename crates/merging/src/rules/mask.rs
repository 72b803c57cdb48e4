//! Which numbers of a task vector are kept.

use crate::select::{Band, key};
use crate::stack::{Block, Stack};
use peft_core::seed;
use rand::RngExt;

/// How task vectors are thinned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sparsity {
    /// Not at all.
    None,
    /// The largest numbers are kept (TIES).
    Magnitude,
    /// Each number is kept with the same probability (DARE).
    Random,
    /// The smallest and the very largest numbers are dropped (breadcrumbs).
    Outliers,
    /// Each number is kept with a probability that grows with its rank in its row (DELLA).
    Della,
}

/// What is kept of one task vector.
#[derive(Debug)]
pub enum Mask {
    /// Everything.
    All,
    /// Nothing.
    Nothing,
    /// What lies between two magnitudes.
    Band(Band),
    /// Each number with probability `density`; the numbers drawn belong to `path`.
    Random {
        /// The share that is kept.
        density: f64,
        /// What random numbers start from.
        seed: u64,
        /// The weight and the model.
        path: String,
    },
    /// Each number with a probability from `density − epsilon` for the smallest of its row to `density + epsilon` for the largest.
    Della {
        /// The share that is kept.
        density: f64,
        /// Half the spread of the probabilities.
        epsilon: f64,
        /// What random numbers start from.
        seed: u64,
        /// The weight and the model.
        path: String,
    },
    /// As it is said for each number.
    Given(Vec<bool>),
}

impl Sparsity {
    /// Blocks are of whole groups of this many elements.
    pub fn unit(self, shape: &[usize]) -> usize {
        match (self, shape) {
            // A weight of one axis is one row.
            (Self::Della, [] | [_]) => shape.iter().product::<usize>().max(1),
            (Self::Della, [_, rest @ ..]) => rest.iter().product::<usize>().max(1),
            _ => 1,
        }
    }
}

impl Mask {
    /// Put zeros in place of what is not kept of the difference `delta` of this block.
    pub fn apply(&self, stack: &Stack, block: &Block, unit: usize, delta: &mut [f32]) {
        match self {
            Self::All => {}
            Self::Nothing => delta.fill(0.0),
            Self::Band(band) => band.apply(block.index, delta),
            Self::Random { density, seed, path } => {
                let mut rng = seed::rng(*seed, &format!("{path}/{}", block.index));
                let below = (density * 2f64.powi(32)) as u64;
                delta.iter_mut().for_each(|x| *x = if u64::from(rng.random::<u32>()) < below { *x } else { 0.0 });
            }
            Self::Della { density, epsilon, seed, path } => {
                let mut rng = seed::rng(*seed, &format!("{path}/{}", block.index));
                let inner = stack.shape.iter().skip(2).product::<usize>().max(1);
                let mut draw = || rng.random::<f64>();
                delta.chunks_mut(unit).for_each(|group| della(group, inner, *density, *epsilon, &mut draw));
            }
            Self::Given(kept) => {
                let start = block.index * Stack::block_len(unit);
                delta.iter_mut().zip(&kept[start..]).for_each(|(x, kept)| *x = if *kept { *x } else { 0.0 });
            }
        }
    }
}

/// Drop by rank in each of the `inner` interleaved rows of `group`.
fn della(group: &mut [f32], inner: usize, density: f64, epsilon: f64, draw: &mut impl FnMut() -> f64) {
    let length = group.len() / inner;
    let mut order: Vec<usize> = Vec::with_capacity(length);
    for first in 0..inner {
        order.clear();
        order.extend((0..length).map(|i| first + i * inner));
        order.sort_unstable_by_key(|i| (key(group[*i]), *i));
        for (rank, i) in order.iter().enumerate() {
            // A row of one number has no ranks; it is kept as the average number is.
            let place = if length > 1 { rank as f64 / (length - 1) as f64 } else { 0.5 };
            if draw() >= density - epsilon + 2.0 * epsilon * place {
                group[*i] = 0.0;
            }
        }
    }
}
