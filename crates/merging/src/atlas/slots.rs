//! Which coefficients belong to a block of a task vector.

use super::config::{AtlasConfig, Span};
use crate::composition::TaskVectors;
use burn::module::Module;
use peft_core::{Error, Result};
use std::ops::Range;

/// The places of the coefficients.
pub struct Slots {
    /// The parts of each block; 0 for a block that does not change.
    parts: Vec<usize>,
    /// By task and block the first coefficient.
    first: Vec<Vec<Option<usize>>>,
    count: usize,
    /// Whether all blocks of a task share one coefficient.
    global: bool,
}

impl Slots {
    /// One coefficient for each task, each block or each part of it, as the settings say.
    pub fn new<M: Module>(vectors: &TaskVectors<M>, config: &AtlasConfig) -> Result<Self> {
        let parts = |shape: &[usize]| match config.partition {
            Some(parts) if shape.len() == 2 => parts,
            Some(parts) if parts > 1 && !config.partition_1d => 0,
            _ => 1,
        };
        let parts: Vec<usize> = vectors.blocks().map(|site| parts(&site.shape)).collect();
        if parts.iter().all(|parts| *parts == 0) {
            return Err(Error::InvalidConfig("partition: no merged parameter is a matrix; set partition_1d".into()));
        }
        if config.granularity == Span::Global {
            let first = (0..vectors.tasks()).map(|task| vec![Some(task); parts.len()]).collect();
            return Ok(Self { parts, first, count: vectors.tasks(), global: true });
        }
        let mut slots = Self { first: vec![vec![None; parts.len()]; vectors.tasks()], parts, count: 0, global: false };
        slots.number(|_, _| true);
        Ok(slots)
    }

    /// The number of coefficients.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The parts of a block.
    pub fn parts(&self, block: usize) -> usize {
        self.parts[block]
    }

    /// The coefficients of a block of a task vector, if it has some.
    pub fn of(&self, task: usize, block: usize) -> Option<Range<usize>> {
        self.first[task][block].map(|first| first..first + self.parts[block])
    }

    /// The coefficients of all tasks that stand beside each other: of one block and part.
    pub fn columns(&self) -> Vec<Vec<usize>> {
        let blocks = if self.global { 1 } else { self.parts.len() };
        let column = |block: usize, part: usize| {
            let places = self.first.iter().filter_map(move |task| task[block].map(|first| first + part));
            places.collect::<Vec<_>>()
        };
        (0..blocks)
            .flat_map(|block| (0..self.parts[block]).map(move |part| column(block, part)))
            .filter(|column| !column.is_empty())
            .collect()
    }

    /// Keep of each block the `most` tasks whose coefficients have the highest score; of equal ones the first.
    pub fn keep(&mut self, most: usize, score: impl Fn(Range<usize>) -> f64) {
        let tasks = self.first.len();
        let kept = |block: usize| {
            let scores: Vec<f64> = (0..tasks).map(|task| self.of(task, block).map_or(0.0, &score)).collect();
            let mut order: Vec<usize> = (0..tasks).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            order[..most].to_vec()
        };
        let kept: Vec<Vec<usize>> = (0..self.parts.len()).map(kept).collect();
        self.number(|task, block| kept[block].contains(&task));
    }

    fn number(&mut self, is_kept: impl Fn(usize, usize) -> bool) {
        self.count = 0;
        for (task, firsts) in self.first.iter_mut().enumerate() {
            for (block, first) in firsts.iter_mut().enumerate() {
                let kept = self.parts[block] > 0 && is_kept(task, block);
                *first = kept.then_some(self.count);
                self.count += if kept { self.parts[block] } else { 0 };
            }
        }
    }
}
