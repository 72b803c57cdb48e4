//! `peft generate`.

use crate::loading::{ModelArgs, Text};
use crate::output;
use clap::Args;
use peft_core::{Error, LanguageModel, Result};
use peft_models::CausalLm;
use peft_train::data::Message;
use peft_train::generate::{GenerateConfig, generate, generate_batch};
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::Instant;

/// Continue a text, shown as it is written.
#[derive(Args)]
#[command(after_help = "Examples:\n  peft generate --model SmolLM2-135M --prompt 'Once upon a time'\n  \
    peft generate --model SmolLM2-135M-Instruct --adapter my-adapter --chat --prompt 'Who are you?' --temperature 0.7 --top-p 0.9\n  \
    peft generate --model HuggingFaceTB/SmolLM2-135M --prompt 'Roses are' --prompt 'The capital of France is' --max-new-tokens 16")]
pub struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue. Given several times, the texts are continued together and shown when all are done.
    #[arg(long, value_name = "TEXT", required = true)]
    prompt: Vec<String>,
    /// Take the prompt as a user's message and render it with the checkpoint's chat template.
    #[arg(long)]
    chat: bool,
    /// Stop after this many tokens.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// 0 takes the most likely token; higher values draw more freely.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Draw among this many most likely tokens; 0 among all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Draw among the most likely tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Determines what is drawn.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Serialize)]
struct Outcome {
    text: String,
    tokens: Vec<u32>,
    prompt_tokens: usize,
}

#[derive(Serialize)]
struct Report {
    results: Vec<Outcome>,
    tokens_per_second: f64,
}

impl Generate {
    pub fn run(mut self, json: bool) -> Result<()> {
        self.model.resolve()?;
        self.warn_of_idle();
        let text = Text::of(&self.model)?;
        let model = self.model.load()?;
        let text = text.with_rows(model.vocab_size());
        let prompts = self.prompt.iter().map(|prompt| self.prompt_tokens(&text, prompt)).collect::<Result<Vec<_>>>()?;
        let config = GenerateConfig {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
            eos_ids: text.tokenizer.eos_ids().to_vec(),
        };
        if let ([prompt], false) = (prompts.as_slice(), json) {
            return stream(&model, &text, prompt, &config);
        }
        let began = Instant::now();
        let written = generate_batch(&model, &prompts, &config, |_, _| ControlFlow::Continue(()))?;
        let seconds = began.elapsed().as_secs_f64().max(1e-9);
        let tokens_per_second = written.iter().map(Vec::len).sum::<usize>() as f64 / seconds;
        let outcomes = written.into_iter().zip(&prompts).map(|(tokens, prompt)| {
            let text = text.tokenizer.decode(&tokens, true)?;
            Ok(Outcome { text, tokens, prompt_tokens: prompt.len() })
        });
        let results = outcomes.collect::<Result<Vec<_>>>()?;
        let shown = results.iter().zip(&self.prompt).map(|(outcome, prompt)| format!("# {prompt}\n{}\n", outcome.text));
        let shown: String = shown.collect();
        output::print(json, &Report { results, tokens_per_second }, shown.trim_end())
    }

    /// Say which flags are for drawing, where nothing is drawn.
    fn warn_of_idle(&self) {
        let drawing = [("--top-k", self.top_k != 0), ("--top-p", self.top_p != 1.0), ("--seed", self.seed != 0)];
        for (flag, _) in drawing.iter().filter(|(_, set)| *set && self.temperature == 0.0) {
            tracing::warn!("{flag} has no effect: at temperature 0 the most likely token is taken; give --temperature too");
        }
    }

    fn prompt_tokens(&self, text: &Text, prompt: &str) -> Result<Vec<u32>> {
        if !self.chat {
            return text.tokenizer.encode_prompt(prompt, true);
        }
        let template = text.template.as_ref();
        let template =
            template.ok_or_else(|| Error::file(&self.model.model, "--chat needs a chat template, and the checkpoint has none"))?;
        text.tokenizer.encode_prompt(&template.render(&[Message::new("user", prompt)], true)?, false)
    }
}

/// Print the text as it is written.
fn stream(model: &CausalLm, text: &Text, prompt: &[u32], config: &GenerateConfig) -> Result<()> {
    let mut stream = text.tokenizer.stream(prompt);
    let mut failed = None;
    generate(model, prompt, config, |token| {
        let shown = stream.push(token).and_then(|piece| piece.map_or(Ok(()), |piece| output::emit(&piece)));
        match shown {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let rest = stream.finish()?.unwrap_or_default();
    output::emit(&format!("{rest}\n"))
}
