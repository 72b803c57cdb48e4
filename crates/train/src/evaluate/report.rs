//! What was measured.

use super::documents::Scored;
use super::grade::Graded;
use super::job::{Job, Metric};
use super::loss::Likelihood;
use super::metrics::{ClassScores, Classification, Estimate};
use serde_json::{Map, Value, json};

/// The results of one evaluation.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was evaluated.
    pub name: String,
    /// What was measured.
    pub metric: Metric,
    /// Examples or documents.
    pub examples: usize,
    /// The name of each score and its value, the main one first.
    pub scores: Vec<(&'static str, Estimate)>,
    /// Further counts by name: `tokens`, `words`, `bytes`.
    pub counts: Vec<(&'static str, usize)>,
    /// For classification, the names of the classes and what else there is to know.
    pub classification: Option<(Vec<String>, Classification)>,
    /// One JSON object for each example; none for perplexity.
    pub predictions: Vec<Value>,
    /// The settings.
    pub settings: Value,
}

impl Report {
    fn new(job: &Job, examples: usize, scores: Vec<(&'static str, Estimate)>) -> Self {
        Self {
            name: job.name.clone(),
            metric: job.metric,
            examples,
            scores,
            counts: Vec::new(),
            classification: None,
            predictions: Vec::new(),
            settings: job.settings.clone(),
        }
    }

    pub(super) fn graded(job: &Job, examples: usize, graded: Graded) -> Self {
        let classification = graded.classification.map(|classification| (job.labels.clone(), classification));
        Self { classification, predictions: graded.predictions, ..Self::new(job, examples, graded.scores) }
    }

    pub(super) fn of_tokens(job: &Job, examples: usize, likelihood: &Likelihood) -> Self {
        let scores = vec![("perplexity", likelihood.perplexity()), ("loss", likelihood.loss())];
        Self { counts: vec![("tokens", likelihood.tokens)], ..Self::new(job, examples, scores) }
    }

    pub(super) fn of_documents(job: &Job, scored: &Scored) -> Self {
        let mut report = Self::of_tokens(job, scored.documents, &scored.likelihood);
        report.scores.push(("bits_per_byte", scored.likelihood.bits_per_byte(scored.bytes)));
        report.counts.extend([("words", scored.words), ("bytes", scored.bytes)]);
        if let Some(window) = scored.window {
            report.settings["max_length"] = window.max_length.into();
            report.settings["stride"] = window.stride.into();
        }
        report
    }

    /// One object: the scores and counts by name, `standard_errors` of the scores, and the settings.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("task".into(), self.name.clone().into());
        object.insert("metric".into(), self.metric.name().into());
        object.insert("examples".into(), self.examples.into());
        object.extend(self.scores.iter().map(|(name, score)| (name.to_string(), score.value.into())));
        object.extend(self.counts.iter().map(|(name, count)| (name.to_string(), (*count).into())));
        let errors: Map<_, _> = self.scores.iter().map(|(name, score)| (name.to_string(), score.standard_error.into())).collect();
        object.insert("standard_errors".into(), errors.into());
        if let Some((labels, classification)) = &self.classification {
            let class = |(label, scores): (&String, &ClassScores)| {
                let ClassScores { precision, recall, f1, support } = scores;
                json!({ "label": label, "precision": precision, "recall": recall, "f1": f1, "support": support })
            };
            object.insert("classes".into(), labels.iter().zip(&classification.classes).map(class).collect());
            object.insert("confusion".into(), json!(classification.confusion));
        }
        object.insert("settings".into(), self.settings.clone());
        object.into()
    }
}
