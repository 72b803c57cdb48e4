//! Greedy text.

use crate::base::{Base, CHECKED};
use crate::report::Report;
use clap::Args;
use peft_benches::token_ids;
use peft_core::Result;
use peft_train::generate::{GenerateConfig, generate};
use std::ops::ControlFlow;
use std::time::Instant;

/// Continue a random prompt greedily.
#[derive(Args)]
pub struct Generate {
    #[command(flatten)]
    base: Base,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens to add.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..))]
    new: u32,
}

impl Generate {
    /// Time to the first token, and tokens per second after it.
    pub fn run(&self) -> Result<Report> {
        let model = self.base.load(&self.base.device()?)?;
        let prompt = token_ids(self.prompt as usize, model.config().vocab_size);
        let config = |max_new_tokens| GenerateConfig { max_new_tokens, ..GenerateConfig::default() };
        generate(&model, &prompt, &config(8), |_| ControlFlow::Continue(()))?;
        let mut times = Vec::with_capacity(self.new as usize);
        let start = Instant::now();
        let tokens = generate(&model, &prompt, &config(self.new as usize), |_| {
            times.push(start.elapsed().as_secs_f64());
            ControlFlow::Continue(())
        })?;
        let (first, last) = (times[0], times[times.len() - 1]);
        Ok(Report {
            metrics: [("tokens_per_second", (times.len() - 1) as f64 / (last - first)), ("first_token_ms", first * 1e3)].into(),
            check: tokens.into_iter().take(CHECKED).map(f64::from).collect(),
            ..Report::default()
        })
    }
}
