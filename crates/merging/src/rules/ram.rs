//! Reinforced agent merging: differences that models share are averaged, those of one model alone are kept, and perhaps strengthened.
//! Source: arXiv 2601.13572, as mergekit computes it.

use super::Rule;
use crate::gram::deltas;
use crate::stack::{Block, Output, Stack};
use peft_core::Result;

/// At each place the differences above `epsilon`: their mean where several models have one, and the only one as it is, times what
/// [`Boost`] says.
#[derive(Clone, Copy, Debug)]
pub struct Ram {
    /// Differences up to this count as none.
    pub epsilon: f64,
    /// How much differences of one model alone are strengthened; nothing to leave them as they are.
    pub boost: Option<Boost>,
}

/// `1 + r · min(ρ, alpha)` for each model, where ρ is how many of its differences others share over how many they do not.
#[derive(Clone, Copy, Debug)]
pub struct Boost {
    /// The factor on ρ.
    pub r: f64,
    /// The largest ρ that counts.
    pub alpha: f64,
}

impl Ram {
    /// Put zeros where a difference counts as none, and say how many differences each place has.
    fn cut(&self, block: &Block) -> (Vec<Vec<f32>>, Vec<u32>) {
        let mut deltas = deltas(block);
        let mut counts = vec![0u32; block.base.len()];
        for delta in &mut deltas {
            for (x, count) in delta.iter_mut().zip(&mut counts) {
                let counted = x.abs() > self.epsilon as f32;
                *x = if counted { *x } else { 0.0 };
                *count += u32::from(counted);
            }
        }
        (deltas, counts)
    }

    fn factors(&self, stack: &Stack) -> Vec<f32> {
        let models = stack.others.len();
        let Some(Boost { r, alpha }) = self.boost else { return vec![1.0; models] };
        let count = |sums: &mut Vec<[u64; 2]>, block: &Block| {
            let (deltas, counts) = self.cut(block);
            for (delta, [shared, alone]) in deltas.iter().zip(sums.iter_mut()) {
                for (_, count) in delta.iter().zip(&counts).filter(|(x, _)| **x != 0.0) {
                    *shared += u64::from(*count > 1);
                    *alone += u64::from(*count == 1);
                }
            }
        };
        let add = |mut a: Vec<[u64; 2]>, b: Vec<[u64; 2]>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a = [a[0] + b[0], a[1] + b[1]]);
            a
        };
        let factor = |[shared, alone]: [u64; 2]| 1.0 + r * (shared as f64 / (alone as f64).max(self.epsilon)).clamp(0.0, alpha);
        stack.count(|| vec![[0; 2]; models], count, add).into_iter().map(|sums| factor(sums) as f32).collect()
    }
}

impl Rule for Ram {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let factors = self.factors(stack);
        stack.fill(1, out, |block, out| {
            let (deltas, counts) = self.cut(block);
            out.fill(0.0);
            for (delta, factor) in deltas.iter().zip(&factors) {
                for ((out, x), count) in out.iter_mut().zip(delta).zip(&counts) {
                    *out += if *count > 1 { x / *count as f32 } else { x * factor };
                }
            }
            out.iter_mut().zip(block.base).for_each(|(out, b)| *out += b);
        })
    }
}
