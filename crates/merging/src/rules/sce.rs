//! Select, calculate, erase: by the variance over models, the energy of each, and the sign of the sum.

use super::Rule;
use super::task_vectors::agreeing;
use crate::gram::{deltas, dot};
use crate::select::Band;
use crate::stack::{Block, Output, Stack};
use peft_core::Result;

/// `b + Σ c_i m_i d_i / Σ c_i m_i`: the differences at the places of the highest variance, weighted by their mean square, where their
/// sign is that of their sum.
#[derive(Clone, Copy, Debug)]
pub struct Sce {
    /// The share of the places with any variance that is kept.
    pub select_topk: f64,
}

impl Rule for Sce {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let selection = self.selection(stack);
        let selected = |block: &Block| {
            let mut deltas = deltas(block);
            selection.apply(block, &mut deltas);
            deltas
        };
        let squares = |block: &Block| selected(block).iter().map(|delta| dot(delta, delta)).collect::<Vec<f64>>();
        let add = |sums: &mut Vec<f64>, part: Vec<f64>| sums.iter_mut().zip(part).for_each(|(a, b)| *a += b);
        let squares = stack.fold(1, squares, add).unwrap_or_else(|| vec![0.0; stack.others.len()]);
        let weights = shares(&squares, stack.len());
        stack.fill(1, out, |block, out| {
            let deltas = selected(block);
            out.fill(0.0);
            deltas.iter().for_each(|delta| out.iter_mut().zip(delta).for_each(|(out, x)| *out += x));
            let weighted: Vec<Vec<f32>> = deltas.iter().zip(&weights).map(|(delta, w)| delta.iter().map(|x| x * w).collect()).collect();
            agreeing(&weighted, &weights, out, |sum, divisor| sum / divisor.max(1e-6));
            out.iter_mut().zip(block.base).for_each(|(out, b)| *out += b);
        })
    }
}

/// Which places are kept.
enum Selection {
    All,
    Nothing,
    Band(Band),
}

impl Sce {
    fn selection(self, stack: &Stack) -> Selection {
        if self.select_topk >= 1.0 {
            return Selection::All;
        }
        let nonzero = |sum: &mut usize, block: &Block| *sum += variances(block).iter().filter(|v| **v != 0.0).count();
        let keep = (stack.count(|| 0, nonzero, |a, b| a + b) as f64 * self.select_topk) as usize;
        if keep == 0 {
            return Selection::Nothing;
        }
        let len = stack.len();
        let write = |block: &Block, _: usize, out: &mut Vec<f32>| *out = variances(block);
        Band::of(stack, &[(len - keep, len)], write).pop().map_or(Selection::Nothing, Selection::Band)
    }
}

impl Selection {
    fn apply(&self, block: &Block, deltas: &mut [Vec<f32>]) {
        match self {
            Self::All => {}
            Self::Nothing => deltas.iter_mut().for_each(|delta| delta.fill(0.0)),
            Self::Band(band) => {
                let mut kept = variances(block);
                // Zero means dropped from here on; what is kept has a variance above it.
                band.apply(block.index, &mut kept);
                for delta in deltas {
                    delta.iter_mut().zip(&kept).for_each(|(x, kept)| *x = if *kept != 0.0 { *x } else { 0.0 });
                }
            }
        }
    }
}

/// Over the models, at each place.
fn variances(block: &Block) -> Vec<f32> {
    let deltas = deltas(block);
    let n = deltas.len() as f64;
    let variance = |i: usize| {
        let mean = deltas.iter().map(|delta| f64::from(delta[i])).sum::<f64>() / n;
        (deltas.iter().map(|delta| (f64::from(delta[i]) - mean).powi(2)).sum::<f64>() / n) as f32
    };
    (0..block.base.len()).map(variance).collect()
}

/// The mean square of each model over that of all.
fn shares(squares: &[f64], len: usize) -> Vec<f32> {
    let total = squares.iter().sum::<f64>() / len.max(1) as f64;
    if total < 1e-6 {
        return vec![1.0 / squares.len() as f32; squares.len()];
    }
    squares.iter().map(|square| (square / len as f64 / total) as f32).collect()
}
