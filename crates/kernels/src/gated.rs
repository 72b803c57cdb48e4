//! The gated feed-forward block.

use crate::simd::{for_rows, sigmoid, vectorized};
use rayon::prelude::*;

/// `out = silu(gate) · up`, element by element, with `silu(x) = x · σ(x)` (Shazeer, 2020).
///
/// # Panics
/// If lengths differ.
pub fn swiglu(out: &mut [f32], gate: &[f32], up: &[f32]) {
    assert!(out.len() == gate.len() && out.len() == up.len());
    for_rows(out, 1, 8, |first, out| activate(out, &gate[first..], &up[first..]));
}

vectorized! {
    fn activate(out: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * sigmoid(*gate) * up;
        }
    }
}

/// The gradients of [`swiglu`] with respect to `gate` and `up`, for the gradient `dy` of its output.
///
/// # Panics
/// If lengths differ.
pub fn swiglu_backward(dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
    let n = dy.len();
    assert!(dgate.len() == n && dup.len() == n && gate.len() == n && up.len() == n);
    let share = n.div_ceil(rayon::current_num_threads() * 2).max(4096);
    let outputs = dgate.par_chunks_mut(share).zip(dup.par_chunks_mut(share));
    let inputs = dy.par_chunks(share).zip(gate.par_chunks(share)).zip(up.par_chunks(share));
    outputs.zip(inputs).for_each(|((dgate, dup), ((dy, gate), up))| gradients(dgate, dup, dy, gate, up));
}

vectorized! {
    fn gradients(dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
        for ((dgate, dup), ((dy, gate), up)) in dgate.iter_mut().zip(dup).zip(dy.iter().zip(gate).zip(up)) {
            let s = sigmoid(*gate);
            let silu = gate * s;
            *dgate = dy * up * (s + silu * (1.0 - s));
            *dup = dy * silu;
        }
    }
}
