//! An evaluation that is ready to run.

use super::answer::{Answering, answer};
use super::choose::choose;
use super::grade::{grade_answers, grade_choices};
use super::item::Items;
use super::loss::{Likelihood, batcher, token_losses};
use super::metrics::Normalise;
use super::report::Report;
use crate::data::{Encoded, TextTokenizer};
use peft_core::{Error, LanguageModel, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// `exp` of the mean loss of a token.
    Perplexity,
    /// Whether the right choice is the most likely.
    MultipleChoice,
    /// The same with choices that are classes: accuracy, F1 and Matthews' coefficient.
    Classification,
    /// Whether the answer is the right text.
    ExactMatch,
    /// Words that the answer and the right one have in common, as in SQuAD.
    TokenF1,
    /// The longest common subsequence of words.
    RougeL,
    /// Whether the last number of the answer is the right one.
    Numeric,
}

impl Metric {
    /// Its name in task files and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perplexity => "perplexity",
            Self::MultipleChoice => "multiple_choice",
            Self::Classification => "classification",
            Self::ExactMatch => "exact_match",
            Self::TokenF1 => "token_f1",
            Self::RougeL => "rouge_l",
            Self::Numeric => "numeric",
        }
    }

    /// Whether the model chooses between continuations.
    pub fn chooses(self) -> bool {
        matches!(self, Self::MultipleChoice | Self::Classification)
    }

    /// Whether answers can be normalised before they are compared.
    pub(super) fn normalises(self) -> bool {
        matches!(self, Self::ExactMatch | Self::TokenF1)
    }

    /// What answers may differ in unless a task says otherwise.
    pub(super) fn disregards(self) -> &'static [Normalise] {
        if self == Self::TokenF1 { &Normalise::SQUAD } else { &[] }
    }

    /// Whether the model writes an answer.
    pub fn writes(self) -> bool {
        matches!(self, Self::ExactMatch | Self::TokenF1 | Self::RougeL | Self::Numeric)
    }
}

/// What a model is asked and how its answers are judged.
#[derive(Debug)]
pub struct Job {
    /// What the results call it.
    pub name: String,
    /// What is measured.
    pub metric: Metric,
    /// What the model is asked.
    pub items: Items,
    /// How answers are written, and how many things are computed together.
    pub answering: Answering,
    /// What answers may differ in, where the metric compares texts.
    pub normalise: Vec<Normalise>,
    /// The names of the classes, for classification.
    pub labels: Vec<String>,
    /// The settings, to be shown with the results.
    pub settings: Value,
}

impl Job {
    /// Ask `model`, and judge what it says. `on_progress` gets how much is done, and of how much.
    ///
    /// # Errors
    /// As reading the data, encoding and generating; [`Error::NonFinite`] if the model's output is not numbers.
    pub fn run<M: LanguageModel>(&self, model: &M, tokenizer: &TextTokenizer, on_progress: impl FnMut(usize, usize)) -> Result<Report> {
        let batch_size = self.answering.batch_size;
        match &self.items {
            Items::Choices(items) => {
                let scores = choose(model, tokenizer, items, batch_size, on_progress)?;
                Ok(Report::graded(self, items.len(), grade_choices(items, &scores, self.metric)?))
            }
            Items::Open(items) => {
                let answers = answer(model, tokenizer, items, &self.answering, on_progress)?;
                Ok(Report::graded(self, items.len(), grade_answers(items, &answers, self.metric, &self.normalise)))
            }
            Items::Learned(rows) => {
                let likelihood = score_rows(model, tokenizer, rows, batch_size, on_progress)?;
                Ok(Report::of_tokens(self, rows.len(), &likelihood))
            }
            Items::Documents(documents) => Ok(Report::of_documents(self, &documents.score(model, tokenizer, batch_size, on_progress)?)),
        }
    }
}

/// The likelihood of the tokens that count in `rows`.
fn score_rows<M: LanguageModel>(
    model: &M,
    tokenizer: &TextTokenizer,
    rows: &[Encoded],
    batch_size: usize,
    mut on_progress: impl FnMut(usize, usize),
) -> Result<Likelihood> {
    if rows.is_empty() {
        return Err(Error::InvalidConfig("there are no examples to evaluate on".into()));
    }
    let model = model.valid();
    let batcher = batcher(&model, tokenizer.pad_id());
    let mut likelihood = Likelihood::default();
    let mut done = 0;
    for rows_of_batch in rows.chunks(batch_size.max(1)) {
        likelihood.add(&token_losses(&model, &batcher.batch(rows_of_batch))?);
        done += rows_of_batch.len();
        on_progress(done, rows.len());
    }
    Ok(likelihood)
}
