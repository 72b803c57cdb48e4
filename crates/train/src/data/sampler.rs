//! The order in which examples are seen.

use peft_core::{Error, Result, seed};
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::sync::Arc;

/// A place in training: the epoch and the batch within it, both from 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Full passes over the data so far.
    pub epoch: u64,
    /// Batches of this epoch so far.
    pub batch: usize,
}

/// Draws batches of example indices, every example once per epoch, in an order that the seed and the epoch determine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampler {
    len: usize,
    batch_size: usize,
    seed: Option<u64>,
    /// Examples of similar length go together.
    lengths: Option<Arc<[u32]>>,
}

impl Sampler {
    /// Batches of `batch_size` of `len` examples, shuffled anew every epoch; the last batch of an epoch can be smaller.
    ///
    /// Fails if there are no examples or the batch size is 0.
    pub fn new(len: usize, batch_size: usize, seed: u64) -> Result<Self> {
        Self::checked(Self { len, batch_size, seed: Some(seed), lengths: None })
    }

    /// As [`new`](Self::new), in the order of the file: for evaluation.
    pub fn sequential(len: usize, batch_size: usize) -> Result<Self> {
        Self::checked(Self { len, batch_size, seed: None, lengths: None })
    }

    /// As [`new`](Self::new), with examples of similar length in a batch, so that little of it is padding.
    ///
    /// The shuffled examples are cut into pieces of up to 50 batches (fewer where that would leave less than four pieces), each piece is
    /// sorted by length and cut into batches, and the batches are shuffled. The batch with the longest example comes first, so that
    /// memory which does not suffice shows at once.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn grouped(lengths: &[u32], batch_size: usize, seed: u64) -> Result<Self> {
        Self::checked(Self { len: lengths.len(), batch_size, seed: Some(seed), lengths: Some(lengths.into()) })
    }

    fn checked(self) -> Result<Self> {
        if self.batch_size == 0 {
            return Err(Error::InvalidConfig("batch_size must be at least 1".into()));
        }
        if self.len == 0 {
            return Err(Error::InvalidConfig("there are no examples to draw batches from".into()));
        }
        Ok(self)
    }

    /// Batches in an epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.len.div_ceil(self.batch_size)
    }

    /// The order of an epoch: a permutation of all indices, the same on every machine.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len).collect();
        if let Some(seed) = self.seed {
            let mut rng = seed::rng(seed, &format!("epoch.{epoch}"));
            shuffle(&mut order, &mut rng);
            if let Some(lengths) = &self.lengths {
                order = self.group(order, lengths, &mut rng);
            }
        }
        order
    }

    fn group(&self, mut order: Vec<usize>, lengths: &[u32], rng: &mut impl Rng) -> Vec<usize> {
        let piece = (self.len / (4 * self.batch_size)).clamp(1, 50) * self.batch_size;
        for piece in order.chunks_mut(piece) {
            piece.sort_by_key(|example| Reverse(lengths[*example]));
        }
        // The last batch may be smaller and stays last, where steps look for it.
        let batches = order.chunks_exact(self.batch_size);
        let smaller = batches.remainder();
        let mut batches: Vec<&[usize]> = batches.collect();
        shuffle(&mut batches, rng);
        let longest = |batch: &[usize]| batch.iter().map(|example| lengths[*example]).max();
        if let Some(first) = (0..batches.len()).max_by_key(|batch| longest(batches[*batch])) {
            batches.swap(0, first);
        }
        batches.push(smaller);
        batches.concat()
    }

    /// Batches without end from `position` on, to start or to resume.
    pub fn steps(&self, position: Position) -> Steps<'_> {
        Steps { sampler: self, order: self.order(position.epoch), position }
    }

    /// The batches of one epoch.
    pub fn epoch(&self, epoch: u64) -> impl Iterator<Item = Vec<usize>> + '_ {
        self.steps(Position { epoch, batch: 0 }).take(self.batches_per_epoch()).map(|(_, batch)| batch)
    }
}

/// Endless iterator over batches of example indices, each with its position.
#[derive(Debug, Clone)]
pub struct Steps<'a> {
    sampler: &'a Sampler,
    order: Vec<usize>,
    position: Position,
}

impl Steps<'_> {
    /// Where the next batch is: what a checkpoint stores to resume from.
    pub fn position(&self) -> Position {
        self.position
    }

    fn next_epoch(&mut self) {
        self.position = Position { epoch: self.position.epoch + 1, batch: 0 };
        self.order = self.sampler.order(self.position.epoch);
    }
}

impl Iterator for Steps<'_> {
    type Item = (Position, Vec<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.position.batch >= self.sampler.batches_per_epoch() {
            self.next_epoch();
        }
        let here = self.position;
        let first = here.batch * self.sampler.batch_size;
        let last = self.order.len().min(first + self.sampler.batch_size);
        self.position.batch += 1;
        Some((here, self.order[first..last].to_vec()))
    }
}

/// Put the items into an order that the generator determines, each equally likely.
pub(super) fn shuffle<T>(items: &mut [T], rng: &mut impl Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i + 1));
    }
}

/// A number below `n`, by a product instead of a library's range so that the order never changes with a dependency.
fn below(rng: &mut impl Rng, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}
