//! `peft eval`.

use crate::loading::{ModelArgs, Text, positive};
use crate::output;
use clap::{Args, ValueEnum};
use peft_core::files::{Inputs, OutputFile, write_atomic};
use peft_core::{Error, LanguageModel, Result};
use peft_train::evaluate::{self, DataOptions, Job, Report, Task};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Measure a model: on a data file, or on benchmarks that task files describe.
#[derive(Args)]
#[command(after_help = "Examples:\n  peft eval --model SmolLM2-135M --data valid.jsonl --metric perplexity\n  \
    peft eval --model SmolLM2-135M --data book.txt --metric perplexity --stride 512\n  \
    peft eval --model SmolLM2-135M --adapter my-adapter --data questions.jsonl --metric exact-match --json\n  \
    peft eval --model SmolLM2-135M --task gsm8k.yaml --task arc.yaml --limit 100 --predictions answers.jsonl\n\n\
    A data file has, in each line, for perplexity what finetune takes (or is plain text, .txt); for exact-match, token-f1, rouge-l\n\
    and numeric {\"prompt\",\"completion\"}, {\"prompt\",\"answer\"} or {\"messages\":[...]}; for multiple-choice\n\
    {\"prompt\",\"choices\":[...],\"answer\": number or text}.\n\n\
    A task file takes any fields, and few-shot examples:\n  \
    data: test.jsonl\n  metric: numeric\n  prompt: \"Question: {{ question }}\\nAnswer:\"\n  answer: answer\n  \
    stop: [\"Question:\"]\n  few_shot: { k: 5, data: train.jsonl, seed: 0 }")]
pub struct Eval {
    #[command(flatten)]
    model: ModelArgs,
    /// A task file (YAML). Several are evaluated one after the other.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "metric", "max_length", "stride", "train_on_prompt", "max_new_tokens"])]
    task: Vec<PathBuf>,
    /// The data file, without a task file.
    #[arg(long, value_name = "FILE", required_unless_present = "task")]
    data: Option<PathBuf>,
    /// What to measure on it.
    #[arg(long, value_enum, required_unless_present = "task")]
    metric: Option<Metric>,
    /// Sequences, choices, prompts or windows in one batch.
    #[arg(long, default_value_t = 8, value_parser = positive)]
    batch_size: usize,
    /// Evaluate the first so many lines only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Write one JSON object for each example: what was asked, answered and right.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Longest sequence, or tokens of a window, for perplexity [default: 1024, windows no more than the model was made for].
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Measure perplexity over whole texts, in windows that begin so many tokens apart [default for .txt: half a window].
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Count prompts too, for perplexity.
    #[arg(long)]
    train_on_prompt: bool,
    /// Longest answer in tokens [default: 64].
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Metric {
    /// exp of the mean loss of a token.
    Perplexity,
    /// Whether the greedy continuation equals the answer.
    ExactMatch,
    /// Words that the continuation and the answer have in common, as in SQuAD.
    TokenF1,
    /// Longest common subsequence of words of the continuation and the answer.
    RougeL,
    /// Whether the continuation's last number is the answer's.
    Numeric,
    /// Whether the right choice is the most likely.
    MultipleChoice,
    /// Accuracy, F1 and Matthews' coefficient of an encoder's labels, or correlations of its numbers.
    Classification,
}

impl Metric {
    fn of_decoder(self) -> Result<evaluate::Metric> {
        Ok(match self {
            Self::Perplexity => evaluate::Metric::Perplexity,
            Self::ExactMatch => evaluate::Metric::ExactMatch,
            Self::TokenF1 => evaluate::Metric::TokenF1,
            Self::RougeL => evaluate::Metric::RougeL,
            Self::Numeric => evaluate::Metric::Numeric,
            Self::MultipleChoice => evaluate::Metric::MultipleChoice,
            Self::Classification => {
                let reason = "classification is for encoders, and this model is a decoder; a task file can classify by choices";
                return Err(Error::InvalidConfig(reason.into()));
            }
        })
    }
}

impl Eval {
    pub fn run(mut self, json: bool) -> Result<()> {
        self.model.resolve()?;
        if peft_models::is_encoder(&self.model.model) {
            return self.encoder(json);
        }
        let tasks = self.tasks()?;
        let predictions = self.predictions(&tasks)?;
        self.warn_of_idle();
        let text = Text::of(&self.model)?;
        let model = self.model.load()?;
        let text = text.with_rows(model.vocab_size());
        let jobs = self.jobs(&tasks, &text)?;
        let mut reports = Vec::new();
        for job in &jobs {
            let bar = output::bar(0, &job.name);
            let on_progress = |done: usize, all: usize| {
                bar.set_length(all as u64);
                bar.set_position(done as u64);
            };
            reports.push(job.run(&model, &text.tokenizer, on_progress)?);
            bar.finish_and_clear();
        }
        if let Some(file) = &predictions {
            write_predictions(file.path(), &reports)?;
        }
        let results: Vec<Value> = reports.iter().map(|report| self.with_model(report.to_json())).collect();
        let result = match (self.task.is_empty(), results.as_slice()) {
            (true, [result]) => result.clone(),
            _ => json!({ "results": results }),
        };
        let files: Vec<&Path> = predictions.iter().map(OutputFile::path).collect();
        output::print_beside(&files, json, &result, table(&reports))
    }

    /// Where predictions go.
    fn predictions(&self, tasks: &[Task]) -> Result<Option<OutputFile>> {
        self.predictions.as_ref().map(|file| OutputFile::create(file, true, &self.inputs(tasks))).transpose()
    }

    /// Say which flags are for other metrics.
    fn warn_of_idle(&self) {
        let Some(metric) = self.metric.and_then(|metric| metric.of_decoder().ok()) else { return };
        let perplexity = metric == evaluate::Metric::Perplexity;
        for (flag, is_idle, what) in [
            ("--max-length", self.max_length.is_some() && !perplexity, "perplexity"),
            ("--stride", self.stride.is_some() && !perplexity, "perplexity"),
            ("--train-on-prompt", self.train_on_prompt && !perplexity, "perplexity"),
            ("--max-new-tokens", self.max_new_tokens.is_some() && !metric.writes(), "metrics of written answers"),
        ] {
            if is_idle {
                tracing::warn!("{flag} has no effect: it is for {what}, and this measures {}", metric.name());
            }
        }
    }

    /// What is read: the model, the data, and the tasks with theirs.
    fn inputs(&self, tasks: &[Task]) -> Inputs {
        let inputs = self.model.inputs().and_maybe("the data", self.data.as_ref());
        let inputs = self.task.iter().fold(inputs, |all, file| all.and("a task", file));
        tasks.iter().fold(inputs, |all, task| {
            let shots = task.few_shot.as_ref().and_then(|few_shot| few_shot.data.as_ref());
            all.and("the data of a task", &task.data).and_maybe("the few-shot examples of a task", shots)
        })
    }

    /// An encoder is measured by its labels.
    fn encoder(&self, json: bool) -> Result<()> {
        let (Some(data), Some(Metric::Classification)) = (&self.data, self.metric) else {
            return Err(Error::InvalidConfig("an encoder is measured with --data and --metric classification".into()));
        };
        let idle = [
            ("--stride", self.stride.is_some()),
            ("--train-on-prompt", self.train_on_prompt),
            ("--max-new-tokens", self.max_new_tokens.is_some()),
        ];
        if let Some((flag, _)) = idle.iter().find(|(_, set)| *set) {
            return Err(Error::InvalidConfig(format!("{flag} is for decoders, and this model is an encoder")));
        }
        let predictions = self.predictions(&[])?;
        super::classify::evaluate(&self.model, data, &self.options(), predictions.as_ref(), json)
    }

    fn tasks(&self) -> Result<Vec<Task>> {
        let limit = self.limit.map(|limit| limit as usize);
        let read = |file: &PathBuf| {
            let mut task = Task::read(file)?;
            task.limit = limit.or(task.limit);
            Ok(task)
        };
        self.task.iter().map(read).collect()
    }

    /// What to evaluate.
    fn jobs(&self, tasks: &[Task], text: &Text) -> Result<Vec<Job>> {
        let template = text.template.as_ref();
        let jobs = match (&self.data, self.metric) {
            (Some(data), Some(metric)) => vec![evaluate::data_job(data, metric.of_decoder()?, &self.options(), &text.tokenizer, template)?],
            _ => tasks.iter().map(|task| task.prepare(template, self.batch_size)).collect::<Result<_>>()?,
        };
        match jobs.iter().find(|job| self.predictions.is_some() && job.metric == evaluate::Metric::Perplexity) {
            Some(job) => {
                Err(Error::InvalidConfig(format!("--predictions has nothing to write for {}: perplexity predicts no answers", job.name)))
            }
            None => Ok(jobs),
        }
    }

    fn options(&self) -> DataOptions {
        DataOptions {
            batch_size: self.batch_size,
            limit: self.limit.map(|limit| limit as usize),
            max_length: self.max_length,
            stride: self.stride,
            train_on_prompt: self.train_on_prompt,
            max_new_tokens: self.max_new_tokens.unwrap_or(64),
        }
    }

    fn with_model(&self, mut result: Value) -> Value {
        result["settings"]["batch_size"] = self.batch_size.into();
        result["settings"]["model"] = output::shown(&self.model.model).into();
        result["settings"]["adapter"] = json!(self.model.adapter.as_deref().map(output::shown));
        result
    }
}

fn write_predictions(file: &Path, reports: &[Report]) -> Result<()> {
    let mut lines = String::new();
    for report in reports {
        for prediction in &report.predictions {
            let mut line = json!({ "task": report.name });
            if let (Some(line), Some(prediction)) = (line.as_object_mut(), prediction.as_object()) {
                line.extend(prediction.clone());
            }
            lines += &format!("{line}\n");
        }
    }
    write_atomic(file, lines.as_bytes())
}

/// All scores, and below them the classes of classification tasks.
fn table(reports: &[Report]) -> String {
    let mut rows = vec![["task", "score", "value", "standard error", "examples"].map(String::from).to_vec()];
    for report in reports {
        let examples = report.examples.to_string();
        for (name, score) in &report.scores {
            let (value, error) = (format!("{:.4}", score.value), format!("{:.4}", score.standard_error));
            rows.push(vec![report.name.clone(), name.to_string(), value, error, examples.clone()]);
        }
        rows.extend(report.counts.iter().map(|(name, count)| vec![report.name.clone(), name.to_string(), count.to_string()]));
    }
    let classes = reports.iter().filter_map(class_table);
    std::iter::once(output::table(&rows)).chain(classes).collect::<Vec<_>>().join("\n\n")
}

fn class_table(report: &Report) -> Option<String> {
    let (labels, classification) = report.classification.as_ref()?;
    let mut rows = vec![[report.name.as_str(), "precision", "recall", "f1", "examples"].map(String::from).to_vec()];
    for (label, class) in labels.iter().zip(&classification.classes) {
        let scores = [class.precision, class.recall, class.f1].map(|score| format!("{score:.4}"));
        rows.push([label.clone()].into_iter().chain(scores).chain([class.support.to_string()]).collect());
    }
    Some(output::table(&rows))
}
