//! Greedy text.

use crate::Suite;
use crate::memory::Watch;
use crate::shape::Shape;
use burn::tensor::DType;
use peft_benches::token_ids;
use peft_core::{Error, Result};
use peft_models::CausalLm;
use peft_train::generate::{GenerateConfig, generate_batch};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::time::Instant;

/// Continue random prompts greedily, one alone and eight together.
pub fn run(suite: &Suite, shape: Shape) -> Result<Value> {
    let device = suite.device()?;
    let watch = Watch::begin(&device, &suite.device);
    let model = CausalLm::random(shape.config()?, &device, DType::BF16);
    device.sync().map_err(|e| Error::Device(e.to_string()))?;
    let batches = [1, 8].into_iter().map(|batch| measure(suite, &model, batch)).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "dtype": "bf16", "prompt": suite.prompt, "new": suite.new, "batches": batches, "peak_bytes": watch.peaks() }))
}

fn measure(suite: &Suite, model: &CausalLm, batch: usize) -> Result<Value> {
    let ids = token_ids(batch * suite.prompt, model.config().vocab_size);
    let prompts: Vec<&[u32]> = ids.chunks(suite.prompt).collect();
    let config = |max_new_tokens| GenerateConfig { max_new_tokens, ..GenerateConfig::default() };
    // As long as what is timed: a device compiles or tunes a kernel for every new size.
    generate_batch(model, &prompts, &config(suite.new), |_, _| ControlFlow::Continue(()))?;
    let mut times = Vec::with_capacity(suite.new);
    let start = Instant::now();
    generate_batch(model, &prompts, &config(suite.new), |prompt, _| {
        if prompt == batch - 1 {
            times.push(start.elapsed().as_secs_f64());
        }
        ControlFlow::Continue(())
    })?;
    let (first, last) = (times[0], times[times.len() - 1]);
    let tokens_per_second = (batch * (times.len() - 1)) as f64 / (last - first);
    eprintln!("   batch {batch}: {tokens_per_second:.1} tokens/s, the first after {:.1} ms", first * 1e3);
    Ok(json!({ "batch": batch, "tokens_per_second": tokens_per_second, "first_token_ms": first * 1e3 }))
}
