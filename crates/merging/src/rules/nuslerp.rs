//! Spherical interpolation between two models by their weights, of whole weights or of their rows.

use super::Rule;
use crate::gram::{deltas, dot};
use crate::stack::{Block, Output, Stack};
use peft_core::Result;

/// As [`Slerp`](super::Slerp), but between two models that are no base, or between their differences from one; over whole weights or
/// over each row or column.
#[derive(Clone, Copy, Debug)]
pub struct NuSlerp {
    /// How far from the first model, at 0, to the second, at 1.
    pub t: f64,
    /// What an angle is between.
    pub over: Over,
}

/// The vectors that are interpolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The weight as one vector.
    Whole,
    /// The stretches along the last axis.
    LastAxis,
    /// The stretches along the first axis.
    FirstAxis,
}

/// Sums of the products of two vectors with themselves and each other.
#[derive(Clone, Copy, Default)]
struct Products([f64; 3]);

impl Products {
    fn of(a: &[f32], b: &[f32]) -> Self {
        Self([dot(a, a), dot(b, b), dot(a, b)])
    }

    fn add(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
    }

    /// What each vector counts at `t`.
    fn coefficients(self, t: f64) -> [f32; 2] {
        let [aa, bb, ab] = self.0;
        let cosine = (ab / (aa.sqrt().max(1e-7) * bb.sqrt().max(1e-7))).clamp(-1.0, 1.0);
        if 1.0 - cosine * cosine <= 1e-16 {
            return [(1.0 - t) as f32, t as f32];
        }
        let angle = cosine.acos();
        [((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()].map(|c| c as f32)
    }
}

impl Rule for NuSlerp {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        match self.over {
            Over::Whole => {
                let products = stack.fold(1, |block| pair(block, Products::of), Products::add).unwrap_or_default();
                let at = products.coefficients(self.t);
                stack.fill(1, out, |block, out| with_base(block, out, |a, b, out| mix(at, a, b, out)))
            }
            Over::LastAxis => {
                let row = stack.row();
                stack.fill(row, out, |block, out| {
                    with_base(block, out, |a, b, out| {
                        for ((a, b), out) in a.chunks(row).zip(b.chunks(row)).zip(out.chunks_mut(row)) {
                            mix(Products::of(a, b).coefficients(self.t), a, b, out);
                        }
                    });
                })
            }
            Over::FirstAxis => self.first_axis(stack, out),
        }
    }
}

impl NuSlerp {
    fn first_axis(self, stack: &Stack, out: &mut Output) -> Result<()> {
        let row = stack.shape.iter().skip(1).product::<usize>().max(1);
        let columns = |block: &Block| {
            pair(block, |a, b| {
                let mut sums = vec![Products::default(); row];
                for (a, b) in a.chunks(row).zip(b.chunks(row)) {
                    for ((a, b), sum) in a.iter().zip(b).zip(&mut sums) {
                        sum.add(Products::of(&[*a], &[*b]));
                    }
                }
                sums
            })
        };
        let add = |sums: &mut Vec<Products>, part: Vec<Products>| sums.iter_mut().zip(part).for_each(|(sum, part)| sum.add(part));
        let sums = stack.fold(row, columns, add).unwrap_or_default();
        let at: Vec<[f32; 2]> = sums.into_iter().map(|products| products.coefficients(self.t)).collect();
        stack.fill(row, out, |block, out| {
            with_base(block, out, |a, b, out| {
                for ((a, b), out) in a.chunks(row).zip(b.chunks(row)).zip(out.chunks_mut(row)) {
                    a.iter().zip(b).zip(&at).zip(out).for_each(|(((a, b), at), out)| *out = at[0] * a + at[1] * b);
                }
            });
        })
    }
}

fn mix(at: [f32; 2], a: &[f32], b: &[f32], out: &mut [f32]) {
    a.iter().zip(b).zip(out).for_each(|((a, b), out)| *out = at[0] * a + at[1] * b);
}

/// `f` of both models, or of their differences from the base.
fn pair<T>(block: &Block, f: impl FnOnce(&[f32], &[f32]) -> T) -> T {
    if block.base.is_empty() {
        return f(block.others[0], block.others[1]);
    }
    let deltas = deltas(block);
    f(&deltas[0], &deltas[1])
}

/// As [`pair`], with the base on top of what `f` writes.
fn with_base(block: &Block, out: &mut [f32], f: impl FnOnce(&[f32], &[f32], &mut [f32])) {
    pair(block, |a, b| f(a, b, out));
    out.iter_mut().zip(block.base).for_each(|(out, b)| *out += b);
}
