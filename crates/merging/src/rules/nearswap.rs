//! Takes over what is near, and little of what is far.

use super::Rule;
use crate::stack::{Output, Stack};
use peft_core::Result;

/// Moves each number of the base towards the other model's by at most about `t`: `w·b + (1−w)·a` with `w = t / |a − b|` up to 1.
#[derive(Clone, Copy, Debug)]
pub struct NearSwap {
    /// The distance up to which a number is taken over as a whole.
    pub t: f64,
}

impl Rule for NearSwap {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let t = self.t as f32;
        stack.fill(1, out, |block, out| {
            for ((a, b), out) in block.base.iter().zip(block.others[0]).zip(out) {
                let share = (t / (a - b).abs().max(1e-6)).clamp(0.0, 1.0);
                *out = share * b + (1.0 - share) * a;
            }
        })
    }
}
