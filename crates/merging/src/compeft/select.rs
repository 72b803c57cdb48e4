//! Which entries to keep: the largest by magnitude, exactly as many as asked for, without sorting and without a copy in memory.
//!
//! The bits of a float without its sign grow with its magnitude. One pass counts the upper 16 of 31 bits, which tells in which of the
//! counts the smallest kept entry lies; a second pass counts the lower 15 bits of those. Where more entries have that magnitude than are to
//! be kept, the first ones are, and a third pass counts how many lie in each tensor.

use super::moments::Moments;
use super::task_vector::TaskVector;
use peft_core::{Error, Result};
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

const LOW_BITS: u32 = 15;
const HIGH: usize = 1 << 16;
const LOW: usize = 1 << LOW_BITS;

/// Which entries are kept, and what they are worth.
#[derive(Debug)]
pub struct Cut {
    /// Kept are magnitudes whose bits are above this,
    pub threshold: u32,
    /// and of those that are equal to it the first ones, so many of each tensor.
    pub ties: Vec<u64>,
    /// Standard deviation of all entries.
    pub deviation: f64,
}

/// The bits of a number without its sign.
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Where to cut `parts` of `vector`, taken as one vector, so that the part `density` of the entries is kept.
///
/// Entries that are 0 have no sign and are never kept.
pub fn cut(vector: &TaskVector, parts: &[usize], density: f64) -> Result<Cut> {
    let Survey { moments, counts, zeros } = survey(vector, parts)?;
    let elements: u64 = counts.iter().sum();
    // The nudge: 0.29 * 100 is 28.999999999999996.
    let keep = ((density * elements as f64 + 1e-6).floor() as u64).min(elements - zeros);
    let none = |threshold| Cut { threshold, ties: vec![0; parts.len()], deviation: moments.deviation() };
    if keep == 0 {
        return Ok(none(u32::MAX));
    }
    let (bucket, above) = find(&counts, keep);
    let counts = inside(vector, parts, bucket)?;
    let (low, above_low) = find(&counts, keep - above);
    let threshold = bucket << LOW_BITS | low;
    let ties = keep - above - above_low;
    if counts[low as usize] == ties {
        // The bits of the smallest kept entry are above 0, since zeros are not kept.
        return Ok(none(threshold - 1));
    }
    Ok(Cut { ties: share(vector, parts, threshold, ties)?, ..none(threshold) })
}

/// What one pass over the entries tells.
struct Survey {
    moments: Moments,
    /// How often each value of the upper bits occurs.
    counts: Vec<u64>,
    /// How many entries are 0.
    zeros: u64,
}

fn survey(vector: &TaskVector, parts: &[usize]) -> Result<Survey> {
    let all = Mutex::new(vec![0; HIGH]);
    let one = |part: &usize| {
        let part = &vector.parts[*part];
        let (mut moments, mut counts, mut zeros) = (Moments::default(), vec![0; HIGH], 0);
        vector.blocks(part, |block| {
            moments = moments.and(Moments::of(block));
            block.iter().for_each(|x| counts[(magnitude(*x) >> LOW_BITS) as usize] += 1);
            zeros += block.iter().filter(|x| **x == 0.0).count() as u64;
        })?;
        add(&all, &counts);
        match moments.is_finite() {
            true => Ok((moments, zeros)),
            false => Err(Error::NonFinite { what: format!("{}: tensor `{}`", vector.tuned.path().display(), part.name) }),
        }
    };
    let each: Vec<(Moments, u64)> = parts.par_iter().map(one).collect::<Result<_>>()?;
    // In the order of the tensors, so that the same file always gives the same number.
    let moments = each.iter().fold(Moments::default(), |all, (moments, _)| all.and(*moments));
    Ok(Survey { moments, counts: taken(all), zeros: each.iter().map(|(_, zeros)| zeros).sum() })
}

/// How often each value of the lower bits occurs with the upper bits `bucket`.
fn inside(vector: &TaskVector, parts: &[usize], bucket: u32) -> Result<Vec<u64>> {
    let all = Mutex::new(vec![0; LOW]);
    parts.par_iter().try_for_each(|part| {
        let mut counts = vec![0; LOW];
        vector.blocks(&vector.parts[*part], |block| {
            let bits = block.iter().map(|x| magnitude(*x)).filter(|bits| bits >> LOW_BITS == bucket);
            bits.for_each(|bits| counts[bits as usize & (LOW - 1)] += 1);
        })?;
        add(&all, &counts);
        Ok::<_, Error>(())
    })?;
    Ok(taken(all))
}

fn add(all: &Mutex<Vec<u64>>, counts: &[u64]) {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
}

fn taken(all: Mutex<Vec<u64>>) -> Vec<u64> {
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The value of the `keep`-th entry from the top, and how many entries have higher ones. There must be as many.
fn find(counts: &[u64], keep: u64) -> (u32, u64) {
    let mut above = 0;
    for (value, count) in counts.iter().enumerate().rev() {
        if above + count >= keep {
            return (value as u32, above);
        }
        above += count;
    }
    unreachable!("{keep} entries of {above}")
}

/// How many of the first `ties` entries whose magnitude has these bits lie in each part.
fn share(vector: &TaskVector, parts: &[usize], threshold: u32, ties: u64) -> Result<Vec<u64>> {
    let count = |part: &usize| {
        let mut count = 0;
        vector.blocks(&vector.parts[*part], |block| count += block.iter().filter(|x| magnitude(**x) == threshold).count() as u64)?;
        Ok(count)
    };
    let counts: Vec<u64> = parts.par_iter().map(count).collect::<Result<_>>()?;
    let mut left = ties;
    let take = |count: u64| {
        let taken = count.min(left);
        left -= taken;
        taken
    };
    Ok(counts.into_iter().map(take).collect())
}

/// Of up to 64 numbers, which magnitudes have bits above `threshold`, which have those bits, and which numbers are negative.
pub fn masks(numbers: &[f32], threshold: u32) -> (u64, u64, u64) {
    let mut flags = [[0u8; 64]; 3];
    let [above, equal, negative] = &mut flags;
    for (i, x) in numbers.iter().enumerate() {
        above[i] = u8::from(magnitude(*x) > threshold);
        equal[i] = u8::from(magnitude(*x) == threshold);
        negative[i] = (x.to_bits() >> 31) as u8;
    }
    (word(above), word(equal), word(negative))
}

/// Bytes of 0 and 1 as bits.
fn word(flags: &[u8; 64]) -> u64 {
    // The product has byte i in its bit 56 + i.
    let bits = |eight: &[u8; 8]| u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    flags.as_chunks::<8>().0.iter().enumerate().fold(0, |word, (i, eight)| word | bits(eight) << (8 * i))
}

/// The lowest `count` set bits of `word`.
pub fn lowest(word: u64, count: u64) -> u64 {
    super::ternary::bits(word).take(count as usize).fold(0, |low, bit| low | 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_the_comparisons() {
        let numbers: Vec<f32> = (0..64).map(|i| [0.5, -0.5, 1.0, -2.0, 0.0, -0.0][i * i % 6]).collect();
        for len in [0, 1, 63, 64] {
            let (above, equal, negative) = masks(&numbers[..len], 0.5f32.to_bits());
            for (i, x) in numbers[..len].iter().enumerate() {
                let bit = |word: u64| word >> i & 1 == 1;
                assert_eq!((bit(above), bit(equal), bit(negative)), (x.abs() > 0.5, x.abs() == 0.5, x.is_sign_negative()), "{i}");
            }
        }
        assert_eq!(lowest(0b1011_0100, 2), 0b1_0100);
        assert_eq!(lowest(0b11, 5), 0b11);
    }

    #[test]
    fn the_entry_is_found_from_the_top() {
        let counts = [5, 0, 2, 3];
        assert_eq!((find(&counts, 1), find(&counts, 3), find(&counts, 4), find(&counts, 10)), ((3, 0), (3, 0), (2, 3), (0, 5)));
    }
}
