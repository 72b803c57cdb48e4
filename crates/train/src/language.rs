//! Learning to predict the next token.

use crate::data::{Batcher, Encoded, Examples, HostBatch};
use crate::evaluate;
use crate::task::{Evaluation, Task};
use burn::tensor::{Device, Tensor};
use peft_core::{LanguageModel, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The next token of sequences, where it counts.
#[derive(Debug)]
pub struct LanguageModelling {
    train: Examples,
    eval: Vec<Encoded>,
    pad_id: u32,
}

impl LanguageModelling {
    /// Learn from `train`; `pad_id` fills short rows.
    pub fn new(train: impl Into<Examples>, pad_id: u32) -> Self {
        Self { train: train.into(), eval: Vec::new(), pad_id }
    }

    /// Evaluate on these sequences.
    pub fn eval(mut self, eval: Vec<Encoded>) -> Self {
        self.eval = eval;
        self
    }
}

impl<M: LanguageModel> Task<M> for LanguageModelling {
    type Batch = HostBatch;

    fn lengths(&self) -> &[u32] {
        self.train.lengths()
    }

    fn weight(&self, example: usize) -> usize {
        self.train.learned(example)
    }

    fn batch(&self, rows: &[Vec<usize>]) -> Result<HostBatch> {
        let row = |row: &Vec<usize>| row.iter().map(|example| self.train.get(*example)).collect::<Result<Vec<Cow<_>>>>();
        Ok(HostBatch::new(&rows.iter().map(row).collect::<Result<Vec<_>>>()?, self.pad_id))
    }

    fn tokens(&self, batch: &HostBatch) -> usize {
        batch.tokens()
    }

    fn loss(&self, model: &M, batch: HostBatch, device: &Device) -> Tensor<1> {
        evaluate::loss(model, batch.to_device(device))
    }

    fn evaluate(&self, model: &M, batch_size: usize) -> Result<Option<Evaluation>> {
        if self.eval.is_empty() {
            return Ok(None);
        }
        let device = model.devices().into_iter().next().unwrap_or_default();
        let batcher = Batcher::new(device.without_autodiff(), self.pad_id);
        let eval_loss = evaluate::perplexity(model, &self.eval, batch_size, &batcher, |_, _| {})?.loss;
        Ok(Some(Evaluation { eval_loss, metrics: BTreeMap::new() }))
    }

    fn fingerprint(&self) -> u64 {
        self.train.fingerprint()
    }
}
