//! What a run learns.

use burn::tensor::{Device, Tensor};
use peft_core::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a model of type `M` learns, and from what: the data of a run, how they become batches, and a batch a loss.
pub trait Task<M>: Send + Sync + 'static {
    /// A batch as plain numbers, which any thread can prepare.
    type Batch: Send + 'static;

    /// The tokens of each training example.
    fn lengths(&self) -> &[u32];

    /// How many terms of the mean loss one training example contributes: its learned tokens, or 1.
    fn weight(&self, example: usize) -> usize;

    /// A batch of rows of one or more training examples.
    ///
    /// # Errors
    /// For examples that cannot be read any more.
    fn batch(&self, rows: &[Vec<usize>]) -> Result<Self::Batch>;

    /// Tokens of a batch, without padding.
    fn tokens(&self, batch: &Self::Batch) -> usize;

    /// The mean loss of a batch, `[1]`.
    fn loss(&self, model: &M, batch: Self::Batch, device: &Device) -> Tensor<1>;

    /// How good a model is on the evaluation data; nothing without such data.
    ///
    /// # Errors
    /// [`NonFinite`](peft_core::Error::NonFinite).
    fn evaluate(&self, model: &M, batch_size: usize) -> Result<Option<Evaluation>>;

    /// A number that other training data do not share.
    fn fingerprint(&self) -> u64;
}

/// How good a model is on the evaluation data.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean loss.
    pub eval_loss: f64,
    /// Other measures by name, higher is better: `eval_accuracy` and so on.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "loss {:.4}", self.eval_loss)?;
        let named = self.metrics.iter().map(|(name, value)| (name.strip_prefix("eval_").unwrap_or(name), value));
        named.into_iter().try_for_each(|(name, value)| write!(f, ", {name} {value:.4}"))
    }
}

impl Evaluation {
    /// How good it is by `metric`, higher is better; nothing if there is no such metric. Names may leave `eval_` out.
    pub fn score(&self, metric: &str) -> Option<f64> {
        match metric.strip_prefix("eval_").unwrap_or(metric) {
            crate::config::LOSS => Some(-self.eval_loss),
            name => self.metrics.get(&format!("eval_{name}")).copied(),
        }
    }
}
