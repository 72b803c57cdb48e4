//! Learning what texts are about: one of several labels, or a number.

use crate::data::{Classified, Label, LabelledBatch, Targets};
use crate::evaluate::metrics::{Classification, Regression};
use crate::task::{Evaluation, Task};
use burn::tensor::{DType, Device, Tensor};
use peft_core::{Error, Result, TextClassifier, as_type};
use peft_objectives::token_nll;
use serde::Serialize;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The labels of texts.
#[derive(Debug)]
pub struct TextClassification {
    train: Vec<Classified>,
    lengths: Vec<u32>,
    eval: Vec<Classified>,
    num_labels: usize,
    pad_id: u32,
}

impl TextClassification {
    /// Learn `num_labels` labels from `train`; `pad_id` fills short rows.
    pub fn new(train: Vec<Classified>, num_labels: usize, pad_id: u32) -> Self {
        let lengths = train.iter().map(|row| row.ids.len() as u32).collect();
        Self { train, lengths, eval: Vec::new(), num_labels, pad_id }
    }

    /// Evaluate on these rows.
    pub fn eval(mut self, eval: Vec<Classified>) -> Self {
        self.eval = eval;
        self
    }
}

impl<M: TextClassifier> Task<M> for TextClassification {
    type Batch = Vec<Classified>;

    fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    fn weight(&self, _: usize) -> usize {
        1
    }

    fn batch(&self, rows: &[Vec<usize>]) -> Result<Vec<Classified>> {
        if rows.iter().any(|row| row.len() > 1) {
            return Err(Error::InvalidConfig("packing is for language models; texts to classify stand alone (see group_by_length)".into()));
        }
        Ok(rows.iter().flatten().map(|example| self.train[*example].clone()).collect())
    }

    fn tokens(&self, batch: &Vec<Classified>) -> usize {
        batch.iter().map(|row| row.ids.len()).sum()
    }

    fn loss(&self, model: &M, batch: Vec<Classified>, device: &Device) -> Tensor<1> {
        let batch = LabelledBatch::new(&batch, self.pad_id, device);
        losses(model.logits(&batch.texts), batch.targets).mean()
    }

    fn evaluate(&self, model: &M, batch_size: usize) -> Result<Option<Evaluation>> {
        if self.eval.is_empty() {
            return Ok(None);
        }
        let scores = classify(model, &self.eval, self.num_labels, batch_size, self.pad_id, |_, _| {})?;
        let metrics = match &scores.scores {
            Scores::Classes(scores) => {
                [("eval_accuracy", scores.accuracy.value), ("eval_f1", scores.f1.value), ("eval_matthews", scores.matthews.value)]
                    .map(|(name, value)| (name.to_string(), value))
                    .into()
            }
            Scores::Numbers(scores) => {
                let correlations = [("eval_pearson", scores.pearson), ("eval_spearman", scores.spearman)];
                correlations.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?.value))).collect()
            }
        };
        Ok(Some(Evaluation { eval_loss: scores.loss, metrics }))
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for row in &self.train {
            (&row.ids, &row.type_ids, format!("{:?}", row.label)).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// How well labels or numbers are predicted.
#[derive(Clone, Debug, Serialize)]
pub struct ClassifierScores {
    /// Mean cross-entropy in nats, or mean squared error.
    pub loss: f64,
    /// What was predicted against what is right.
    #[serde(flatten)]
    pub scores: Scores,
    /// The model's outputs, row by row.
    #[serde(skip)]
    pub logits: Vec<f32>,
}

/// Scores by the kind of prediction.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Scores {
    /// Of labels.
    Classes(Classification),
    /// Of numbers.
    Numbers(Regression),
}

/// Predict the labels of `rows`, `batch_size` at a time, and compare. `on_progress` gets the rows done and all.
///
/// # Errors
/// [`Error::InvalidConfig`] without rows; [`Error::NonFinite`] for logits that are not numbers.
pub fn classify<M: TextClassifier>(
    model: &M,
    rows: &[Classified],
    num_labels: usize,
    batch_size: usize,
    pad_id: u32,
    mut on_progress: impl FnMut(usize, usize),
) -> Result<ClassifierScores> {
    if rows.is_empty() {
        return Err(Error::InvalidConfig("there are no examples to evaluate on".into()));
    }
    let model = model.valid();
    let device = model.devices().into_iter().next().unwrap_or_default();
    let (mut loss, mut logits, mut done) = (0.0, Vec::new(), 0);
    for rows_of_batch in rows.chunks(batch_size.max(1)) {
        let batch = LabelledBatch::new(rows_of_batch, pad_id, &device);
        let found = as_type(model.logits(&batch.texts), DType::F32);
        loss += f64::from(losses(found.clone(), batch.targets).sum().into_scalar::<f32>());
        logits.extend(found.into_data().try_into_vec::<f32>().map_err(|e| Error::Device(format!("{e:?}")))?);
        done += rows_of_batch.len();
        on_progress(done, rows.len());
    }
    if let Some(index) = logits.iter().position(|value| !value.is_finite()) {
        return Err(Error::NonFinite { what: format!("the prediction for example {}", index * rows.len() / logits.len() + 1) });
    }
    let loss = loss / rows.len() as f64;
    let classes: Vec<usize> = rows.iter().filter_map(|row| if let Label::Class(class) = row.label { Some(class) } else { None }).collect();
    let scores = match classes.is_empty() {
        false => {
            let predicted: Vec<usize> = logits.chunks(num_labels).map(argmax).collect();
            Scores::Classes(Classification::new(&predicted, &classes, num_labels)?)
        }
        true => {
            let numbers = rows.iter().filter_map(|row| if let Label::Number(number) = row.label { Some(f64::from(number)) } else { None });
            let predicted: Vec<f64> = logits.iter().copied().map(f64::from).collect();
            Scores::Numbers(Regression::new(&predicted, &numbers.collect::<Vec<_>>())?)
        }
    };
    Ok(ClassifierScores { loss, scores, logits })
}

/// The number of the largest of these logits; the first of equals.
pub fn argmax(logits: &[f32]) -> usize {
    logits.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index)
}

/// The loss of each row, `[b]`: cross-entropy in nats, or the squared error.
fn losses(logits: Tensor<2>, targets: Targets) -> Tensor<1> {
    match targets {
        Targets::Classes(classes) => token_nll(logits, classes),
        Targets::Numbers(numbers) => (logits.squeeze_dim::<1>(1) - numbers).powf_scalar(2.0),
    }
}
