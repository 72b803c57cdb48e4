//! Spherical interpolation from the base to one other model.

use super::Rule;
use crate::gram::{combine, dot};
use crate::stack::{Block, Output, Stack};
use peft_core::Result;

/// Above this cosine the directions count as one, and the interpolation is linear.
const PARALLEL: f64 = 0.9995;
/// A shorter weight is not brought to unit length.
const SHORT: f64 = 1e-8;

/// Along the great circle between the directions of both weights: `sin((1−t)θ)/sin θ · A + sin(tθ)/sin θ · B`, on the weights at their
/// own lengths. Where they point the same or the opposite way, `(1−t)A + tB`.
#[derive(Clone, Copy, Debug)]
pub struct Slerp {
    /// How far from the base, at 0, to the other model, at 1.
    pub t: f64,
}

impl Rule for Slerp {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let products = |block: &Block| {
            let (a, b) = (block.base, block.others[0]);
            [dot(a, a), dot(b, b), dot(a, b)]
        };
        let add = |sum: &mut [f64; 3], part: [f64; 3]| sum.iter_mut().zip(part).for_each(|(a, b)| *a += b);
        let [aa, bb, ab] = stack.fold(1, products, add).unwrap_or_default();
        let [a, b] = self.coefficients(aa.sqrt(), bb.sqrt(), ab);
        stack.fill(1, out, |block, out| combine(block, &[b], a, out))
    }
}

impl Slerp {
    fn coefficients(self, norm_a: f64, norm_b: f64, product: f64) -> [f64; 2] {
        let unit = |norm: f64| if norm > SHORT { norm } else { 1.0 };
        let cosine = (product / (unit(norm_a) * unit(norm_b))).clamp(-1.0, 1.0);
        if cosine.abs() > PARALLEL {
            return [1.0 - self.t, self.t];
        }
        let angle = cosine.acos();
        [((1.0 - self.t) * angle).sin() / angle.sin(), (self.t * angle).sin() / angle.sin()]
    }
}
