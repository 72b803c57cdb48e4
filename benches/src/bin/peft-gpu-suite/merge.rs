//! Putting LoRA into the weights.

use crate::Suite;
use crate::memory::Watch;
use crate::shape::Shape;
use burn::tensor::{DType, Device};
use peft_core::{Context, Error, Result, adapt, merge, unmerge, visit_slots};
use peft_models::CausalLm;
use serde_json::{Value, json};
use std::time::Instant;

/// Merge, take out and merge again: the first time a device compiles its kernels.
pub fn run(suite: &Suite, shape: Shape) -> Result<Value> {
    let device = suite.device()?;
    let watch = Watch::begin(&device, &suite.device);
    let model = CausalLm::random(shape.config()?, &device, DType::BF16);
    let (model, _) = adapt(model, &suite.lora(false), &Context::default())?;
    let mut matrices = 0;
    visit_slots(&model, |_, _| matrices += 1);
    synced(&device)?;
    let (model, first) = timed(model, &device)?;
    let model = unmerge(model);
    synced(&device)?;
    let (_, second) = timed(model, &device)?;
    eprintln!("   {matrices} matrices in {second:.3} s, the first time {first:.3} s");
    Ok(json!({
        "dtype": "bf16",
        "rank": suite.rank,
        "matrices": matrices,
        "seconds": second,
        "first_seconds": first,
        "peak_bytes": watch.peaks(),
    }))
}

fn timed(model: CausalLm, device: &Device) -> Result<(CausalLm, f64)> {
    let start = Instant::now();
    let model = merge(model)?;
    synced(device)?;
    Ok((model, start.elapsed().as_secs_f64()))
}

fn synced(device: &Device) -> Result<()> {
    device.sync().map_err(|e| Error::Device(e.to_string()))
}
