//! Training steps of LoRA.

use crate::base::{Base, lora};
use crate::report::{Report, now};
use clap::Args;
use peft_benches::token_ids;
use peft_core::{Context, Error, Result, adapt};
use peft_train::data::{Encoded, Sampler};
use peft_train::{LanguageModelling, OptimizerConfig, SchedulerType, TrainConfig, Trainer};
use std::sync::mpsc;
use std::time::Instant;

/// Fine-tune with LoRA on random tokens, as `peft finetune` does.
#[derive(Args)]
pub struct Train {
    #[command(flatten)]
    base: Base,
    /// Sequences in a batch.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Tokens in a sequence.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..))]
    seq: u32,
    /// Steps before those that are timed.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    warmup: u32,
    /// Steps that are timed.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Cut each step into so many batches, whose gradients are added.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    accumulate: u32,
    /// Compute each block again in the backward pass instead of keeping what it computed.
    #[arg(long)]
    gradient_checkpointing: bool,
}

impl Train {
    /// Tokens per second of the timed steps, and when the first step was done.
    pub fn run(&self) -> Result<Report> {
        let [batch, seq, warmup, steps] = [self.batch, self.seq, self.warmup, self.steps].map(|number| number as usize);
        let device = self.base.device()?.autodiff();
        let model = self.base.load(&device)?.gradient_checkpointing(self.gradient_checkpointing);
        let (model, _) = adapt(model, &lora(), &Context::default())?;
        let config = TrainConfig {
            batch_size: batch.div_ceil(self.accumulate as usize),
            gradient_accumulation_steps: self.accumulate as usize,
            optimizer: OptimizerConfig { lr: 1e-4, lr_scheduler_type: SchedulerType::Constant, max_grad_norm: 1.0, ..Default::default() },
            ..TrainConfig::default()
        };
        let examples = examples(batch, seq, warmup + steps, model.config().vocab_size, config.seed)?;
        let scratch = tempfile::tempdir().map_err(|e| Error::io("a temporary directory", e))?;
        let (sender, taken) = mpsc::channel();
        let trainer = Trainer::new(config, LanguageModelling::new(examples, 0), scratch.path()).on_step(move |progress| {
            // The receiver lives until the end of the run.
            let _ = sender.send((Instant::now(), now(), progress.loss));
        });
        trainer.run(model)?;
        let taken: Vec<_> = taken.try_iter().collect();
        let seconds = taken[warmup + steps - 1].0 - taken[warmup - 1].0;
        let tokens = batch * seq * steps;
        let (_, ready_at, loss) = taken[0];
        Ok(Report {
            metrics: [("tokens_per_second", tokens as f64 / seconds.as_secs_f64())].into(),
            ready_at: Some(ready_at),
            check: vec![loss],
        })
    }
}

/// One example for each sequence of each step, placed so that the trainer's shuffling puts them in order.
fn examples(batch: usize, seq: usize, steps: usize, vocab_size: usize, seed: u64) -> Result<Vec<Encoded>> {
    let count = batch * steps;
    let labels_mask: Vec<bool> = (0..seq).map(|i| i > 0).collect();
    let mut examples = vec![Encoded { ids: Vec::new(), labels_mask }; count];
    let order = Sampler::new(count, batch, seed)?.order(0);
    for (place, ids) in order.into_iter().zip(token_ids(count * seq, vocab_size).chunks(seq)) {
        examples[place].ids = ids.to_vec();
    }
    Ok(examples)
}
