//! Where the numbers of one input come from.

use crate::adapters::LowRank;
use peft_core::files::{Dtype, decode};
use std::sync::Arc;

/// A weight of one model, read a stretch at a time.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// What errors call it.
    pub label: String,
    /// Its numbers.
    pub numbers: Numbers<'a>,
}

/// Numbers in memory or in a file.
#[derive(Clone, Debug)]
pub enum Numbers<'a> {
    /// As they are.
    Slice(&'a [f32]),
    /// Little-endian in a file.
    Stored(Stored<'a>),
    /// A table whose rows come from elsewhere: an embedding brought to another vocabulary.
    Rows(Arc<Rows<'a>>),
    /// A weight with the change of an adapter, or that change alone.
    LowRank(Arc<LowRank<'a>>),
}

/// Floating-point numbers as a file has them.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Their type: f64, f32, f16 or bf16.
    pub dtype: Dtype,
    /// Little-endian, row-major.
    pub bytes: &'a [u8],
}

/// A table put together from rows of others.
#[derive(Debug)]
pub struct Rows<'a> {
    /// The number of elements in each row.
    pub width: usize,
    /// Where each row comes from.
    pub rows: Vec<Row<'a>>,
}

/// One row of a table.
#[derive(Clone, Debug)]
pub enum Row<'a> {
    /// A row of a stored table, by its number.
    Of(Stored<'a>, usize),
    /// Computed.
    Given(Arc<[f32]>),
    /// Zeros.
    Zero,
}

impl Source<'_> {
    /// The numbers from place `start` on, as many as `out` has places.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        match &self.numbers {
            Numbers::Slice(numbers) => out.copy_from_slice(&numbers[start..start + out.len()]),
            Numbers::Stored(stored) => stored.read(start, out),
            Numbers::Rows(rows) => rows.read(start, out),
            Numbers::LowRank(product) => product.read(start, out),
        }
    }
}

impl Stored<'_> {
    /// The numbers from place `start` on.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.bitsize() / 8;
        decode(self.dtype, &self.bytes[start * size..(start + out.len()) * size], out);
    }
}

impl Rows<'_> {
    fn read(&self, start: usize, out: &mut [f32]) {
        let mut place = start;
        let mut out = out;
        while !out.is_empty() {
            let (row, column) = (place / self.width, place % self.width);
            let length = (self.width - column).min(out.len());
            let (head, tail) = std::mem::take(&mut out).split_at_mut(length);
            self.rows[row].read(self.width, column, head);
            place += head.len();
            out = tail;
        }
    }
}

impl Row<'_> {
    /// The numbers of this row of `width` from `column` on.
    pub fn read(&self, width: usize, column: usize, out: &mut [f32]) {
        match self {
            Self::Of(table, row) => table.read(row * width + column, out),
            Self::Given(numbers) => out.copy_from_slice(&numbers[column..column + out.len()]),
            Self::Zero => out.fill(0.0),
        }
    }
}
