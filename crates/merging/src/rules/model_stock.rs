//! Between the base and the average of the models, as far as they agree.

use super::Rule;
use crate::gram::{Gram, combine, deltas};
use crate::stack::{Block, Output, Stack};
use peft_core::Result;

/// `t · mean(x_i) + (1−t) · b` with `t = n cos θ / (1 + (n−1) cos θ)`, where `cos θ` is the mean cosine between the differences of the
/// models from the base.
#[derive(Clone, Copy, Debug)]
pub struct ModelStock {
    /// Whether each row has its own `t`; otherwise a weight has one.
    pub filter_wise: bool,
}

impl Rule for ModelStock {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        if !self.filter_wise {
            let t = share_of_average(&Gram::of(stack));
            return stack.fill(1, out, |block, out| interpolate(block, t, out));
        }
        let row = stack.row();
        stack.fill(row, out, |block, out| {
            let deltas = deltas(block);
            for (i, out) in out.chunks_mut(row).enumerate() {
                let range = i * row..i * row + out.len();
                let rows: Vec<&[f32]> = deltas.iter().map(|delta| &delta[range.clone()]).collect();
                let others = block.others.iter().map(|numbers| &numbers[range.clone()]).collect();
                let row = Block { index: block.index, base: &block.base[range.clone()], others };
                interpolate(&row, share_of_average(&Gram::of_slices(&rows)), out);
            }
        })
    }
}

fn interpolate(block: &Block, t: f64, out: &mut [f32]) {
    let share = t / block.others.len() as f64;
    combine(block, &vec![share; block.others.len()], 1.0 - t, out);
}

/// What the average of the models counts against the base.
fn share_of_average(gram: &Gram) -> f64 {
    let n = gram.len();
    let cosine = |i: usize, j: usize| (gram.get(i, j) / (gram.norm(i) * gram.norm(j)).max(1e-6)).clamp(-1.0, 1.0);
    let pairs = || (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)));
    let mean = pairs().map(|(i, j)| cosine(i, j)).sum::<f64>() / pairs().count() as f64;
    let divisor = 1.0 + (n as f64 - 1.0) * mean;
    // Where the models pull in opposite directions there is no estimate; the base is what they share.
    if divisor.abs() < 1e-6 { 0.0 } else { n as f64 * mean / divisor }
}
