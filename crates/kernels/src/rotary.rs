//! Rotary positions.

use crate::simd::{for_rows, vectorized};

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// By the angles.
    Forward,
    /// By their negatives: the inverse, and the gradient.
    Back,
}

/// Turn the channel pairs `(i, i + hd/2)` of `x: [b, s, heads, hd]` by the angle of their position (Su et al., 2021).
///
/// `cos` and `sin: [s, hd/2]` hold cosines and sines of the angles, or `[b · s, hd/2]` where the positions of rows differ.
///
/// # Panics
/// If lengths do not fit.
pub fn rotate(out: &mut [f32], x: &[f32], [cos, sin]: [&[f32]; 2], heads: usize, half: usize, turn: Turn) {
    let width = heads * 2 * half;
    assert!(x.len() == out.len() && x.len().is_multiple_of(width) && cos.len() == sin.len() && cos.len().is_multiple_of(half));
    let positions = cos.len() / half;
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    for_rows(out, width, 2, |first, out| {
        for (row, (out, x)) in out.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width)).enumerate() {
            let angle = (first + row) % positions * half;
            heads_of_token(out, x, &cos[angle..angle + half], &sin[angle..angle + half], sign);
        }
    });
}

vectorized! {
    fn heads_of_token(out: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for (out, x) in out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
            let ((left, right), (a, b)) = (out.split_at_mut(half), x.split_at(half));
            pair(left, right, a, b, cos, sin, sign);
        }
    }
}

#[inline(always)]
fn pair(left: &mut [f32], right: &mut [f32], a: &[f32], b: &[f32], cos: &[f32], sin: &[f32], sign: f32) {
    let n = left.len();
    let (right, a, b, cos, sin) = (&mut right[..n], &a[..n], &b[..n], &cos[..n], &sin[..n]);
    for i in 0..n {
        let sin = sign * sin[i];
        left[i] = a[i] * cos[i] - b[i] * sin;
        right[i] = b[i] * cos[i] + a[i] * sin;
    }
}
