//! Which examples stand in which row of which batch.

use super::packing::pack;
use super::sampler::{Position, Sampler};
use peft_core::Result;

/// The batches of a run: rows of one or more examples, in an order that the seed and the epoch determine.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The examples of each row; without packing row `i` holds example `i`.
    rows: Option<Vec<Vec<usize>>>,
    sampler: Sampler,
}

impl Plan {
    /// One example to a row, shuffled in every epoch.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn shuffled(examples: usize, batch_size: usize, seed: u64) -> Result<Self> {
        Ok(Self { rows: None, sampler: Sampler::new(examples, batch_size, seed)? })
    }

    /// One example to a row, examples of similar length together; see [`Sampler::grouped`].
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn grouped(lengths: &[u32], batch_size: usize, seed: u64) -> Result<Self> {
        Ok(Self { rows: None, sampler: Sampler::grouped(lengths, batch_size, seed)? })
    }

    /// As many examples in each row of `capacity` tokens as [`pack`] finds room for; the same ones share a row in every epoch, and rows
    /// are shuffled.
    ///
    /// # Errors
    /// As [`pack`] and [`Sampler::new`].
    pub fn packed(lengths: &[u32], capacity: usize, batch_size: usize, seed: u64) -> Result<Self> {
        let rows = pack(lengths, capacity, seed)?;
        Ok(Self { sampler: Sampler::new(rows.len(), batch_size, seed)?, rows: Some(rows) })
    }

    /// Batches in an epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.sampler.batches_per_epoch()
    }

    /// The batches of an epoch from `position` on, each the examples of its rows.
    pub fn batches(&self, position: Position) -> impl Iterator<Item = Vec<Vec<usize>>> + '_ {
        let left = self.batches_per_epoch().saturating_sub(position.batch);
        let examples = |row: usize| self.rows.as_ref().map_or_else(|| vec![row], |rows| rows[row].clone());
        self.sampler.steps(position).take(left).map(move |(_, batch)| batch.into_iter().map(examples).collect())
    }

    /// The share of the positions in the first epoch's batches that hold no token, for examples of these lengths.
    pub fn padding(&self, lengths: &[u32]) -> f64 {
        let (mut tokens, mut positions) = (0, 0);
        for batch in self.batches(Position::default()) {
            let rows: Vec<u64> = batch.iter().map(|row| row.iter().map(|example| u64::from(lengths[*example])).sum()).collect();
            tokens += rows.iter().sum::<u64>();
            positions += rows.iter().max().copied().unwrap_or(0) * rows.len() as u64;
        }
        1.0 - tokens as f64 / positions.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mostly short, some long.
    fn lengths() -> Vec<u32> {
        (0..1000).map(|i| 20 + (i * 7919 % 1000) * (i * 104_729 % 1000) / 2500).collect()
    }

    fn examples(plan: &Plan, position: Position) -> Vec<usize> {
        plan.batches(position).flatten().flatten().collect()
    }

    #[test]
    fn every_plan_sees_every_example_once_in_an_epoch_and_resumes_within_it() {
        let lengths = lengths();
        let plans = [Plan::shuffled(1000, 8, 1), Plan::grouped(&lengths, 8, 1), Plan::packed(&lengths, 512, 8, 1)];
        for plan in plans.map(Result::unwrap) {
            let all = examples(&plan, Position { epoch: 2, batch: 0 });
            let mut sorted = all.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
            assert_ne!(all, examples(&plan, Position { epoch: 3, batch: 0 }), "another order in another epoch");
            let batches: Vec<_> = plan.batches(Position { epoch: 2, batch: 0 }).collect();
            assert_eq!(batches.len(), plan.batches_per_epoch());
            assert_eq!(plan.batches(Position { epoch: 2, batch: 9 }).collect::<Vec<_>>(), batches[9..]);
        }
    }

    #[test]
    fn grouping_leaves_little_padding_and_packing_next_to_none() {
        let lengths = lengths();
        let plain = Plan::shuffled(1000, 8, 1).unwrap().padding(&lengths);
        let grouped = Plan::grouped(&lengths, 8, 1).unwrap().padding(&lengths);
        let packed = Plan::packed(&lengths, 512, 8, 1).unwrap().padding(&lengths);
        assert!(plain > 0.4, "{plain}");
        assert!(grouped < 0.1 * plain, "{grouped} of {plain}");
        assert!(packed < 0.02, "{packed}");
    }

    #[test]
    fn padding_is_what_rows_lack_of_the_longest_of_their_batch() {
        let plan = Plan::shuffled(2, 2, 0).unwrap();
        assert_eq!(plan.padding(&[1, 4]), 3.0 / 8.0);
        assert_eq!(plan.padding(&[4, 4]), 0.0);
    }
}
