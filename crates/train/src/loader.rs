//! Batches for burn-train's learner.

use crate::data::{Batch, Encoded, HostBatch, Plan, Position};
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A batch and its share of the tokens that one optimizer step learns from: the weights of its mean loss.
#[derive(Clone, Debug)]
pub struct Share {
    /// The batch.
    pub batch: Batch,
    /// Its learned tokens over those of all batches of the step.
    pub share: f64,
}

/// One epoch of batches for each call of `iter`, beginning at a position.
pub(crate) struct Loader {
    pub examples: Arc<Vec<Encoded>>,
    pub plan: Arc<Plan>,
    pub device: Device,
    /// Fills short rows.
    pub pad_id: u32,
    /// Batches to one optimizer step.
    pub accumulation: usize,
    /// Where the first epoch begins.
    pub start: Position,
    /// Calls of `iter` so far.
    pub epochs: AtomicU64,
}

impl DataLoader<Share> for Loader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Share> + 'a> {
        let passed = self.epochs.fetch_add(1, Ordering::SeqCst);
        let batch = if passed == 0 { self.start.batch } else { 0 };
        let batches = self.plan.batches(Position { epoch: self.start.epoch + passed, batch }).collect();
        Box::new(Epoch { loader: self, batches, next: 0 })
    }

    fn num_items(&self) -> usize {
        self.plan.batches_per_epoch()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Share>> {
        Arc::new(Self {
            examples: self.examples.clone(),
            plan: self.plan.clone(),
            device: device.clone(),
            pad_id: self.pad_id,
            accumulation: self.accumulation,
            start: self.start,
            epochs: AtomicU64::new(self.epochs.load(Ordering::SeqCst)),
        })
    }

    fn slice(&self, _: usize, _: usize) -> Arc<dyn DataLoader<Share>> {
        unreachable!("only strategies for several devices slice, and the trainer offers none")
    }
}

struct Epoch<'a> {
    loader: &'a Loader,
    /// The examples in the rows of each batch.
    batches: Vec<Vec<Vec<usize>>>,
    next: usize,
}

impl Epoch<'_> {
    fn learned(&self, batch: usize) -> usize {
        self.batches[batch].iter().flatten().map(|example| self.loader.examples[*example].supervised()).sum()
    }
}

impl Iterator for Epoch<'_> {
    type Item = Result<Share, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.batches.get(self.next)?;
        let rows: Vec<Vec<&Encoded>> = rows.iter().map(|row| row.iter().map(|example| &self.loader.examples[*example]).collect()).collect();
        let batch = HostBatch::new(&rows, self.loader.pad_id).to_device(&self.loader.device);
        let step = self.next / self.loader.accumulation;
        let first = step * self.loader.accumulation;
        let last = (first + self.loader.accumulation).min(self.batches.len());
        let together: usize = (first..last).map(|batch| self.learned(batch)).sum();
        let share = self.learned(self.next) as f64 / together.max(1) as f64;
        self.next += 1;
        Some(Ok(Share { batch, share }))
    }
}

impl DataLoaderIterator<Share> for Epoch<'_> {
    fn progress(&self) -> Progress {
        Progress { items_processed: self.next, items_total: self.batches.len(), unit: Some("batches".into()) }
    }
}

/// A loader without batches: evaluation happens in the optimise step, where steps can be counted.
pub(crate) struct Nothing;

impl DataLoader<Share> for Nothing {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Share> + 'a> {
        Box::new(NoBatches)
    }
    fn num_items(&self) -> usize {
        0
    }
    fn to_device(&self, _: &Device) -> Arc<dyn DataLoader<Share>> {
        Arc::new(Nothing)
    }
    fn slice(&self, _: usize, _: usize) -> Arc<dyn DataLoader<Share>> {
        Arc::new(Nothing)
    }
}

struct NoBatches;

impl Iterator for NoBatches {
    type Item = Result<Share, DatasetError>;
    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}

impl DataLoaderIterator<Share> for NoBatches {
    fn progress(&self) -> Progress {
        Progress { items_processed: 0, items_total: 0, unit: None }
    }
}
