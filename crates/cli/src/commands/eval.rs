//! `peft eval`.

use crate::loading::{ModelArgs, Text};
use crate::output;
use burn::module::Module;
use clap::{Args, ValueEnum};
use peft_core::Result;
use peft_train::data::{Batcher, EncodeConfig, Encoder, read_examples};
use peft_train::evaluate;
use std::path::PathBuf;

/// Measure a model on a JSONL file.
#[derive(Args)]
#[command(after_help = "Examples:\n  peft eval --model SmolLM2-135M --data valid.jsonl --metric perplexity\n  \
    peft eval --model SmolLM2-135M --adapter my-adapter --data questions.jsonl --metric exact-match --json\n\n\
    perplexity takes the lines that finetune takes; exact-match {\"prompt\",\"completion\"}, {\"prompt\",\"answer\"} or\n\
    {\"messages\":[...]}; multiple-choice {\"prompt\",\"choices\":[...],\"answer\": number or text}.")]
pub struct Eval {
    #[command(flatten)]
    model: ModelArgs,
    /// The data file.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// What to measure.
    #[arg(long, value_enum)]
    metric: Metric,
    /// Sequences or prompts in one batch, for perplexity and exact-match.
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// Longest sequence in tokens, for perplexity.
    #[arg(long, default_value_t = 1024)]
    max_length: usize,
    /// Count prompts too, for perplexity.
    #[arg(long)]
    train_on_prompt: bool,
    /// Longest answer in tokens, for exact-match.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Metric {
    /// exp of the mean loss of a token.
    Perplexity,
    /// Whether the greedy continuation equals the answer.
    ExactMatch,
    /// Whether the right choice is the most likely.
    MultipleChoice,
}

impl Eval {
    pub fn run(mut self, json: bool) -> Result<()> {
        let examples = read_examples(&self.data)?;
        self.model.resolve()?;
        let text = Text::load(&self.model.model)?;
        let model = self.model.load()?;
        let device = model.devices().into_iter().next().unwrap_or_default();
        let batcher = Batcher::new(device, text.tokenizer.pad_id());
        let bar = output::bar(examples.len(), "evaluating");
        let on_progress = |done: usize, all: usize| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        };
        let accuracy = match self.metric {
            Metric::Perplexity => {
                let config = EncodeConfig { max_length: self.max_length, train_on_prompt: self.train_on_prompt };
                let rows = Encoder::new(&text.tokenizer, text.template.as_ref(), config)?.encode_all(&examples)?;
                let result = evaluate::perplexity(&model, &rows, self.batch_size, &batcher, on_progress)?;
                bar.finish_and_clear();
                let line = format!("perplexity {:.4} (loss {:.4} nats over {} tokens)", result.perplexity, result.loss, result.tokens);
                return output::print(json, &result, line);
            }
            Metric::ExactMatch => {
                let (batch_size, longest) = (self.batch_size, self.max_new_tokens);
                evaluate::exact_match(&model, &text.tokenizer, text.template.as_ref(), &examples, batch_size, longest, on_progress)?
            }
            Metric::MultipleChoice => evaluate::multiple_choice(&model, &text.tokenizer, &examples, &batcher, on_progress)?,
        };
        bar.finish_and_clear();
        let normalised = accuracy.accuracy_normalised.map(|a| format!(", {a:.4} normalised by length")).unwrap_or_default();
        let line =
            format!("accuracy {:.4} ± {:.4}{normalised} ({} examples)", accuracy.accuracy, accuracy.standard_error, accuracy.examples);
        output::print(json, &accuracy, line)
    }
}
