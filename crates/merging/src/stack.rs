//! One weight in several models, read block by block.

use crate::source::Source;
use peft_core::files::{Dtype, are_finite, decode, encode};
use peft_core::{Error, Result};
use rayon::prelude::*;

/// Numbers in a block, where rows do not ask for more: a handful of such blocks fits the second-level cache.
pub const BLOCK: usize = 16 * 1024;

/// One weight of the merged model, as its inputs have it.
///
/// Rules read it in blocks, so that no input is in memory as a whole, whatever its size. The blocks are worked on in parallel; what is
/// summed over them is summed in their order, so that results do not depend on the number of threads.
#[derive(Debug)]
pub struct Stack<'a> {
    /// The name of the weight in the merged model.
    pub name: &'a str,
    /// Its shape, row-major.
    pub shape: &'a [usize],
    /// The base model's, for rules that tell it from the others.
    pub base: Option<Source<'a>>,
    /// The models', in the order of the recipe.
    pub others: Vec<Source<'a>>,
}

/// The same stretch of every input.
pub struct Block<'a> {
    /// Its number, from 0.
    pub index: usize,
    /// The base's numbers; empty where there is no base.
    pub base: &'a [f32],
    /// The numbers of each of the others.
    pub others: Vec<&'a [f32]>,
}

/// The merged weight in the type of the file.
#[derive(Debug)]
pub struct Output {
    dtype: Dtype,
    bytes: Vec<u8>,
}

/// Room for one block of every input and of the result.
#[derive(Default)]
struct Scratch {
    inputs: Vec<Vec<f32>>,
    out: Vec<f32>,
}

impl Stack<'_> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of elements in a row: those of the last axis.
    pub fn row(&self) -> usize {
        self.shape.last().copied().unwrap_or(1).max(1)
    }

    /// How many elements a block has that holds whole groups of `unit` elements.
    pub fn block_len(unit: usize) -> usize {
        (BLOCK / unit).max(1) * unit
    }

    fn ranges(&self, unit: usize) -> (usize, usize) {
        let length = Self::block_len(unit);
        (length, self.len().div_ceil(length))
    }

    /// Combine what `f` says of each block of whole groups of `unit` elements; `None` where there are no elements.
    pub fn fold<T: Send>(&self, unit: usize, f: impl Fn(&Block) -> T + Sync, add: impl Fn(&mut T, T)) -> Option<T> {
        let mut parts = self.each(unit, f).into_iter();
        let mut sum = parts.next()?;
        parts.for_each(|part| add(&mut sum, part));
        Some(sum)
    }

    /// What `f` says of each block, in their order.
    pub fn each<T: Send>(&self, unit: usize, f: impl Fn(&Block) -> T + Sync) -> Vec<T> {
        let (length, count) = self.ranges(unit);
        let each = |scratch: &mut Scratch, index: usize| {
            let n = length.min(self.len() - index * length);
            self.load(scratch, index * length, n);
            f(&self.block(&scratch.inputs, index, n))
        };
        (0..count).into_par_iter().map_init(Scratch::default, each).collect()
    }

    /// Accumulate over all blocks in any order, where order does not matter (counts).
    pub fn count<T: Send>(&self, new: impl Fn() -> T + Sync, f: impl Fn(&mut T, &Block) + Sync, add: impl Fn(T, T) -> T + Sync) -> T {
        let (length, count) = self.ranges(1);
        let least = count.div_ceil(4 * rayon::current_num_threads());
        let fold = |(mut sum, mut scratch): (T, Scratch), index: usize| {
            let n = length.min(self.len() - index * length);
            self.load(&mut scratch, index * length, n);
            f(&mut sum, &self.block(&scratch.inputs, index, n));
            (sum, scratch)
        };
        let start = || (new(), Scratch::default());
        (0..count).into_par_iter().with_min_len(least).fold(start, fold).map(|(sum, _)| sum).reduce(&new, &add)
    }

    /// Compute the result: `f` fills its last argument from each block of whole groups of `unit` elements.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if an input has a number that is none, or is infinite; it is named.
    pub fn fill(&self, unit: usize, out: &mut Output, f: impl Fn(&Block, &mut [f32]) + Sync) -> Result<()> {
        let (length, _) = self.ranges(unit);
        let (dtype, size) = (out.dtype, out.dtype.bitsize() / 8);
        let each = |scratch: &mut Scratch, (index, bytes): (usize, &mut [u8])| {
            let n = bytes.len() / size;
            self.load(scratch, index * length, n);
            self.check(scratch, n)?;
            scratch.out.clear();
            scratch.out.resize(n, 0.0);
            f(&self.block(&scratch.inputs, index, n), &mut scratch.out);
            encode(&scratch.out, dtype, bytes);
            Ok(())
        };
        out.bytes.par_chunks_mut(length * size).enumerate().map_init(Scratch::default, each).collect()
    }

    /// Read everything, as [`fill`](Self::fill) does.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if an input has a number that is none, or is infinite; it is named.
    pub fn check_all(&self) -> Result<()> {
        let (length, count) = self.ranges(1);
        let each = |scratch: &mut Scratch, index: usize| {
            let n = length.min(self.len() - index * length);
            self.load(scratch, index * length, n);
            self.check(scratch, n)
        };
        (0..count).into_par_iter().map_init(Scratch::default, each).collect()
    }

    fn sources(&self) -> impl Iterator<Item = &Source<'_>> {
        self.others.iter().chain(&self.base)
    }

    fn load(&self, scratch: &mut Scratch, start: usize, n: usize) {
        scratch.inputs.resize_with(self.others.len() + 1, Vec::new);
        for (source, buffer) in self.sources().zip(&mut scratch.inputs) {
            buffer.resize(n, 0.0);
            source.read(start, buffer);
        }
    }

    fn block<'s>(&self, inputs: &'s [Vec<f32>], index: usize, n: usize) -> Block<'s> {
        let (others, base) = inputs.split_at(self.others.len());
        let base = if self.base.is_some() { &base[0][..n] } else { &[] };
        Block { index, base, others: others.iter().map(|numbers| &numbers[..n]).collect() }
    }

    fn check(&self, scratch: &Scratch, n: usize) -> Result<()> {
        for (source, numbers) in self.sources().zip(&scratch.inputs) {
            if !are_finite(&numbers[..n]) {
                return Err(Error::NonFinite { what: format!("{} (an input of `{}`)", source.label, self.name) });
            }
        }
        Ok(())
    }
}

impl Output {
    /// Room for `len` numbers of type `dtype`, which must be a floating-point type.
    pub fn new(dtype: Dtype, len: usize) -> Self {
        Self { dtype, bytes: vec![0; len * (dtype.bitsize() / 8)] }
    }

    /// The numbers, little-endian.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The numbers, rounded to the type of the output.
    pub fn into_numbers(self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.bytes.len() / (self.dtype.bitsize() / 8)];
        decode(self.dtype, &self.bytes, &mut numbers);
        numbers
    }
}
