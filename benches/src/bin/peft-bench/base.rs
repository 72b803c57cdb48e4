//! The model that a job works with, and its input.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use clap::Args;
use peft_adapters::low_rank::LoraConfig;
use peft_benches::token_ids;
use peft_core::{Error, Names, Result, device};
use peft_models::CausalLm;
use std::path::PathBuf;

/// How many numbers of one result are compared.
pub const CHECKED: usize = 8;

/// A model to work with.
#[derive(Args)]
pub struct Base {
    /// Directory of a checkpoint, such as `peft-bench prepare` writes.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Where to compute: cpu, vulkan[:n] or cuda[:n].
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Type of the frozen weights in memory: f32, bf16 or f16.
    #[arg(long, default_value = "f32", value_parser = dtype)]
    dtype: DType,
}

impl Base {
    /// The device.
    pub fn device(&self) -> Result<Device> {
        device::parse(&self.device)
    }

    /// The model on this device.
    pub fn load(&self, device: &Device) -> Result<CausalLm> {
        CausalLm::load(&self.model, device, Some(self.dtype))
    }
}

fn dtype(name: &str) -> Result<DType, String> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        _ => Err("f32, bf16 or f16".into()),
    }
}

/// The adapter of all jobs: LoRA of rank 8 on the query and value projections.
pub fn lora() -> LoraConfig {
    LoraConfig { r: 8, lora_alpha: 16.0, ..LoraConfig::for_modules(Names::list(["q_proj", "v_proj"])) }
}

/// A batch of random tokens, the same in every implementation.
pub fn batch(rows: usize, columns: usize, model: &CausalLm, device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i64> = token_ids(rows * columns, model.config().vocab_size).into_iter().map(i64::from).collect();
    Tensor::from_data(TensorData::new(ids, [rows, columns]), device)
}

/// For each row of `logits: [b, s, vocab]` the first `count` logits of the last position; waits until they are computed.
pub fn last_logits(logits: Tensor<3>, count: usize) -> Result<Vec<f64>> {
    let [b, s, _] = logits.dims();
    let last = logits.slice([0..b, s - 1..s, 0..count]);
    let values = last.try_into_vec_as::<f32>().map_err(|e| Error::Device(format!("logits could not be read: {e}")))?;
    Ok(values.into_iter().map(f64::from).collect())
}
