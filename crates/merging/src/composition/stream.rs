//! Endless batches of a task.

use peft_core::{Error, Result, seed};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Batches of the numbers of examples: shuffled, all of them once, shuffled again, and so on without end.
///
/// Every batch is full: where the examples end, the next round begins in the same batch.
#[derive(Clone, Debug)]
pub struct Indices {
    order: Vec<usize>,
    next: usize,
    batch: usize,
    rng: ChaCha8Rng,
}

impl Indices {
    /// Batches of `batch` out of the examples with these numbers; `seed` and `name` determine their order.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without examples, or for an empty batch.
    pub fn new(examples: impl IntoIterator<Item = usize>, batch: usize, seed: u64, name: &str) -> Result<Self> {
        let order: Vec<usize> = examples.into_iter().collect();
        if order.is_empty() {
            return Err(Error::InvalidConfig(format!("{name}: there are no examples to learn from")));
        }
        super::at_least_one("batch", batch)?;
        let next = order.len();
        Ok(Self { order, next, batch, rng: seed::rng(seed, &format!("examples of {name}")) })
    }

    /// The next batch.
    pub fn next_batch(&mut self) -> Vec<usize> {
        (0..self.batch).map(|_| self.next_one()).collect()
    }

    fn next_one(&mut self) -> usize {
        if self.next == self.order.len() {
            self.order.shuffle(&mut self.rng);
            self.next = 0;
        }
        self.next += 1;
        self.order[self.next - 1]
    }
}

/// The batches of one task, whose loss is one term of the loss of a merge.
pub struct Stream<'a, B> {
    /// The name of the task.
    pub task: String,
    make: Box<dyn FnMut() -> B + 'a>,
}

impl<'a, B> Stream<'a, B> {
    /// Batches that `make` gives one after the other.
    pub fn new(task: impl Into<String>, make: impl FnMut() -> B + 'a) -> Self {
        Self { task: task.into(), make: Box::new(make) }
    }

    /// Batches that `make` makes of the numbers of shuffled examples; see [`Indices`].
    ///
    /// # Errors
    /// Those of [`Indices::new`].
    pub fn shuffled(
        task: impl Into<String>,
        examples: usize,
        batch: usize,
        seed: u64,
        mut make: impl FnMut(&[usize]) -> B + 'a,
    ) -> Result<Self> {
        let task = task.into();
        let mut indices = Indices::new(0..examples, batch, seed, &task)?;
        Ok(Self::new(task, move || make(&indices.next_batch())))
    }

    /// The next batch.
    pub fn next_batch(&mut self) -> B {
        (self.make)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_has_every_example_once_and_batches_go_over_its_end() {
        let mut indices = Indices::new(0..5, 4, 1, "t").unwrap();
        let drawn: Vec<usize> = (0..5).flat_map(|_| indices.next_batch()).collect();
        for round in drawn.chunks(5) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4]);
        }
        assert_eq!(Indices::new(0..2, 5, 1, "t").unwrap().next_batch().len(), 5);
    }

    #[test]
    fn a_task_without_examples_is_an_error_that_names_it() {
        let error = Stream::shuffled("svhn", 0, 4, 0, |indices| indices.len()).err().unwrap().to_string();
        assert!(error.contains("svhn: there are no examples"), "{error}");
    }
}
