//! Random checkpoints and adapters to measure with.

use crate::base::lora;
use crate::merge;
use crate::report::Report;
use burn::tensor::{DType, Device};
use clap::{Args, ValueEnum};
use peft_adapters::PeftConfig;
use peft_adapters::low_rank::{Init, LoraConfig};
use peft_core::files::{OutputDir, write_atomic};
use peft_core::{Context, Error, Result, adapt, device, save_adapter, unload};
use peft_models::{CausalLm, DecoderConfig, write_weights};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Adapters beside each checkpoint.
const ADAPTERS: usize = 20;

/// Write a random checkpoint, OUT/model, and 20 random LoRA adapters for it, OUT/adapters/NN, unless they are there.
#[derive(Args)]
pub struct Prepare {
    /// The model's shape.
    #[arg(long, value_enum)]
    shape: Shape,
    /// Directory to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Shapes of models.
#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    /// That of the 15-million-parameter story model of llama2.c.
    Small,
    /// That of SmolLM2-135M.
    #[value(name = "135m")]
    M135,
    /// That of Qwen2.5-0.5B: several checkpoints to merge, in bf16.
    #[value(name = "500m")]
    M500,
}

impl Prepare {
    /// Write what is missing.
    pub fn run(&self) -> Result<Report> {
        let sizes = match self.shape {
            Shape::Small => ([288, 6, 6, 6, 48, 768, 32_000, 1024], 10_000.0),
            Shape::M135 => ([576, 30, 9, 3, 64, 1536, 49_152, 8192], 100_000.0),
            Shape::M500 => return merge::prepare(&self.out),
        };
        let config = format!("{:#}\n", config(sizes));
        if std::fs::read_to_string(self.out.join("model/config.json")).is_ok_and(|found| found == config) {
            return Ok(Report::default());
        }
        let out = OutputDir::inside(&self.out)?;
        let model_dir = out.path().join("model");
        create_dir(&model_dir)?;
        let device = device::parse("cpu")?;
        let model = CausalLm::init(DecoderConfig::parse(&config)?, &device, 0);
        write_atomic(&model_dir.join("config.json"), config.as_bytes())?;
        write_weights(&model, &model_dir, |_| DType::F32, u64::MAX)?;
        write_adapters(model, &self.out.join("model"), &out.path().join("adapters"), &device)?;
        out.commit()?;
        Ok(Report::default())
    }
}

/// Adapters that change the output: neither factor is zero.
fn write_adapters(mut model: CausalLm, base: &Path, dir: &Path, device: &Device) -> Result<()> {
    let config = PeftConfig::Lora(LoraConfig { init_lora_weights: Init::Flag(false), ..lora() });
    for number in 0..ADAPTERS {
        let name = format!("{number:02}");
        let context = Context { name: name.clone(), ..Context::seeded(number as u64) };
        (model, _) = adapt(model, config.method(), &context)?;
        let dir = dir.join(&name);
        create_dir(&dir)?;
        save_adapter(&model, &name, &config.for_file(&base.to_string_lossy(), "CAUSAL_LM"), &dir)?;
        model = unload(model, &name)?;
    }
    device.sync().map_err(|e| Error::Device(e.to_string()))
}

fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))
}

/// `config.json`. No token begins or ends a text, so that generation always runs to its full length.
fn config((sizes, rope_theta): ([usize; 8], f64)) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.04,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": null,
        "eos_token_id": null,
        "dtype": "float32",
    });
    let keys = [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    ];
    for (key, size) in keys.into_iter().zip(sizes) {
        config[key] = size.into();
    }
    // Version 4 of transformers reads the first of these, version 5 the second.
    config["rope_theta"] = rope_theta.into();
    config["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": rope_theta });
    config
}
