//! Dropout.

use crate::simd::{for_rows, vectorized};

/// Set a share `rate < 1` of the elements to zero and multiply the others by `1 / (1 − rate)` (Srivastava et al., 2014).
///
/// `key` and the place of an element alone decide whether it goes, so that calling it again, on a gradient, drops the same ones.
///
/// # Panics
/// If lengths differ.
pub fn dropout(out: &mut [f32], x: &[f32], rate: f64, key: [u32; 2]) {
    assert_eq!(out.len(), x.len());
    let limit = (rate * 2f64.powi(32)) as u32;
    let factor = (1.0 / (1.0 - rate)) as f32;
    for_rows(out, 1, 4, |first, out| drop_some(out, &x[first..], first, limit, factor, key));
}

vectorized! {
    fn drop_some(out: &mut [f32], x: &[f32], first: usize, limit: u32, factor: f32, key: [u32; 2]) {
        // A counter that may wrap: the check for it would keep the loop from being vectorised.
        let mut place = first as u32;
        for (out, x) in out.iter_mut().zip(x) {
            let drawn = mix(mix(place ^ key[0]) ^ key[1]);
            *out = if drawn < limit { 0.0 } else { x * factor };
            place = place.wrapping_add(1);
        }
    }
}

/// A permutation of the 32-bit numbers in which every bit of the input changes every bit of the output half of the time: `lowbias32` of
/// Wellons' search for such functions.
#[inline(always)]
fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad);
    let x = (x ^ (x >> 15)).wrapping_mul(0x735a_2d97);
    x ^ (x >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(n: usize, rate: f64, key: [u32; 2]) -> Vec<f32> {
        let mut out = vec![f32::NAN; n];
        dropout(&mut out, &vec![3.0; n], rate, key);
        out
    }

    #[test]
    fn the_share_asked_for_goes_and_the_rest_makes_up_for_it() {
        for rate in [0.0, 0.1, 0.5, 0.9] {
            let out = dropped(200_001, rate, [1, 2]);
            let kept = (3.0 / (1.0 - rate)) as f32;
            assert!(out.iter().all(|value| *value == 0.0 || (value - kept).abs() < 1e-5));
            let share = |count: usize| count as f64 / out.len() as f64;
            assert!((share(out.iter().filter(|value| **value == 0.0).count()) - rate).abs() < 4e-3);
            // Whether an element goes says nothing of those some places on.
            for lag in [1, 2, 8, 64, 384, 1 << 16] {
                let both = out.iter().zip(&out[lag..]).filter(|(a, b)| **a == 0.0 && **b == 0.0).count();
                let pairs = (out.len() - lag) as f64;
                assert!((both as f64 / pairs - rate * rate).abs() < 6e-3, "lag {lag} at {rate}");
            }
        }
    }

    #[test]
    fn the_key_decides() {
        let first = dropped(100_000, 0.5, [7, 9]);
        assert_eq!(first, dropped(100_000, 0.5, [7, 9]));
        assert_eq!(first[..100], dropped(100, 0.5, [7, 9]));
        for key in [[7, 10], [8, 9], [9, 7], [0, 0]] {
            let same = first.iter().zip(dropped(100_000, 0.5, key)).filter(|(a, b)| **a == *b).count();
            assert!((49_000..51_000).contains(&same), "{same} of 100000 agree with {key:?}");
        }
    }
}
