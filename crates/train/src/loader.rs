//! Batches for burn-train's learner, prepared on a thread of their own.

use crate::data::{Batch, Examples, HostBatch, Plan, Position};
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use peft_core::{Error, Result};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A batch and its share of the tokens that one optimizer step learns from: the weights of its mean loss.
#[derive(Clone, Debug)]
pub struct Share {
    /// The batch.
    pub batch: Batch,
    /// Its learned tokens over those of all batches of the step.
    pub share: f64,
}

/// Batches that are ready before they are asked for.
const AHEAD: usize = 2;

/// One epoch of batches for each call of `iter`, beginning at a position.
pub(crate) struct Loader {
    pub source: BatchSource,
    pub device: Device,
    /// Where the first epoch begins.
    pub start: Position,
    /// Calls of `iter` so far.
    pub epochs: AtomicU64,
    /// Why a batch could not be made, for the trainer: what the learner is told ends the run, but does not reach the caller.
    pub failure: Arc<Mutex<Option<Error>>>,
}

/// What batches are made of.
#[derive(Clone)]
pub(crate) struct BatchSource {
    pub examples: Arc<Examples>,
    pub plan: Arc<Plan>,
    /// Fills short rows.
    pub pad_id: u32,
    /// Batches to one optimizer step.
    pub accumulation: usize,
}

impl DataLoader<Share> for Loader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Share> + 'a> {
        let passed = self.epochs.fetch_add(1, Ordering::SeqCst);
        let batch = if passed == 0 { self.start.batch } else { 0 };
        Box::new(Epoch::begin(self, Position { epoch: self.start.epoch + passed, batch }))
    }

    fn num_items(&self) -> usize {
        self.source.plan.batches_per_epoch()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Share>> {
        Arc::new(Self {
            source: self.source.clone(),
            device: device.clone(),
            start: self.start,
            epochs: AtomicU64::new(self.epochs.load(Ordering::SeqCst)),
            failure: self.failure.clone(),
        })
    }

    fn slice(&self, _: usize, _: usize) -> Arc<dyn DataLoader<Share>> {
        unreachable!("only strategies for several devices slice, and the trainer offers none")
    }
}

type Made = Result<(HostBatch, f64)>;

impl BatchSource {
    /// Send the batches of an epoch from `position` on, through the first that fails, for as long as somebody listens.
    fn send(&self, position: Position, to: &SyncSender<Made>) {
        let mut batches = self.plan.batches(position);
        loop {
            let step: Vec<_> = batches.by_ref().take(self.accumulation).collect();
            if step.is_empty() {
                return;
            }
            let together: usize = step.iter().map(|batch| self.learned(batch)).sum();
            for rows in &step {
                let share = self.learned(rows) as f64 / together.max(1) as f64;
                let made = self.batch(rows).map(|batch| (batch, share));
                let failed = made.is_err();
                if to.send(made).is_err() || failed {
                    return;
                }
            }
        }
    }

    fn learned(&self, rows: &[Vec<usize>]) -> usize {
        rows.iter().flatten().map(|example| self.examples.learned(*example)).sum()
    }

    fn batch(&self, rows: &[Vec<usize>]) -> Result<HostBatch> {
        let row = |row: &Vec<usize>| row.iter().map(|example| self.examples.get(*example)).collect::<Result<Vec<_>>>();
        Ok(HostBatch::new(&rows.iter().map(row).collect::<Result<Vec<_>>>()?, self.pad_id))
    }
}

/// The batches of one epoch as they arrive. The thread that makes them ends with it.
struct Epoch<'a> {
    loader: &'a Loader,
    /// Both present until the epoch is dropped or has ended.
    batches: Option<Receiver<Made>>,
    thread: Option<JoinHandle<()>>,
    passed: usize,
    all: usize,
}

impl<'a> Epoch<'a> {
    fn begin(loader: &'a Loader, position: Position) -> Self {
        let (sender, batches) = sync_channel(AHEAD);
        let source = loader.source.clone();
        let all = source.plan.batches_per_epoch().saturating_sub(position.batch);
        let thread = std::thread::spawn(move || source.send(position, &sender));
        Self { loader, batches: Some(batches), thread: Some(thread), passed: 0, all }
    }

    fn end(&mut self) -> std::thread::Result<()> {
        // A thread that waits to hand over a batch ends when nobody can take it.
        self.batches = None;
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Iterator for Epoch<'_> {
    type Item = Result<Share, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.batches.as_ref()?.recv() {
            Ok(Ok((batch, share))) => {
                self.passed += 1;
                Some(Ok(Share { batch: batch.to_device(&self.loader.device), share }))
            }
            Ok(Err(error)) => {
                let told = DatasetError::new(std::io::Error::other(error.to_string()));
                *self.loader.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Some(Err(told))
            }
            Err(_) => {
                self.end().unwrap_or_else(|panic| resume_unwind(panic));
                None
            }
        }
    }
}

impl Drop for Epoch<'_> {
    fn drop(&mut self) {
        // Batches that nobody takes any more cannot fail.
        self.end().ok();
    }
}

impl DataLoaderIterator<Share> for Epoch<'_> {
    fn progress(&self) -> Progress {
        Progress { items_processed: self.passed, items_total: self.all, unit: Some("batches".into()) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Encoded;

    fn loader(rows: Vec<Encoded>, start: Position, accumulation: usize) -> Loader {
        let plan = Arc::new(Plan::shuffled(rows.len(), 2, 1).unwrap());
        let source = BatchSource { examples: Arc::new(rows.into()), plan, pad_id: 0, accumulation };
        Loader { source, device: Device::default(), start, epochs: AtomicU64::new(0), failure: Arc::default() }
    }

    /// Row `i` has `i + 2` tokens `i`, all learned.
    fn rows(count: u32) -> Vec<Encoded> {
        let row = |i: u32| Encoded { ids: vec![i; i as usize + 2], labels_mask: (0..i + 2).map(|t| t > 0).collect() };
        (0..count).map(row).collect()
    }

    fn ids(share: Share) -> Vec<i64> {
        share.batch.ids.into_data().iter::<i64>().collect()
    }

    fn epoch(loader: &Loader) -> Vec<Vec<i64>> {
        loader.iter().map(|share| ids(share.unwrap())).collect()
    }

    #[test]
    fn batches_come_in_the_order_of_the_plan_and_resume_within_an_epoch() {
        let whole = loader(rows(9), Position::default(), 1);
        let (first, second) = (epoch(&whole), epoch(&whole));
        assert_eq!(first.len(), 5);
        assert_ne!(first, second);
        let resumed = loader(rows(9), Position { epoch: 0, batch: 3 }, 1);
        assert_eq!(epoch(&resumed), first[3..]);
        assert_eq!(epoch(&resumed), second);
    }

    #[test]
    fn the_shares_of_a_step_are_those_of_its_learned_tokens() {
        let loader = loader(rows(9), Position::default(), 3);
        let batches: Vec<Share> = loader.iter().map(Result::unwrap).collect();
        for step in batches.chunks(3) {
            let learned = |share: &Share| share.batch.targets.dims()[0] as f64;
            let together: f64 = step.iter().map(learned).sum();
            for share in step {
                assert!((share.share - learned(share) / together).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn progress_is_complete_with_the_last_batch() {
        let loader = loader(rows(5), Position { epoch: 0, batch: 1 }, 1);
        let mut epoch = loader.iter();
        epoch.next();
        assert!(!epoch.progress().is_completed());
        epoch.next();
        assert!(epoch.progress().is_completed());
        assert!(epoch.next().is_none());
    }

    #[test]
    fn the_thread_prepares_two_batches_and_ends_with_the_epoch() {
        let loader = loader(rows(40), Position::default(), 1);
        let mut epoch = loader.iter();
        epoch.next().unwrap().unwrap();
        assert_eq!(Arc::strong_count(&loader.source.plan), 2, "the thread waits with 17 batches to go");
        drop(epoch);
        assert_eq!(Arc::strong_count(&loader.source.plan), 1);
    }

    #[test]
    #[should_panic(expected = "a batch has something to learn")]
    fn a_panic_of_the_thread_reaches_the_training_thread() {
        let unlearnable = vec![Encoded { ids: vec![1, 2], labels_mask: vec![false; 2] }];
        let loader = loader(unlearnable, Position::default(), 1);
        loader.iter().next();
    }
}
