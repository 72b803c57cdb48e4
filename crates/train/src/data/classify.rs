//! Labelled texts to rows of tokens, and rows to batches.

use super::labelled::{Label, Labelled, Labels};
use super::tokenizer::TextTokenizer;
use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::{Result, Texts};
use serde::Serialize;

/// A text or a pair of texts as tokens, with its label.
#[derive(Debug, Clone, PartialEq)]
pub struct Classified {
    /// The tokens, special ones included.
    pub ids: Vec<u32>,
    /// For each token the text that it belongs to, 0 or 1.
    pub type_ids: Vec<u32>,
    /// What is to be predicted.
    pub label: Label,
}

/// What became of the examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ClassifyStats {
    /// Rows made.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Rows whose texts lost their ends.
    pub truncated: usize,
}

impl Classified {
    /// The row of one example, at most `max_tokens` long; see [`TextTokenizer::encode_texts`].
    ///
    /// # Errors
    /// [`Error::Data`](peft_core::Error::Data) for a label that is none of `labels`; those of [`TextTokenizer::encode_texts`].
    pub fn new(example: &Labelled, tokenizer: &TextTokenizer, labels: &Labels, max_tokens: usize) -> Result<Self> {
        Self::encode(example, tokenizer, labels, max_tokens).map(|(row, _)| row)
    }

    /// The rows of all examples, and what became of them.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), for the first example that has one.
    pub fn all(examples: &[Labelled], tokenizer: &TextTokenizer, labels: &Labels, max_tokens: usize) -> Result<(Vec<Self>, ClassifyStats)> {
        let mut stats = ClassifyStats::default();
        let mut rows = Vec::with_capacity(examples.len());
        for example in examples {
            let (row, truncated) = Self::encode(example, tokenizer, labels, max_tokens)?;
            stats.examples += 1;
            stats.tokens += row.ids.len();
            stats.truncated += usize::from(truncated);
            rows.push(row);
        }
        Ok((rows, stats))
    }

    fn encode(example: &Labelled, tokenizer: &TextTokenizer, labels: &Labels, max_tokens: usize) -> Result<(Self, bool)> {
        let label = labels.of(example)?;
        let tokens = tokenizer.encode_texts(&example.text, example.pair.as_deref(), max_tokens)?;
        Ok((Self { ids: tokens.ids, type_ids: tokens.type_ids, label }, tokens.truncated))
    }
}

/// `b` rows padded on the right, and what is to be predicted of them.
#[derive(Debug, Clone)]
pub struct LabelledBatch {
    /// The rows.
    pub texts: Texts,
    /// Their labels.
    pub targets: Targets,
}

/// The labels of a batch.
#[derive(Debug, Clone)]
pub enum Targets {
    /// Numbers of classes, `[b]`.
    Classes(Tensor<1, Int>),
    /// Numbers to be predicted, `[b]`.
    Numbers(Tensor<1>),
}

impl LabelledBatch {
    /// One batch of all `rows`, short ones filled with `pad_id`.
    ///
    /// # Panics
    /// If there are no rows, a row has no tokens, or some labels are classes and others numbers.
    pub fn new<'a>(rows: impl IntoIterator<Item = &'a Classified>, pad_id: u32, device: &Device) -> Self {
        let rows: Vec<&Classified> = rows.into_iter().collect();
        let texts = Texts::new(rows.iter().map(|row| (row.ids.as_slice(), row.type_ids.as_slice())), pad_id, device);
        let classes: Vec<i32> = rows.iter().filter_map(|row| row.label.class()).collect();
        let numbers: Vec<f32> = rows.iter().filter_map(|row| row.label.number()).collect();
        let targets = match (classes.len() == rows.len(), numbers.len() == rows.len()) {
            (true, _) => Targets::Classes(Tensor::from_data(TensorData::from(classes.as_slice()), device)),
            (_, true) => Targets::Numbers(Tensor::from_data(TensorData::from(numbers.as_slice()), device)),
            _ => panic!("the labels of a data set are all classes or all numbers"),
        };
        Self { texts, targets }
    }

    /// `b`.
    pub fn rows(&self) -> usize {
        self.texts.lengths.len()
    }

    /// Tokens that are not padding.
    pub fn tokens(&self) -> usize {
        self.texts.lengths.iter().sum()
    }
}

impl Label {
    fn class(self) -> Option<i32> {
        match self {
            Self::Class(class) => Some(class as i32),
            Self::Number(_) => None,
        }
    }

    fn number(self) -> Option<f32> {
        match self {
            Self::Class(_) => None,
            Self::Number(number) => Some(number),
        }
    }
}
