//! Layer normalisation.

use crate::simd::{dot, dot3, for_rows, sum, sum_rows, vectorized};

/// `out = (x − mean(x)) / √(var(x) + ε) · weight + bias` for rows of `weight.len()` elements (Ba et al., 2016).
///
/// # Panics
/// If `weight` and `bias` differ in length, `x` and `out` differ in length, or these are no whole number of rows.
pub fn layer_norm(out: &mut [f32], x: &[f32], [weight, bias]: [&[f32]; 2], epsilon: f32) {
    let d = weight.len();
    assert!(x.len() == out.len() && x.len().is_multiple_of(d) && bias.len() == d);
    for_rows(out, d, 2, |first, out| normalize(out, &x[first * d..], weight, bias, epsilon));
}

vectorized! {
    fn normalize(out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) {
        let d = weight.len();
        for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let [mean, inverse] = moments(x, epsilon);
            for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                *out = (x - mean) * inverse * weight + bias;
            }
        }
    }
}

/// The gradient of [`layer_norm`] with respect to `x`, for the gradient `dy` of its output, from the input alone.
///
/// With `n = (x − mean) / √(var + ε)` and `g = dy · w`: `dx = (g − mean(g) − n · mean(g·n)) / √(var + ε)`.
///
/// # Panics
/// If lengths differ.
pub fn layer_norm_backward(dx: &mut [f32], dy: &[f32], x: &[f32], weight: &[f32], epsilon: f32) {
    let d = weight.len();
    assert!(x.len() == dx.len() && x.len() == dy.len() && x.len().is_multiple_of(d));
    for_rows(dx, d, 4, |first, dx| input_gradient(dx, &dy[first * d..], &x[first * d..], weight, epsilon));
}

vectorized! {
    fn input_gradient(dx: &mut [f32], dy: &[f32], x: &[f32], weight: &[f32], epsilon: f32) {
        let d = weight.len();
        for (dx, (x, dy)) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d).zip(dy.chunks_exact(d))) {
            let [mean, inverse] = moments(x, epsilon);
            for (n, x) in dx.iter_mut().zip(x) {
                *n = (x - mean) * inverse;
            }
            let even = dot(dy, weight) / d as f32;
            let along = dot3(dy, weight, dx) / d as f32;
            for ((dx, dy), weight) in dx.iter_mut().zip(dy).zip(weight) {
                *dx = (dy * weight - even - *dx * along) * inverse;
            }
        }
    }
}

/// The gradient of [`layer_norm`] with respect to `weight`: `dweight = Σ dy·n` over rows.
///
/// # Panics
/// If lengths do not fit.
pub fn layer_norm_weight_gradient(dweight: &mut [f32], dy: &[f32], x: &[f32], epsilon: f32) {
    assert!(x.len() == dy.len() && x.len().is_multiple_of(dweight.len()));
    sum_rows(dweight, dy, x, |total, dy, x| add_weight_gradient(total, dy, x, epsilon));
}

vectorized! {
    fn add_weight_gradient(total: &mut [f32], dy: &[f32], x: &[f32], epsilon: f32) {
        let d = total.len();
        for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact(d)) {
            let [mean, inverse] = moments(x, epsilon);
            for ((total, x), dy) in total.iter_mut().zip(x).zip(dy) {
                *total += dy * (x - mean) * inverse;
            }
        }
    }
}

/// `[mean, 1 / √(variance + ε)]` of a row; the variance is that of the centred row, which does not cancel.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> [f32; 2] {
    let d = x.len() as f32;
    let mean = sum(x, |x| x) / d;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / d;
    [mean, (variance + epsilon).sqrt().recip()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_common_offset_does_not_spoil_the_variance() {
        // Whole numbers far from zero, all exact in single precision: mean 100 010, variance 2.
        let x: Vec<f32> = (0..5 * 64).map(|i| 100_008.0 + (i % 5) as f32).collect();
        let mut out = vec![0.0; x.len()];
        layer_norm(&mut out, &x, [&[1.0; 320], &[0.5; 320]], 0.0);
        for (index, value) in out.iter().enumerate() {
            let expected = ((index % 5) as f32 - 2.0) / 2.0f32.sqrt() + 0.5;
            assert!((value - expected).abs() < 2e-2, "{value} and {expected}");
        }
    }

    #[test]
    fn a_constant_row_gives_the_bias() {
        let mut out = [0.0; 6];
        layer_norm(&mut out, &[7.0, 7.0, 7.0, 0.0, 0.0, 0.0], [&[2.0; 3], &[1.0, 2.0, 3.0]], 1e-12);
        assert_eq!(out, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    }
}
