//! `peft fisher`.

use crate::hub::{self, Kind};
use crate::interrupt::Interrupt;
use crate::loading::Text;
use crate::output;
use burn::module::Module;
use burn::tensor::{DType, Device};
use clap::{Args, ValueEnum};
use peft_core::files::{Checkpoint, Inputs, OutputFile, state_of};
use peft_core::{Error, LanguageModel, Result, Site, TextClassifier, Texts, device, seed};
use peft_merge::fisher::{self, Estimator, FISHER_FILE, FisherConfig, FisherMeta, Prediction};
use peft_models::encoder::{Problem, SequenceClassifier};
use peft_models::{CausalLm, weights};
use peft_train::data::{
    Batcher, Classified, EncodeConfig, Encoded, Encoder, Label, TextTokenizer, read_examples, read_labelled, read_texts,
};
use rand::seq::SliceRandom;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The end of the name of what a run that is cut leaves.
const PARTIAL: &str = ".partial";
/// How often the sums are kept for a run that is cut.
const KEEP_EVERY: Duration = Duration::from_secs(300);

/// Estimate the Fisher information of a model, by which `merge_method: fisher` weighs its parameters.
#[derive(Args)]
#[command(after_help = "Examples:\n  peft fisher --model my-classifier --data texts.jsonl\n  \
    peft fisher --model SmolLM2-135M --data train.jsonl --n-examples 1024 --out smol.fisher.safetensors\n\n\
    Data for a decoder are those of finetune; for an encoder lines of {\"text\"} or {\"text\",\"text_pair\"}. Labels are not used: the model's\n\
    own predictions count. A run that is cut with Ctrl-C goes on where it was when the command is given again.")]
pub struct Fisher {
    /// Checkpoint: a directory or a hub id, org/name[@revision].
    #[arg(long, value_name = "DIR|ID")]
    model: PathBuf,
    /// Examples of what the model is for.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The file to write [default: fisher.safetensors in the model's directory, where merge looks for it].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file if it exists.
    #[arg(long)]
    overwrite: bool,
    /// Whose predictions count [default: exact for an encoder, sampled for a decoder].
    #[arg(long, value_enum)]
    estimator: Option<EstimatorName>,
    /// Predictions drawn for each example, for the sampled estimator [default: 1].
    #[arg(long, value_name = "S")]
    samples: Option<usize>,
    /// Examples to look at, drawn from the file if it has more.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    n_examples: usize,
    /// Longest example in tokens; the rest is cut off.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_length: usize,
    /// Take the square of each token's gradient instead of the whole text's: less noise, a backward pass for each token. For decoders.
    #[arg(long)]
    per_token: bool,
    /// Count prompts too, for decoders.
    #[arg(long)]
    train_on_prompt: bool,
    /// Estimate the classifier too, which merging otherwise leaves alone. For encoders.
    #[arg(long)]
    include_head: bool,
    /// What random numbers start from: which examples, and what is drawn for them.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where to compute: cpu, vulkan[:n] or cuda[:n].
    #[arg(long, default_value = "cpu")]
    device: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EstimatorName {
    /// All classes by the model's probabilities: a backward pass for each class.
    Exact,
    /// Predictions drawn from the model.
    Sampled,
    /// The labels of the data instead of the model's predictions: another quantity, the empirical Fisher information.
    Empirical,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(serialize_with = "output::path")]
    out: PathBuf,
    bytes: u64,
    #[serde(flatten)]
    meta: FisherMeta,
    parameters: usize,
    /// Examples that an earlier run had done.
    resumed_examples: usize,
    seconds: f64,
}

/// The checkpoint, and where its device is.
struct Source {
    dir: PathBuf,
    checkpoint: Checkpoint,
    device: Device,
    out: OutputFile,
}

impl Fisher {
    pub fn run(self, json: bool) -> Result<()> {
        if self.n_examples == 0 {
            return Err(Error::InvalidConfig("n-examples: the Fisher information needs at least one example".into()));
        }
        let dir = hub::resolve(&self.model, Kind::Model)?.dir;
        let out = self.out.clone().unwrap_or_else(|| dir.join(FISHER_FILE));
        let out = OutputFile::create(&out, self.overwrite, &Inputs::none().and("the model", &dir).and("the data", &self.data))?;
        let source = Source { checkpoint: Checkpoint::open(&dir)?, device: device::parse(&self.device)?.autodiff(), dir, out };
        let outcome = match peft_models::is_encoder(&source.dir) {
            true => self.encoder(&source)?,
            false => self.decoder(&source)?,
        };
        let FisherMeta { n_examples, estimator, norm, .. } = &outcome.meta;
        let text = format!(
            "{estimator} Fisher information of {} parameters over {n_examples} examples, norm {norm:.4e}, in {:.1} s, written to {}",
            outcome.parameters,
            outcome.seconds,
            outcome.out.display()
        );
        output::print_beside(&[source.out.path()], json, &outcome, text)
    }

    fn decoder(&self, source: &Source) -> Result<Outcome> {
        if self.include_head {
            return Err(Error::InvalidConfig("--include-head is for encoders; a decoder's head is always estimated".into()));
        }
        let text = Text::load(&source.dir)?;
        let config = EncodeConfig { max_length: self.max_length, train_on_prompt: self.train_on_prompt };
        let mut encoder = Encoder::new(&text.tokenizer, text.template.as_ref(), config)?;
        let rows = self.choose(encoder.encode_all(&read_examples(&self.data)?)?);
        let model = CausalLm::load(&source.dir, &source.device, Some(DType::F32))?;
        let batcher = Batcher::new(source.device.clone(), text.tokenizer.pad_id());
        let config = self.config(EstimatorName::Sampled)?;
        self.estimate(source, fisher::Fisher::new(model, config, |_| true)?, &rows, |model, row| next_tokens(model, row, &batcher))
    }

    fn encoder(&self, source: &Source) -> Result<Outcome> {
        if let Some((flag, _)) = [("--per-token", self.per_token), ("--train-on-prompt", self.train_on_prompt)].iter().find(|(_, set)| *set)
        {
            return Err(Error::InvalidConfig(format!("{flag} is for decoders, and this model is an encoder")));
        }
        let model = SequenceClassifier::load(&source.dir, &source.device, Some(DType::F32))?;
        let rows = self.choose(self.texts(&model, &TextTokenizer::load(&source.dir)?)?);
        let (problem, pad_id, device) = (model.problem(), model.config().pad_token_id, source.device.clone());
        let config = self.config(EstimatorName::Exact)?;
        let fisher = fisher::Fisher::new(model, config, |site: &Site| self.include_head || !site.is_output_head())?;
        self.estimate(source, fisher, &rows, |model, row: &Row| {
            let outputs = model.logits(&Texts::new([(row.ids.as_slice(), row.type_ids.as_slice())], pad_id, &device));
            match (problem, row.label) {
                (Problem::SingleLabel, Some(Label::Class(class))) => Prediction::Classes { logits: outputs, labels: Some(vec![class]) },
                (Problem::SingleLabel, _) => Prediction::logits(outputs),
                (Problem::Regression, Some(Label::Number(number))) => Prediction::Numbers { means: outputs, labels: Some(vec![number]) },
                (Problem::Regression, _) => Prediction::numbers(outputs),
            }
        })
    }

    /// The texts of the data file; with their labels if these are what counts.
    fn texts(&self, model: &SequenceClassifier, tokenizer: &TextTokenizer) -> Result<Vec<Row>> {
        let max_tokens = self.max_length.min(model.config().max_tokens());
        if self.estimator == Some(EstimatorName::Empirical) {
            let examples = read_labelled(&self.data)?;
            let labels = super::classify::known_labels(model, &examples);
            let (rows, _) = Classified::all(&examples, tokenizer, &labels, max_tokens)?;
            return Ok(rows.into_iter().map(|row| Row { ids: row.ids, type_ids: row.type_ids, label: Some(row.label) }).collect());
        }
        let row = |(text, pair): (String, Option<String>)| {
            let tokens = tokenizer.encode_texts(&text, pair.as_deref(), max_tokens)?;
            Ok(Row { ids: tokens.ids, type_ids: tokens.type_ids, label: None })
        };
        read_texts(&self.data)?.into_iter().map(row).collect()
    }

    fn config(&self, usual: EstimatorName) -> Result<FisherConfig> {
        let estimator = match (self.estimator.unwrap_or(usual), self.samples) {
            (EstimatorName::Sampled, samples) => Estimator::Sampled { samples: samples.unwrap_or(1) },
            (_, Some(_)) => return Err(Error::InvalidConfig("--samples is for --estimator sampled".into())),
            (EstimatorName::Exact, None) => Estimator::Exact,
            (EstimatorName::Empirical, None) => Estimator::Empirical,
        };
        Ok(FisherConfig { estimator, per_row: self.per_token, seed: self.seed })
    }

    /// As many as asked for, in the order of the file.
    fn choose<T>(&self, rows: Vec<T>) -> Vec<T> {
        if rows.len() <= self.n_examples {
            return rows;
        }
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.shuffle(&mut seed::rng(self.seed, "examples"));
        let chosen: std::collections::HashSet<usize> = order.into_iter().take(self.n_examples).collect();
        rows.into_iter().enumerate().filter(|(index, _)| chosen.contains(index)).map(|(_, row)| row).collect()
    }

    /// Look at all rows, and write the file.
    fn estimate<M: Module, T>(
        &self,
        source: &Source,
        mut fisher: fisher::Fisher<M>,
        rows: &[T],
        predict: impl Fn(&M, &T) -> Prediction,
    ) -> Result<Outcome> {
        let started = Instant::now();
        if let Some(path) = fisher.paths().find(|path| !source.checkpoint.contains(path)) {
            return Err(Error::file(
                &source.dir,
                format!("calls the weight `{path}` by another name; write the checkpoint anew (`save_pretrained` in transformers) first"),
            ));
        }
        let data = self.data_id()?;
        let model_hash = fisher::model_hash(&source.checkpoint)?;
        let settings = (rows.len(), self.max_length, self.train_on_prompt, self.include_head);
        let state = state_of(&source.dir)?;
        let fingerprint = format!("{model_hash} {data} {settings:?} {:?} {state}", fisher.config());
        let kept = Kept { file: source.out.beside(PARTIAL), fingerprint };
        let resumed = kept.take_up(&mut fisher)?;
        let interrupt = Interrupt::listen()?;
        let bar = output::bar(rows.len(), "estimating");
        bar.set_position(resumed as u64);
        let mut saved = Instant::now();
        for row in &rows[resumed..] {
            fisher.add(|model| predict(model, row))?;
            bar.inc(1);
            let stop = interrupt.stop.load(Ordering::Relaxed);
            if stop || saved.elapsed() > KEEP_EVERY {
                kept.save(&fisher)?;
                saved = Instant::now();
            }
            if stop {
                bar.finish_and_clear();
                let again =
                    if kept.file.is_some() { "the same command goes on from there" } else { "nothing could be kept beside the output" };
                output::note(format_args!("stopped after {} of {} examples; {again}", fisher.examples(), rows.len()));
                interrupt.exit();
            }
        }
        bar.finish_and_clear();
        let (config, norm) = (fisher.config().clone(), fisher.norm()?);
        let samples = if let Estimator::Sampled { samples } = config.estimator { samples } else { 0 };
        let estimator = config.estimator.name().into();
        let meta = FisherMeta { n_examples: rows.len(), estimator, samples, norm, data, model: model_hash };
        let paths: Vec<String> = fisher.paths().map(String::from).collect();
        let model = fisher.into_model()?;
        let tensors = weights(&model, |_| DType::F32)?.into_iter().filter(|tensor| paths.contains(&tensor.name)).collect::<Vec<_>>();
        let parameters = tensors.iter().map(|tensor| tensor.info.shape.iter().product::<usize>()).sum();
        let bytes = fisher::write(source.out.path(), tensors, &meta)?;
        source.out.forget(PARTIAL)?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Outcome { out: source.out.path().into(), bytes, meta, parameters, resumed_examples: resumed, seconds })
    }

    /// The name of the data file and what tells its content apart.
    fn data_id(&self) -> Result<String> {
        let bytes = std::fs::read(&self.data).map_err(|e| Error::io(&self.data, e))?;
        let name = self.data.file_name().unwrap_or_default().to_string_lossy();
        Ok(format!("{name} {}", fisher::checksum(&bytes)))
    }
}

/// A text or a pair of texts as tokens.
struct Row {
    ids: Vec<u32>,
    type_ids: Vec<u32>,
    label: Option<Label>,
}

/// Logits for each token of a text that counts, and the tokens that the text has there.
fn next_tokens(model: &CausalLm, row: &Encoded, batcher: &Batcher) -> Prediction {
    let batch = batcher.batch([row]);
    let hidden = model.hidden(batch.ids);
    let [_, length, d] = hidden.dims();
    let logits = model.head(hidden.reshape([length, d]).select(0, batch.positions));
    let labels = row.ids.iter().zip(&row.labels_mask).filter(|(_, counts)| **counts).map(|(id, _)| *id as usize).collect();
    Prediction::Classes { logits, labels: Some(labels) }
}

/// What a run that is cut leaves beside its result.
struct Kept {
    /// Nowhere beside a device or a pipe.
    file: Option<PathBuf>,
    fingerprint: String,
}

impl Kept {
    /// The number of examples that need not be looked at again.
    fn take_up<M: Module>(&self, fisher: &mut fisher::Fisher<M>) -> Result<usize> {
        if let Some(file) = self.file.as_ref().filter(|file| file.exists())
            && fisher.restore(file, &self.fingerprint)?
        {
            output::note(format_args!("going on after {} examples of an earlier run", fisher.examples()));
        }
        Ok(fisher.examples())
    }

    fn save<M: Module>(&self, fisher: &fisher::Fisher<M>) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| fisher.save(file, &self.fingerprint))
    }
}
