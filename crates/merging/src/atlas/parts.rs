//! A matrix split into parts at random.

use peft_core::seed;
use rand::Rng;

/// The part of each entry of a matrix. Seed and path determine it; it is made again when it is needed.
pub struct Parts {
    of: Vec<u16>,
    count: usize,
}

impl Parts {
    /// `count` parts of `entries` entries.
    pub fn new(seed: u64, path: &str, entries: usize, count: usize) -> Self {
        let mut rng = seed::rng(seed, &format!("parts of {path}"));
        let count = count.max(1);
        Self { of: (0..entries).map(|_| ((u64::from(rng.next_u32()) * count as u64) >> 32) as u16).collect(), count }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Add to each entry of `out` that of `vector` times the coefficient of its part.
    pub fn add(&self, coefficients: &[f32], vector: &[f32], out: &mut [f32]) {
        for ((out, x), part) in out.iter_mut().zip(vector).zip(&self.of) {
            *out += coefficients[usize::from(*part)] * x;
        }
    }

    /// The inner products of both vectors over each part.
    pub fn products(&self, a: &[f32], b: &[f32], out: &mut [f32]) {
        let mut sums = vec![0f64; self.count];
        for ((a, b), part) in a.iter().zip(b).zip(&self.of) {
            sums[usize::from(*part)] += f64::from(*a) * f64::from(*b);
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_in_one_part_and_parts_are_of_like_size() {
        let (entries, count) = (12_000, 5);
        let parts = Parts::new(3, "w", entries, count);
        let ones = vec![1.0; entries];
        let mut sizes = vec![0.0; count];
        parts.products(&ones, &ones, &mut sizes);
        assert_eq!(sizes.iter().sum::<f32>(), entries as f32);
        assert!(sizes.iter().all(|size| (size - 2400.0).abs() < 200.0), "{sizes:?}");
        let mut out = vec![0.0; entries];
        parts.add(&[1.0; 5], &ones, &mut out);
        assert_eq!(out, ones, "with equal coefficients the parts are the whole");
        assert_ne!(Parts::new(3, "v", entries, count).of, parts.of);
    }
}
