//! The one check that numbers are finite: neither infinite nor NaN.
//!
//! Every reader checks what it has read, every writer what it is about to write, after rounding to the type of the file.

use super::Dtype;
use super::floats::Float;

/// Numbers that are looked at together, without a branch for each, so that the compiler makes vectors of them: gigabytes in a second.
const STRETCH: usize = 1 << 12;

/// Whether all numbers in `bytes`, little-endian and of type `dtype`, are finite. Types other than f64, f32, f16 and bf16 are not looked
/// at: they pass.
pub fn all_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    match Float::from_file(dtype) {
        Some(Float::F64) => none::<8>(bytes, |b| u64::from_le_bytes(b) << 1 >= 0x7ff << 53),
        Some(Float::F32) => none::<4>(bytes, |b| u32::from_le_bytes(b) << 1 >= 0xff << 24),
        Some(Float::F16) => none::<2>(bytes, |b| u16::from_le_bytes(b) << 1 >= 0x1f << 11),
        Some(Float::BF16) => none::<2>(bytes, |b| u16::from_le_bytes(b) << 1 >= 0xff << 8),
        None => true,
    }
}

/// Whether all of these numbers are finite.
pub fn are_finite(numbers: &[f32]) -> bool {
    numbers.chunks(STRETCH).all(|numbers| numbers.iter().fold(true, |all, x| all & x.is_finite()))
}

/// Whether none of the numbers of `N` bytes each is `special`: one whose exponent has all bits set.
fn none<const N: usize>(bytes: &[u8], special: impl Fn([u8; N]) -> bool) -> bool {
    let none = |numbers: &[[u8; N]]| !numbers.iter().fold(false, |any, number| any | special(*number));
    bytes.as_chunks::<N>().0.chunks(STRETCH).all(none)
}

#[cfg(test)]
mod tests {
    use super::super::floats::{encode, float_bytes};
    use super::*;

    const FLOATS: [Dtype; 4] = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];

    #[test]
    fn one_number_among_many_is_found_wherever_it_stands() {
        let mut numbers = vec![-65504.0; 2 * STRETCH + 5];
        for dtype in FLOATS {
            assert!(all_finite(dtype, &float_bytes(&numbers, dtype).unwrap()), "{dtype}");
        }
        for (place, bad) in [(0, f32::NAN), (1000, f32::NEG_INFINITY), (numbers.len() - 1, f32::INFINITY)] {
            let good = std::mem::replace(&mut numbers[place], bad);
            assert!(!are_finite(&numbers));
            for dtype in FLOATS {
                assert!(!all_finite(dtype, &float_bytes(&numbers, dtype).unwrap()), "{bad} at {place} in {dtype}");
            }
            numbers[place] = good;
        }
    }

    #[test]
    fn the_largest_and_the_smallest_numbers_of_each_type_are_finite() {
        let extremes: [&[f64]; 4] =
            [&[f64::MAX, -f64::MAX, 5e-324], &[f32::MAX.into(), 1e-45], &[65504.0, -65504.0, 6e-8], &[3.3895e38, 1e-40]];
        for (dtype, extremes) in FLOATS.into_iter().zip(extremes) {
            for number in extremes {
                let bytes = match dtype {
                    Dtype::F64 => number.to_le_bytes().to_vec(),
                    _ => float_bytes(&[*number as f32], dtype).unwrap(),
                };
                assert!(all_finite(dtype, &bytes), "{number} in {dtype}");
            }
        }
    }

    #[test]
    fn what_overflows_when_it_is_rounded_is_found() {
        let mut bytes = [0; 2];
        assert!(encode(&[65519.9], Dtype::F16, &mut bytes) && all_finite(Dtype::F16, &bytes));
        assert!(encode(&[65520.0], Dtype::F16, &mut bytes) && !all_finite(Dtype::F16, &bytes));
        assert!(encode(&[f32::MAX], Dtype::BF16, &mut bytes) && !all_finite(Dtype::BF16, &bytes));
    }

    #[test]
    fn integers_are_not_looked_at() {
        assert!(all_finite(Dtype::I64, &[0xff; 16]) && all_finite(Dtype::U8, &[0xff; 3]) && all_finite(Dtype::F32, &[]));
    }
}
