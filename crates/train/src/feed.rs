//! Batches, prepared on a thread of their own.

use crate::data::{Plan, Position};
use crate::task::Task;
use peft_core::{Error, Result};
use std::marker::PhantomData;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Steps that are ready before they are asked for.
const AHEAD: usize = 2;

/// The batches of one optimizer step, each with its share of the terms that the step learns from: the weights of their mean losses.
pub(crate) type Step<B> = Vec<(B, f64)>;

/// What batches are made of.
pub(crate) struct Source<T> {
    pub task: Arc<T>,
    pub plan: Plan,
    /// Batches to one optimizer step.
    pub batches_per_step: usize,
}

/// The steps of a run without end, as they are ready. The thread that prepares them ends with it.
pub(crate) struct Feed<M, T: Task<M>> {
    /// Both present until it is dropped.
    steps: Option<Receiver<Result<Step<T::Batch>>>>,
    thread: Option<JoinHandle<()>>,
    model: PhantomData<fn(M)>,
}

impl<T> Source<T> {
    /// Send steps from `position` on, through the first that fails, for as long as somebody listens.
    fn send<M>(&self, mut position: Position, to: &SyncSender<Result<Step<T::Batch>>>)
    where
        T: Task<M>,
    {
        loop {
            let mut batches = self.plan.batches(position);
            loop {
                let rows: Vec<_> = batches.by_ref().take(self.batches_per_step).collect();
                if rows.is_empty() {
                    break;
                }
                let step = self.step::<M>(&rows);
                let failed = step.is_err();
                if to.send(step).is_err() || failed {
                    return;
                }
            }
            position = Position { epoch: position.epoch + 1, batch: 0 };
        }
    }

    fn step<M>(&self, batches: &[Vec<Vec<usize>>]) -> Result<Step<T::Batch>>
    where
        T: Task<M>,
    {
        let weight = |rows: &[Vec<usize>]| -> usize { rows.iter().flatten().map(|example| self.task.weight(*example)).sum() };
        let together: usize = batches.iter().map(|rows| weight(rows)).sum();
        let share = |rows: &[Vec<usize>]| weight(rows) as f64 / together.max(1) as f64;
        batches.iter().map(|rows| Ok((self.task.batch(rows)?, share(rows)))).collect()
    }
}

impl<M: 'static, T: Task<M>> Feed<M, T> {
    pub fn begin(source: Source<T>, position: Position) -> Self {
        let (sender, steps) = sync_channel(AHEAD);
        let thread = std::thread::spawn(move || source.send::<M>(position, &sender));
        Self { steps: Some(steps), thread: Some(thread), model: PhantomData }
    }

    pub fn next(&mut self) -> Result<Step<T::Batch>> {
        match self.steps.as_ref().expect("it has not been dropped").recv() {
            Ok(step) => step,
            Err(_) => match self.end() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => Err(Error::InvalidConfig("there are no more batches".into())),
            },
        }
    }

    fn end(&mut self) -> std::thread::Result<()> {
        // A thread that waits to hand over a step ends when nobody can take it.
        self.steps = None;
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl<M, T: Task<M>> Drop for Feed<M, T> {
    fn drop(&mut self) {
        self.steps = None;
        // Batches that nobody takes any more cannot fail.
        self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Evaluation;
    use burn::tensor::{Device, Tensor};

    /// Examples of which the batches are the indices; `0` weighs nothing.
    struct Indices(Vec<u32>);

    impl Task<()> for Indices {
        type Batch = Vec<usize>;
        fn lengths(&self) -> &[u32] {
            &self.0
        }
        fn weight(&self, example: usize) -> usize {
            example
        }
        fn batch(&self, rows: &[Vec<usize>]) -> Result<Vec<usize>> {
            let rows = rows.concat();
            assert!(!rows.contains(&99), "a batch has something to learn");
            Ok(rows)
        }
        fn tokens(&self, batch: &Vec<usize>) -> usize {
            batch.len()
        }
        fn loss(&self, (): &(), _: Vec<usize>, device: &Device) -> Tensor<1> {
            Tensor::zeros([1], device)
        }
        fn evaluate(&self, (): &(), _: usize) -> Result<Option<Evaluation>> {
            Ok(None)
        }
        fn fingerprint(&self) -> u64 {
            0
        }
    }

    fn feed(examples: usize, start: Position, batches_per_step: usize) -> (Feed<(), Indices>, Arc<Indices>) {
        let task = Arc::new(Indices(vec![1; examples]));
        let plan = Plan::shuffled(examples, 2, 1).unwrap();
        (Feed::begin(Source { task: task.clone(), plan, batches_per_step }, start), task)
    }

    #[test]
    fn steps_come_in_the_order_of_the_plan_and_resume_within_an_epoch() {
        let steps = |start, count| {
            let (mut feed, _) = feed(9, start, 1);
            (0..count).map(|_| feed.next().unwrap()[0].0.clone()).collect::<Vec<_>>()
        };
        let whole = steps(Position::default(), 10);
        assert_ne!(whole[..5], whole[5..]);
        assert_eq!(steps(Position { epoch: 0, batch: 3 }, 7), whole[3..]);
    }

    #[test]
    fn the_shares_of_a_step_are_those_of_its_terms() {
        let (mut feed, _) = feed(9, Position::default(), 3);
        for _ in 0..2 {
            let step = feed.next().unwrap();
            let together: usize = step.iter().flat_map(|(batch, _)| batch).sum();
            for (batch, share) in step {
                assert_eq!(share, batch.iter().sum::<usize>() as f64 / together as f64);
            }
        }
    }

    #[test]
    fn the_thread_ends_with_the_feed() {
        let (mut feed, task) = feed(40, Position::default(), 1);
        feed.next().unwrap();
        assert_eq!(Arc::strong_count(&task), 2);
        drop(feed);
        assert_eq!(Arc::strong_count(&task), 1);
    }

    #[test]
    #[should_panic(expected = "a batch has something to learn")]
    fn a_panic_of_the_thread_reaches_the_training_thread() {
        let (mut feed, _) = feed(100, Position::default(), 1);
        (0..50).for_each(|_| drop(feed.next()));
    }
}
