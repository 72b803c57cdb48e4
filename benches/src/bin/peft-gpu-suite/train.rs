//! Training steps of LoRA.

use crate::Suite;
use crate::memory::Watch;
use crate::shape::Shape;
use burn::tensor::DType;
use peft_benches::token_ids;
use peft_core::{Context, Error, Result, adapt};
use peft_models::CausalLm;
use peft_train::data::Encoded;
use peft_train::{LanguageModelling, OptimizerConfig, SchedulerType, TrainConfig, Trainer};
use serde_json::{Value, json};
use std::sync::mpsc;
use std::time::Instant;

/// Fine-tune with LoRA on random tokens, as `peft finetune --dtype bf16` does; tokens per second of the timed steps.
pub fn run(suite: &Suite, shape: Shape) -> Result<Value> {
    let Suite { batch, seq, steps, warmup, .. } = *suite;
    let device = suite.device()?.autodiff();
    let watch = Watch::begin(&device, &suite.device);
    let start = Instant::now();
    let model = CausalLm::random(shape.config()?, &device, DType::BF16);
    let vocab_size = model.config().vocab_size;
    let (model, summary) = adapt(model, &suite.lora(true), &Context::default())?;
    device.sync().map_err(|e| Error::Device(e.to_string()))?;
    eprintln!("   weights after {:.1} s", start.elapsed().as_secs_f64());

    let optimizer = OptimizerConfig {
        lr: 1e-4,
        lr_scheduler_type: SchedulerType::Constant,
        weight_decay: 0.1,
        max_grad_norm: 1.0,
        ..OptimizerConfig::default()
    };
    let config = TrainConfig { batch_size: batch, optimizer, ..TrainConfig::default() };
    let scratch = tempfile::tempdir().map_err(|e| Error::io("a temporary directory", e))?;
    let (sender, taken) = mpsc::channel();
    let (synced, looking) = (device.clone(), watch.clone());
    let trainer = Trainer::new(config, LanguageModelling::new(examples(batch * (warmup + steps), seq, vocab_size), 0), scratch.path())
        .on_step(move |progress| {
            let done = synced.sync().map(|()| (Instant::now(), progress.loss)).map_err(|e| Error::Device(e.to_string()));
            looking.look();
            eprintln!(
                "   step {} of {}: loss {:.4}, {:.1} s",
                progress.step,
                progress.total_steps,
                progress.loss,
                start.elapsed().as_secs_f64()
            );
            // The receiver lives until the end of the run.
            let _ = sender.send(done);
        });
    trainer.run(model)?;
    let taken = taken.try_iter().collect::<Result<Vec<_>>>()?;
    let times: Vec<f64> = taken[warmup - 1..].windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect();
    let seconds: f64 = times.iter().sum();
    Ok(json!({
        "method": "lora",
        "rank": suite.rank,
        "target_modules": ["q_proj", "v_proj"],
        "dtype": "bf16",
        "batch": batch,
        "seq": seq,
        "steps": steps,
        "trainable_parameters": summary.trainable,
        "tokens_per_second": (batch * seq * steps) as f64 / seconds,
        "step_ms": { "mean": seconds / steps as f64 * 1e3, "fastest": times.iter().copied().fold(f64::INFINITY, f64::min) * 1e3 },
        "first_step_seconds": taken[0].0.duration_since(start).as_secs_f64(),
        "loss": { "first": taken[0].1, "last": taken[taken.len() - 1].1 },
        "peak_bytes": watch.peaks(),
    }))
}

/// Sequences of random tokens, all of which count.
fn examples(count: usize, seq: usize, vocab_size: usize) -> Vec<Encoded> {
    let labels_mask: Vec<bool> = (0..seq).map(|i| i > 0).collect();
    let ids = token_ids(count * seq, vocab_size);
    ids.chunks(seq).map(|ids| Encoded { ids: ids.to_vec(), labels_mask: labels_mask.clone() }).collect()
}
