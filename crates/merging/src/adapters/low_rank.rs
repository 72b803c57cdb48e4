//! Products of two thin matrices, read a stretch at a time.

use super::lora::{Factors, Site};
use crate::source::Stored;

/// Numbers of a row that are computed at a time: small enough for the first-level cache.
const STRETCH: usize = 2048;

/// `onto + left · right`, of which no more is computed than is read.
#[derive(Debug)]
pub struct LowRank<'a> {
    /// What the product is added to; nothing for the product alone.
    pub onto: Option<Stored<'a>>,
    left: Vec<f32>,
    right: Vec<f32>,
    rank: usize,
    columns: usize,
}

impl<'a> LowRank<'a> {
    /// The change of a weight as its matrices are stored: `scaling · B A`.
    pub fn change(factors: Factors, site: &Site) -> Self {
        let Factors { a, b } = factors;
        Self { onto: None, left: scaled(b, site.scaling), right: a, rank: site.rank, columns: site.columns }
    }

    /// `onto` with the change that the matrices make. The weight of an embedding, or of a layer that stores it as `[in, out]`, has the
    /// `transposed` product added.
    pub fn added(onto: Stored<'a>, factors: Factors, site: &Site, transposed: bool) -> Self {
        let sum = if transposed {
            let left = scaled(transpose(&factors.a, site.rank, site.columns), site.scaling);
            let right = transpose(&factors.b, site.rows, site.rank);
            Self { onto: None, left, right, rank: site.rank, columns: site.rows }
        } else {
            Self::change(factors, site)
        };
        Self { onto: Some(onto), ..sum }
    }

    /// The numbers from place `start` on.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        match &self.onto {
            Some(stored) => stored.read(start, out),
            None => out.fill(0.0),
        }
        let mut place = start;
        let mut out = out;
        while !out.is_empty() {
            let (row, column) = (place / self.columns, place % self.columns);
            let length = (self.columns - column).min(STRETCH).min(out.len());
            let (head, tail) = std::mem::take(&mut out).split_at_mut(length);
            self.add(row, column, head);
            place += length;
            out = tail;
        }
    }

    fn add(&self, row: usize, column: usize, out: &mut [f32]) {
        let coefficients = &self.left[row * self.rank..(row + 1) * self.rank];
        for (k, c) in coefficients.iter().enumerate() {
            let right = &self.right[k * self.columns + column..];
            out.iter_mut().zip(right).for_each(|(out, x)| *out += c * x);
        }
    }
}

fn scaled(mut numbers: Vec<f32>, factor: f64) -> Vec<f32> {
    numbers.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    numbers
}

/// `[rows, columns]` as `[columns, rows]`.
fn transpose(numbers: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| numbers[row * columns + column])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Factors, Site) {
        let site = Site { embedding: false, rank: 2, columns: 3, rows: 2, kernel: vec![], scaling: 0.5 };
        // A = [[1, 2, 3], [0, 1, 0]], B = [[1, 0], [2, 4]]: B A = [[1, 2, 3], [2, 8, 6]].
        (Factors { a: vec![1.0, 2.0, 3.0, 0.0, 1.0, 0.0], b: vec![1.0, 0.0, 2.0, 4.0] }, site)
    }

    #[test]
    fn a_stretch_may_begin_and_end_within_rows() {
        let (factors, site) = example();
        let change = LowRank::change(factors, &site);
        let mut out = [9.0; 4];
        change.read(1, &mut out);
        assert_eq!(out, [1.0, 1.5, 1.0, 4.0]);
    }

    #[test]
    fn a_layer_that_stores_inputs_first_gets_the_transposed_product() {
        let (factors, site) = example();
        let bytes: Vec<u8> = [10f32; 6].iter().flat_map(|x| x.to_le_bytes()).collect();
        let onto = Stored { dtype: peft_core::files::Dtype::F32, bytes: &bytes };
        let mut out = [0.0; 6];
        LowRank::added(onto, factors, &site, true).read(0, &mut out);
        assert_eq!(out, [10.5, 11.0, 11.0, 14.0, 11.5, 13.0]);
    }
}
