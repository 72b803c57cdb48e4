//! Task vectors reduced as TIES reduces them.

use crate::composition::{TaskVectors, host};
use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::{Error, Result};

/// Which entries of task vectors are kept: of each vector as a whole the largest, and of those the ones whose sign is that of the sum of
/// what all vectors keep there (Yadav et al., "TIES-Merging", NeurIPS 2023, arXiv 2306.01708).
#[derive(Clone, Debug)]
pub struct Trim {
    /// The least magnitude that is kept, by task.
    least: Vec<f32>,
}

impl Trim {
    /// Keep a share `density` of each vector; entries as large as the smallest of these are kept too.
    ///
    /// One vector at a time is in memory.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a density that is not above 0 and at most 1, or keeps nothing.
    pub fn new<M: Module>(vectors: &TaskVectors<M>, density: f64) -> Result<Self> {
        if !(density > 0.0 && density <= 1.0) {
            return Err(Error::InvalidConfig(format!("trim: above 0 and at most 1, not {density}")));
        }
        let least = |task: usize| {
            let mut magnitudes: Vec<f32> = (0..vectors.blocks().len()).flat_map(|block| host(vectors.delta(task, block).abs())).collect();
            let kept = (density * magnitudes.len() as f64) as usize;
            if kept == 0 {
                return Err(Error::InvalidConfig(format!("trim: {density} of {} entries keeps none", magnitudes.len())));
            }
            let rank = magnitudes.len() - kept;
            Ok(*magnitudes.select_nth_unstable_by(rank, f32::total_cmp).1)
        };
        Ok(Self { least: (0..vectors.tasks()).map(least).collect::<Result<_>>()? })
    }

    /// What is kept of a block of every task.
    pub fn apply(&self, deltas: Vec<Tensor<1>>) -> Vec<Tensor<1>> {
        let trim = |(delta, least): (Tensor<1>, &f32)| {
            let small = delta.clone().abs().lower_scalar(*least);
            delta.mask_fill(small, 0.0)
        };
        let trimmed: Vec<Tensor<1>> = deltas.into_iter().zip(&self.least).map(trim).collect();
        let Some(sum) = trimmed.iter().cloned().reduce(|a, b| a + b) else { return trimmed };
        let sign = sum.clone().ones_like().mask_fill(sum.lower_scalar(0.0), -1.0);
        let elected = |delta: Tensor<1>| {
            let against = (delta.clone() * sign.clone()).lower_scalar(0.0);
            delta.mask_fill(against, 0.0)
        };
        trimmed.into_iter().map(elected).collect()
    }
}
