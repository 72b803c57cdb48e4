//! Products of whole weights.

use crate::stack::{Block, Stack};

/// The products of all pairs of inputs, or of their differences from the base where there is one.
#[derive(Clone, Debug)]
pub struct Gram {
    n: usize,
    products: Vec<f64>,
}

impl Gram {
    /// Of whole weights. Without elements all products are zero.
    pub fn of(stack: &Stack) -> Self {
        let n = stack.others.len();
        let zero = || Self { n, products: vec![0.0; n * n] };
        stack.fold(1, |block| Self::of_slices(&deltas(block)), Self::add).unwrap_or_else(zero)
    }

    /// Of slices of equal length.
    pub fn of_slices<T: AsRef<[f32]>>(slices: &[T]) -> Self {
        let n = slices.len();
        let mut gram = Self { n, products: vec![0.0; n * n] };
        for i in 0..n {
            for j in i..n {
                let product = dot(slices[i].as_ref(), slices[j].as_ref());
                gram.products[i * n + j] = product;
                gram.products[j * n + i] = product;
            }
        }
        gram
    }

    /// The number of inputs.
    pub fn len(&self) -> usize {
        self.n
    }

    /// The product of two inputs.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.products[i * self.n + j]
    }

    /// The length of an input.
    pub fn norm(&self, i: usize) -> f64 {
        self.get(i, i).sqrt()
    }

    /// The product of two sums of inputs, given by what each input counts in them.
    pub fn of_sums(&self, a: &[f64], b: &[f64]) -> f64 {
        let terms = |(i, a): (usize, &f64)| b.iter().enumerate().map(|(j, b)| a * b * self.get(i, j)).sum::<f64>();
        a.iter().enumerate().map(terms).sum()
    }

    fn add(&mut self, other: Self) {
        self.products.iter_mut().zip(other.products).for_each(|(a, b)| *a += b);
    }
}

/// The inputs, or their differences from the base.
pub fn deltas(block: &Block) -> Vec<Vec<f32>> {
    let delta = |numbers: &&[f32]| match block.base {
        [] => numbers.to_vec(),
        base => numbers.iter().zip(base).map(|(x, b)| x - b).collect(),
    };
    block.others.iter().map(delta).collect()
}

/// Eight sums side by side, which the processor computes together.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; 8];
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.0.iter().zip(b.0) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    let rest: f64 = a.1.iter().zip(b.1).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    sums.iter().sum::<f64>() + rest
}

/// `Σ c_i x_i` into `out`, plus what `rest` counts of the base.
pub fn combine(block: &Block, coefficients: &[f64], rest: f64, out: &mut [f32]) {
    match (block.base, rest) {
        ([], _) | (_, 0.0) => out.fill(0.0),
        (base, rest) => out.iter_mut().zip(base).for_each(|(out, b)| *out = rest as f32 * b),
    }
    for (numbers, c) in block.others.iter().zip(coefficients) {
        let c = *c as f32;
        out.iter_mut().zip(*numbers).for_each(|(out, x)| *out += c * x);
    }
}
