//! Root-mean-square normalisation.

use crate::simd::{dot, dot3, for_rows, sum_rows, vectorized};

/// `out = x / √(mean(x²) + ε) · weight` for rows of `weight.len()` elements (Zhang and Sennrich, 2019).
///
/// # Panics
/// If `x` and `out` differ in length or are no whole number of rows.
pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) {
    let d = weight.len();
    assert!(x.len() == out.len() && x.len().is_multiple_of(d));
    for_rows(out, d, 2, |first, out| normalize(out, &x[first * d..], weight, epsilon));
}

vectorized! {
    fn normalize(out: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) {
        let d = weight.len();
        for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let inverse = inverse_rms(x, epsilon);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * inverse * weight;
            }
        }
    }
}

/// The gradients of [`rms_norm`] for the gradient `dy` of its output, from the input alone: `dx` and, if asked for, `dweight`.
///
/// With `n = x / rms`: `dx = (dy·w − n · mean(dy·w·n)) / rms` and `dweight = Σ dy·n`.
///
/// # Panics
/// If lengths differ.
pub fn rms_norm_backward(dx: &mut [f32], dweight: Option<&mut [f32]>, dy: &[f32], x: &[f32], weight: &[f32], epsilon: f32) {
    let d = weight.len();
    assert!(x.len() == dx.len() && x.len() == dy.len() && x.len().is_multiple_of(d));
    for_rows(dx, d, 4, |first, dx| input_gradient(dx, &dy[first * d..], &x[first * d..], weight, epsilon));
    if let Some(dweight) = dweight {
        sum_rows(dweight, dy, x, |total, dy, x| add_weight_gradient(total, dy, x, epsilon));
    }
}

vectorized! {
    fn input_gradient(dx: &mut [f32], dy: &[f32], x: &[f32], weight: &[f32], epsilon: f32) {
        let d = weight.len();
        for (dx, (x, dy)) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d).zip(dy.chunks_exact(d))) {
            let inverse = inverse_rms(x, epsilon);
            let mean = dot3(dy, weight, x) * inverse / d as f32;
            let along = mean * inverse;
            for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                *dx = (dy * weight - x * along) * inverse;
            }
        }
    }
}

vectorized! {
    /// Add up `dy · n` over rows.
    fn add_weight_gradient(total: &mut [f32], dy: &[f32], x: &[f32], epsilon: f32) {
        let d = total.len();
        for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact(d)) {
            let inverse = inverse_rms(x, epsilon);
            for ((total, x), dy) in total.iter_mut().zip(x).zip(dy) {
                *total += dy * x * inverse;
            }
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], epsilon: f32) -> f32 {
    (dot(x, x) / x.len() as f32 + epsilon).sqrt().recip()
}
