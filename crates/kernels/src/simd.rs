//! Loops that the compiler vectorises for the machine at hand.

use rayon::prelude::*;

/// How many running sums a reduction keeps: enough to fill the widest registers and hide their latency.
const LANES: usize = 32;

/// A function whose body is compiled for several instruction sets; the best that the machine has runs.
///
/// What the body calls must be `#[inline(always)]` to be compiled along with it.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$g:ident: $bound:path>)? ($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$g: $bound>)? ($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn body $(<$g: $bound>)? ($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn wide $(<$g: $bound>)? ($($arg: $type),*) $(-> $out)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn middle $(<$g: $bound>)? ($($arg: $type),*) $(-> $out)? {
                    body($($arg),*)
                }
                use std::arch::is_x86_feature_detected as has;
                if has!("avx2") && has!("fma") {
                    if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                        // SAFETY: the machine has what the function is compiled for.
                        return unsafe { wide($($arg),*) };
                    }
                    // SAFETY: as above.
                    return unsafe { middle($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use vectorized;

/// Elements below which waking other threads costs more than it saves.
const SEQUENTIAL: usize = 16 * 1024;

/// Give each thread some consecutive rows: `work(first row, first.., second..)` on equal numbers of rows of `width` elements each.
///
/// `cost` weighs an element against a plain copy.
pub fn for_rows(out: &mut [f32], width: usize, cost: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = out.len() / width.max(1);
    let threads = rayon::current_num_threads();
    if threads == 1 || out.len() * cost < SEQUENTIAL {
        return work(0, out);
    }
    let share = rows.div_ceil(threads * 2).max(1);
    out.par_chunks_mut(share * width).enumerate().for_each(|(index, chunk)| work(index * share, chunk));
}

/// Sums over rows of `total.len()` elements: each thread has `add(total, dy, x)` add up its share of the rows of `dy` and `x`.
pub fn sum_rows(total: &mut [f32], dy: &[f32], x: &[f32], add: impl Fn(&mut [f32], &[f32], &[f32]) + Sync) {
    let d = total.len();
    let share = (x.len() / d).div_ceil(rayon::current_num_threads()).max(1) * d;
    let parts = x.par_chunks(share).zip(dy.par_chunks(share)).map(|(x, dy)| {
        let mut part = vec![0.0; d];
        add(&mut part, dy, x);
        part
    });
    // Collected in order, so that a run repeats.
    let parts: Vec<Vec<f32>> = parts.collect();
    total.fill(0.0);
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
}

/// Fold the lanes in halves, which takes few steps where one after the other takes as many as there are lanes.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// `Σ term(aᵢ)`.
#[inline(always)]
pub fn sum(a: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for a in chunks {
        for i in 0..LANES {
            lanes[i] += term(a[i]);
        }
    }
    rest.iter().fold(fold(lanes, |a, b| a + b), |total, a| total + term(*a))
}

/// `Σ aᵢ bᵢ`.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    widened_dot(a, b, |a| a)
}

/// `Σ widen(aᵢ) bᵢ`.
#[inline(always)]
pub fn widened_dot<T: Copy>(a: &[T], b: &[f32], widen: impl Fn(T) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += widen(a[i]) * b[i];
        }
    }
    a_rest.iter().zip(b_rest).fold(fold(lanes, |a, b| a + b), |total, (a, b)| total + widen(*a) * b)
}

/// `Σ aᵢ bᵢ cᵢ`.
#[inline(always)]
pub fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest), (c, c_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i] * c[i];
        }
    }
    a_rest.iter().zip(b_rest).zip(c_rest).fold(fold(lanes, |a, b| a + b), |total, ((a, b), c)| total + a * b * c)
}

/// The largest element; `-∞` of none.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    rest.iter().copied().fold(fold(lanes, f32::max), f32::max)
}

/// `eˣ` to within two units in the last place between -87 and 88, and the values at these ends beyond them.
///
/// Reduction to `2ⁿ · eʳ` with `|r| ≤ ln 2 / 2` and a polynomial of degree six, in operations that vectorise.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    e * f32::from_bits(exponent << 23)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_two_units_in_the_last_place() {
        for step in -8700..=8800 {
            let x = step as f32 / 100.0 + 0.000_37;
            let expected = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(relative < 2.4e-7 || !(-87.0..=88.0).contains(&x), "exp({x}): {relative:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(1000.0).is_finite());
    }

    #[test]
    fn reductions_take_every_element_once() {
        for n in [0, 1, 31, 32, 33, 100] {
            let values: Vec<f32> = (0..n).map(|i| ((i * 7) % 13) as f32).collect();
            assert_eq!(sum(&values, |v| v), values.iter().sum::<f32>());
            assert_eq!(dot3(&values, &values, &values), values.iter().map(|v| v * v * v).sum::<f32>());
            assert_eq!(dot(&values, &values), values.iter().map(|v| v * v).sum::<f32>());
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        assert_eq!(max(&[-3.0, -1.0]), -1.0);
    }
}
