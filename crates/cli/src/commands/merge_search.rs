//! Choosing the weights of a merge by what comes of them.

use super::classify::known_labels;
use crate::loading::{Text, positive};
use crate::output;
use burn::tensor::{DType, Device};
use clap::Args;
use peft_core::files::{Checkpoint, Inputs};
use peft_core::{Error, Result, device};
use peft_merge::{Candidates, Plan, candidates};
use peft_models::encoder::{EncoderConfig, SequenceClassifier};
use peft_models::{CausalLm, DecoderConfig};
use peft_train::data::{Classified, Labelled, TextTokenizer, read_labelled};
use peft_train::evaluate::{DataOptions, Job, Metric, data_job};
use peft_train::{Scores, classify};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How weights are searched for.
#[derive(Args)]
pub struct Search {
    /// Choose the models' weights by what the merge scores on this file: accuracy or correlation of an encoder, perplexity of a decoder.
    /// Given several times, the mean counts. For the methods fisher and linear.
    #[arg(long, value_name = "FILE")]
    evaluate: Vec<PathBuf>,
    /// How many weights are tried: equally far apart for two models, drawn at random for more.
    #[arg(long, value_name = "N", default_value_t = 51, requires = "evaluate")]
    candidates: usize,
    /// Examples of the evaluation in one batch.
    #[arg(long, default_value_t = 8, requires = "evaluate", value_parser = positive)]
    batch_size: usize,
    /// Evaluate on the first so many lines only.
    #[arg(long, value_name = "N", requires = "evaluate", value_parser = positive)]
    limit: Option<usize>,
}

/// What a search has found.
#[derive(Serialize)]
pub struct Found {
    metric: &'static str,
    weights: Vec<f64>,
    score: f64,
    tried: Vec<Tried>,
}

#[derive(Clone, Serialize)]
struct Tried {
    weights: Vec<f64>,
    /// The mean over the files.
    score: f64,
}

impl Search {
    /// Whether weights are searched for.
    pub fn is_asked_for(&self) -> bool {
        !self.evaluate.is_empty()
    }

    /// `inputs`, and the files of the evaluation.
    pub fn inputs(&self, inputs: Inputs) -> Inputs {
        self.evaluate.iter().fold(inputs, |all, file| all.and("the data of the evaluation", file))
    }

    /// An error if weights are searched for in vain.
    pub fn refuse(&self, by: &str) -> Result<()> {
        match self.evaluate.is_empty() {
            true => Ok(()),
            false => Err(Error::InvalidConfig(format!("--evaluate chooses weights, which is nothing for {by}"))),
        }
    }

    /// The plan with the best weights, if any are searched for.
    pub fn choose(&self, mut plan: Plan, seed: u64, device: &str) -> Result<(Plan, Option<Found>)> {
        if self.evaluate.is_empty() {
            return Ok((plan, None));
        }
        let models = plan.recipe.slices.first().map_or(0, |slice| slice.sources.len());
        let which = if models == 2 { Candidates::Grid(self.candidates) } else { Candidates::Random(self.candidates) };
        let candidates = candidates(which, models, seed)?;
        // Where the result has another vocabulary, texts are read by it.
        let result = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        let dir = match plan.alignment {
            Some(_) => plan.write_extras(result.path()).map(|()| result.path())?,
            None => &plan.models[0].dir,
        };
        let validation = self.validation(dir, device)?;
        let bar = output::bar(candidates.len(), "searching");
        let mut tried = Vec::with_capacity(candidates.len());
        for weights in candidates {
            plan = plan.weigh(&weights)?;
            tried.push(Tried { score: validation.score(&plan.in_memory()?)?, weights });
            bar.inc(1);
        }
        bar.finish_and_clear();
        let better =
            |a: &Tried, b: &Tried| if validation.lower_is_better() { b.score.total_cmp(&a.score) } else { a.score.total_cmp(&b.score) };
        // Of equal ones the first.
        let best = tried.iter().rev().max_by(|a, b| better(a, b)).cloned();
        let Tried { weights, score } = best.ok_or_else(|| Error::InvalidConfig("no weights to choose among".into()))?;
        plan = plan.weigh(&weights)?;
        plan.recipe.text += &format!("\n# weights chosen by {}: {weights:?}\n", validation.metric());
        Ok((plan, Some(Found { metric: validation.metric(), weights, score, tried })))
    }

    /// What candidates for the model in `dir` are measured with.
    fn validation(&self, dir: &Path, device: &str) -> Result<Validation> {
        let device = device::parse(device)?;
        if peft_models::is_encoder(dir) {
            let config = EncoderConfig::read(dir)?;
            let limited = |file: &PathBuf| {
                let mut examples = read_labelled(file)?;
                examples.truncate(self.limit.unwrap_or(usize::MAX));
                Ok(examples)
            };
            let files = self.evaluate.iter().map(limited).collect::<Result<_>>()?;
            let tokenizer = TextTokenizer::load(dir)?;
            return Ok(Validation::Encoder(Box::new(OfEncoder { config, tokenizer, files, batch_size: self.batch_size, device })));
        }
        let text = Text::load(dir)?;
        let options = DataOptions {
            batch_size: self.batch_size,
            limit: self.limit,
            max_length: None,
            stride: None,
            train_on_prompt: false,
            max_new_tokens: 1,
        };
        let job = |file: &PathBuf| data_job(file, Metric::Perplexity, &options, &text.tokenizer, text.template.as_ref());
        let jobs = self.evaluate.iter().map(job).collect::<Result<_>>()?;
        Ok(Validation::Decoder(Box::new(OfDecoder { config: DecoderConfig::read(dir)?, jobs, text, device })))
    }
}

impl Found {
    /// One row for each candidate.
    pub fn table(&self) -> String {
        let weights = |weights: &[f64]| weights.iter().map(|weight| format!("{weight:.3}")).collect::<Vec<_>>().join(" ");
        let mut rows = vec![vec!["weights".to_string(), self.metric.to_string()]];
        rows.extend(self.tried.iter().map(|tried| vec![weights(&tried.weights), format!("{:.4}", tried.score)]));
        format!("{}\nchosen: {} with {} {:.4}\n", output::table(&rows), weights(&self.weights), self.metric, self.score)
    }
}

/// What candidates are measured with.
enum Validation {
    Encoder(Box<OfEncoder>),
    Decoder(Box<OfDecoder>),
}

struct OfEncoder {
    config: EncoderConfig,
    tokenizer: TextTokenizer,
    files: Vec<Vec<Labelled>>,
    batch_size: usize,
    device: Device,
}

struct OfDecoder {
    config: DecoderConfig,
    text: Text,
    jobs: Vec<Job>,
    device: Device,
}

impl Validation {
    fn metric(&self) -> &'static str {
        match self {
            Self::Encoder(validation) if validation.config.labels.len() == 1 => "pearson",
            Self::Encoder(_) => "accuracy",
            Self::Decoder(_) => "perplexity",
        }
    }

    fn lower_is_better(&self) -> bool {
        matches!(self, Self::Decoder(_))
    }

    /// The mean score over the files of the model that these weights make.
    fn score(&self, weights: &Checkpoint) -> Result<f64> {
        let scores = match self {
            Self::Encoder(validation) => validation.scores(weights)?,
            Self::Decoder(validation) => validation.scores(weights)?,
        };
        Ok(scores.iter().sum::<f64>() / scores.len() as f64)
    }
}

impl OfEncoder {
    fn scores(&self, weights: &Checkpoint) -> Result<Vec<f64>> {
        let model = SequenceClassifier::from_checkpoint(self.config.clone(), weights, None, &self.device, Some(DType::F32))?;
        let score = |examples: &Vec<Labelled>| {
            let labels = known_labels(&model, examples);
            let (rows, _) = Classified::all(examples, &self.tokenizer, &labels, self.config.max_tokens())?;
            let scores = classify(&model, &rows, model.labels().len(), self.batch_size, self.config.pad_token_id, |_, _| ())?;
            match scores.scores {
                Scores::Classes(found) => Ok(found.accuracy.value),
                Scores::Numbers(found) => {
                    let pearson = found.pearson.map(|pearson| pearson.value);
                    pearson.ok_or_else(|| Error::InvalidConfig("the numbers to predict are all the same: there is no correlation".into()))
                }
            }
        };
        self.files.iter().map(score).collect()
    }
}

impl OfDecoder {
    fn scores(&self, weights: &Checkpoint) -> Result<Vec<f64>> {
        let model = CausalLm::from_checkpoint(self.config.clone(), weights, &self.device, Some(DType::F32))?;
        let score = |job: &Job| {
            let report = job.run(&model, &self.text.tokenizer, |_, _| ())?;
            let score = report.scores.iter().find(|(name, _)| *name == "perplexity");
            score.map(|(_, score)| score.value).ok_or_else(|| Error::InvalidConfig("the evaluation has no perplexity".into()))
        };
        self.jobs.iter().map(score).collect()
    }
}
