//! The Gaussian error linear unit.

use crate::simd::{exp, for_rows, sigmoid, vectorized};

/// `out = x · Φ(x)` element by element, with the standard normal distribution `Φ` (Hendrycks and Gimpel, 2016).
///
/// `Φ` is right to 3e-7.
///
/// # Panics
/// If lengths differ.
pub fn gelu(out: &mut [f32], x: &[f32]) {
    assert_eq!(out.len(), x.len());
    for_rows(out, 1, 8, |first, out| map(out, &x[first..], exact));
}

/// The gradient of [`gelu`] for the gradient `dy` of its output: `dx = dy · (Φ(x) + x · Φ'(x))`.
///
/// # Panics
/// If lengths differ.
pub fn gelu_backward(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    assert!(dx.len() == dy.len() && dx.len() == x.len());
    for_rows(dx, 1, 8, |first, dx| scale(dx, &dy[first..], &x[first..], exact_slope));
}

/// `out = x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2` element by element: the usual approximation of [`gelu`].
///
/// # Panics
/// If lengths differ.
pub fn gelu_tanh(out: &mut [f32], x: &[f32]) {
    assert_eq!(out.len(), x.len());
    for_rows(out, 1, 8, |first, out| map(out, &x[first..], approximate));
}

/// The gradient of [`gelu_tanh`] for the gradient `dy` of its output.
///
/// # Panics
/// If lengths differ.
pub fn gelu_tanh_backward(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    assert!(dx.len() == dy.len() && dx.len() == x.len());
    for_rows(dx, 1, 8, |first, dx| scale(dx, &dy[first..], &x[first..], approximate_slope));
}

vectorized! {
    fn map<F: Fn(f32) -> f32>(out: &mut [f32], x: &[f32], of: F) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = of(*x);
        }
    }
}

vectorized! {
    fn scale<F: Fn(f32) -> f32>(dx: &mut [f32], dy: &[f32], x: &[f32], slope: F) {
        for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
            *dx = dy * slope(*x);
        }
    }
}

/// Beyond it the function is 0 or `x` in single precision; nothing overflows within.
const EDGE: f32 = 13.0;

#[inline(always)]
fn exact(x: f32) -> f32 {
    let [below, _] = normal(x.clamp(-EDGE, EDGE));
    if x < -EDGE { 0.0 } else { x * below }
}

#[inline(always)]
fn exact_slope(x: f32) -> f32 {
    const DENSITY_AT_0: f32 = 0.398_942_3;
    let near = x.clamp(-EDGE, EDGE);
    let [below, bell] = normal(near);
    below + near * bell * DENSITY_AT_0
}

/// `[Φ(x), e^(−x²/2)]` for `|x| ≤ 13`.
///
/// The share beyond `a ≥ 0` is `e^(−a²/2) · R(a)`, where `R` varies slowly: with `t = 1 / (1 + 0.34 a)` it is `t` times a polynomial of
/// degree eight to a relative error of 2.5e-8. The coefficients are a least-squares fit, reweighted until its largest error is least.
#[inline(always)]
fn normal(x: f32) -> [f32; 2] {
    let bell = exp(x * x * -0.5);
    let t = 1.0 / (1.0 + 0.34 * x.abs());
    let r = -0.026_523_048;
    let r = r * t + 0.141_390_9;
    let r = r * t - 0.276_894_15;
    let r = r * t + 0.206_305_3;
    let r = r * t - 0.047_433_45;
    let r = r * t + 0.116_455_72;
    let r = r * t + 0.114_933_22;
    let r = r * t + 0.136_146_92;
    let r = r * t + 0.135_618_61;
    let beyond = bell * (r * t);
    [if x < 0.0 { beyond } else { 1.0 - beyond }, bell]
}

/// What [`EDGE`] is to the approximation.
const EDGE_TANH: f32 = 10.0;

/// `2 √(2/π)`: `(1 + tanh u) / 2 = σ(2 u)`.
const TWICE_ROOT: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

#[inline(always)]
fn approximate(x: f32) -> f32 {
    let near = x.clamp(-EDGE_TANH, EDGE_TANH);
    let share = sigmoid(TWICE_ROOT * near * (1.0 + CUBIC * near * near));
    if x < -EDGE_TANH { 0.0 } else { x * share }
}

#[inline(always)]
fn approximate_slope(x: f32) -> f32 {
    let near = x.clamp(-EDGE_TANH, EDGE_TANH);
    let square = near * near;
    // `σ' = σ (1 − σ)`, without the difference.
    let e = exp(-TWICE_ROOT * near * (1.0 + CUBIC * square));
    let share = 1.0 / (1.0 + e);
    share + near * share * (share * e) * TWICE_ROOT * (1.0 + 3.0 * CUBIC * square)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[Φ(x), Φ'(x)]` by the series `Φ(x) = ½ + Φ'(x) (x + x³/3 + x⁵/(3·5) + …)`.
    fn reference(x: f64) -> [f64; 2] {
        let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let (mut term, mut sum) = (x, x);
        for k in 1..400 {
            term *= x * x / f64::from(2 * k + 1);
            sum += term;
        }
        [0.5 + density * sum, density]
    }

    /// The approximation and its slope in double precision.
    fn reference_tanh(x: f64) -> [f64; 2] {
        let root = (2.0 / std::f64::consts::PI).sqrt();
        let tanh = (root * (x + 0.044715 * x.powi(3))).tanh();
        let inner = root * (1.0 + 3.0 * 0.044715 * x * x);
        [x * (1.0 + tanh) / 2.0, (1.0 + tanh) / 2.0 + x * (1.0 - tanh * tanh) * inner / 2.0]
    }

    type Kernels = (fn(&mut [f32], &[f32]), fn(&mut [f32], &[f32], &[f32]));
    const BOTH: [Kernels; 2] = [(gelu, gelu_backward), (gelu_tanh, gelu_tanh_backward)];

    fn values_and_slopes((forward, backward): Kernels, x: &[f32]) -> [Vec<f32>; 2] {
        let [mut y, mut slope] = [vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]];
        forward(&mut y, x);
        backward(&mut slope, &vec![1.0; x.len()], x);
        [y, slope]
    }

    #[test]
    fn values_and_slopes_are_right_to_a_few_units_in_the_last_place() {
        // An odd number of elements, and enough of them for more than one thread.
        let x: Vec<f32> = (-60_000..=60_000).map(|step| step as f32 * 1.3e-4 + 1e-6).collect();
        for (which, kernels) in BOTH.into_iter().enumerate() {
            let [y, slope] = values_and_slopes(kernels, &x);
            for ((x, y), slope) in x.iter().zip(y).zip(slope) {
                let exact = f64::from(*x);
                let [below, density] = reference(exact);
                let expected = if which == 0 { [exact * below, below + exact * density] } else { reference_tanh(exact) };
                let error = [f64::from(y) - expected[0], f64::from(slope) - expected[1]].map(f64::abs);
                assert!(error[0] < 3e-7 * exact.abs().max(1.0), "form {which} at {x}: {:e}", error[0]);
                assert!(error[1] < 4e-7, "slope of form {which} at {x}: {:e}", error[1]);
            }
        }
    }

    #[test]
    fn extreme_inputs_give_the_limits() {
        for kernels in BOTH {
            let high = [14.0, 30.0, 1e30, f32::MAX];
            let [y, slope] = values_and_slopes(kernels, &high);
            assert_eq!((y, slope), (high.to_vec(), vec![1.0; 4]));
            let [y, slope] = values_and_slopes(kernels, &high.map(|x| -x));
            assert!(y.iter().chain(&slope).all(|value| value.abs() < 1e-30), "{y:?} {slope:?}");
            // Zero, both signs, and numbers below the least normal one.
            let [y, slope] = values_and_slopes(kernels, &[0.0, -0.0, 1e-40, -1e-40]);
            assert!(slope.iter().all(|slope| (slope - 0.5).abs() < 2e-7), "{slope:?}");
            assert_eq!(y[..2], [0.0; 2]);
            assert!((y[2] - 5e-41).abs() < 1e-44 && (y[3] + 5e-41).abs() < 1e-44);
            let [y, slope] = values_and_slopes(kernels, &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
            assert_eq!((y[0], y[1], slope[0]), (f32::INFINITY, 0.0, 1.0));
            assert!(y[2].is_nan() && slope[2].is_nan());
        }
    }
}
