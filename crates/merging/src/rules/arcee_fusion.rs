//! Takes over from a second model what it changed most.

use super::Rule;
use crate::select::{Bound, select};
use crate::stack::{Block, Output, Stack};
use peft_core::Result;

/// The other model's number where its importance is an outlier, `≥ median + 1.5 (q₃ − q₁)`, otherwise the base's. The importance of a
/// change is its size times the divergence of the softmax of its row from that of the base's row.
///
/// Quartiles are those of all elements; mergekit takes them of a sample where a weight has more than a million.
#[derive(Clone, Copy, Debug)]
pub struct ArceeFusion;

impl Rule for ArceeFusion {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        if stack.is_empty() {
            return Ok(());
        }
        let row = stack.row();
        let divergences: Vec<f64> = stack.each(row, |block| divergences(block, row)).concat();
        let importances = |block: &Block, _: usize, out: &mut Vec<f32>| {
            let start = block.index * Stack::block_len(1);
            let importance = |(i, (x, b)): (usize, (&f32, &f32))| (x - b).abs() * divergences[(start + i) / row] as f32;
            out.clear();
            out.extend(block.others[0].iter().zip(block.base).enumerate().map(importance));
        };
        let last = stack.len() - 1;
        let ranks = [0.25, 0.5, 0.75].map(|q| (q * last as f64) as usize).to_vec();
        // A divergence is never below zero but for rounding, so that the order of magnitudes is that of importances.
        let quartiles: Vec<f32> = select(stack, &[ranks], importances).concat().into_iter().map(Bound::value).collect();
        let threshold = quartiles[1] + 1.5 * (quartiles[2] - quartiles[0]);
        stack.fill(1, out, |block, out| {
            let mut importance = Vec::new();
            importances(block, 0, &mut importance);
            for (((x, b), importance), out) in block.others[0].iter().zip(block.base).zip(importance).zip(out) {
                *out = if importance >= threshold { b + (x - b) } else { *b };
            }
        })
    }
}

/// The divergence of each row of the other model from the base's.
fn divergences(block: &Block, row: usize) -> Vec<f64> {
    let rows = block.others[0].chunks(row).zip(block.base.chunks(row));
    rows.map(|(x, b)| {
        let terms = softmax(x).into_iter().zip(softmax(b)).map(|(p, q)| p * (p / q).ln());
        terms.sum::<f64>().max(0.0)
    })
    .collect()
}

/// With a little added, so that no share is zero.
fn softmax(numbers: &[f32]) -> Vec<f64> {
    let largest = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = numbers.iter().map(|x| f64::from(x - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|e| e / sum + 1e-8).collect()
}
