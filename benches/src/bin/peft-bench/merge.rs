//! Merging checkpoints.

use crate::report::{Report, now};
use clap::{Args, ValueEnum};
use peft_core::files::{Checkpoint, Dtype, OutputDir, TensorSource, encode, pytorch_metadata, write_atomic, write_safetensors};
use peft_core::{Error, Result, seed};
use peft_merge::{ModelDir, Plan, Recipe, Workshop};
use rand::Rng;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Checkpoints beside the base.
const MODELS: usize = 5;
const HIDDEN: usize = 896;
const FFN: usize = 4864;
const LAYERS: usize = 24;
const VOCABULARY: usize = 151_936;
/// Means of their magnitudes show what was computed: rounding hardly moves them.
const CHECKED: [&str; 2] = ["model.layers.0.mlp.up_proj.weight", "model.layers.23.self_attn.q_proj.weight"];

/// Merge some of the checkpoints that `prepare --shape 500m` wrote, and time `cat` with the same bytes.
#[derive(Args)]
pub struct Merge {
    /// Where they are: base, 1, 2, ….
    #[arg(long, value_name = "DIR")]
    inputs: PathBuf,
    /// How many to merge.
    #[arg(long, default_value_t = 2)]
    models: usize,
    /// How.
    #[arg(long, value_enum)]
    method: Method,
}

#[derive(Clone, Copy, ValueEnum)]
enum Method {
    Linear,
    Ties,
}

impl Merge {
    /// When the result was written, and how long `cat` takes.
    pub fn run(&self) -> Result<Report> {
        let out = self.inputs.join("merged");
        let recipe = Recipe::parse(&self.recipe())?;
        let directories = recipe
            .models()
            .into_iter()
            .map(|model| (model.clone(), ModelDir { model: PathBuf::from(&model.model), adapter: None }))
            .collect();
        let plan = Plan::new(recipe, &directories, 0)?;
        Workshop::open(&plan, &out, true, u64::MAX)?.run(&|_| ())?;
        let ready_at = Some(now());
        let merged = Checkpoint::open(&out)?;
        let mean = |name: &str| {
            let numbers = merged.f32s(name)?;
            Ok(numbers.iter().map(|x| f64::from(x.abs())).sum::<f64>() / numbers.len() as f64)
        };
        let check = CHECKED.into_iter().map(mean).collect::<Result<_>>()?;
        let cat_seconds = self.cat()?;
        // Only now: the memory of a file that was just removed would make `cat` faster than a merge can be.
        std::fs::remove_dir_all(&out).map_err(|e| Error::io(&out, e))?;
        Ok(Report { metrics: [("cat_seconds", cat_seconds)].into(), ready_at, check })
    }

    fn recipe(&self) -> String {
        let dir = |name: &str| self.inputs.join(name).display().to_string();
        let model = |number: usize| json!({ "model": dir(&number.to_string()), "parameters": { "weight": 0.5, "density": 0.5 } });
        let mut recipe = json!({ "models": (1..=self.models).map(model).collect::<Vec<_>>(), "dtype": "bfloat16" });
        match self.method {
            Method::Linear => {
                recipe["merge_method"] = "linear".into();
                for model in recipe["models"].as_array_mut().into_iter().flatten() {
                    model["parameters"] = json!({ "weight": 0.5 });
                }
            }
            Method::Ties => {
                recipe["merge_method"] = "ties".into();
                recipe["base_model"] = dir("base").into();
            }
        }
        // JSON is YAML.
        recipe.to_string()
    }

    /// Seconds to read the inputs and write as much as the output has.
    fn cat(&self) -> Result<f64> {
        let file = |name: &str| self.inputs.join(name).join("model.safetensors").display().to_string();
        let base = matches!(self.method, Method::Ties).then(|| file("base"));
        let inputs: Vec<String> = (1..=self.models).map(|number| file(&number.to_string())).chain(base).collect();
        let copy = self.inputs.join("copy");
        let start = Instant::now();
        let script = format!("cat {0} > /dev/null && cat {1} > {2} && sync {2}", inputs.join(" "), inputs[0], copy.display());
        let status = Command::new("sh").args(["-c", &script]).status().map_err(|e| Error::io("sh", e))?;
        let seconds = start.elapsed().as_secs_f64();
        std::fs::remove_file(&copy).map_err(|e| Error::io(&copy, e))?;
        if status.success() { Ok(seconds) } else { Err(Error::InvalidConfig(format!("`{script}` failed"))) }
    }
}

/// Write a base and [`MODELS`] checkpoints that differ a little from it, in bf16, with the shape of Qwen2.5-0.5B but without its biases.
pub fn prepare(out: &Path) -> Result<Report> {
    let config = format!("{:#}\n", config());
    let named = |number: usize| if number == 0 { "base".into() } else { number.to_string() };
    if (0..=MODELS).all(|number| std::fs::read_to_string(out.join(named(number)).join("config.json")).is_ok_and(|found| found == config)) {
        return Ok(Report::default());
    }
    for number in 0..=MODELS {
        let place = OutputDir::inside(&out.join(named(number)))?;
        let sources = shapes().into_iter().map(|(name, shape)| {
            let key = name.clone();
            TensorSource::new(name, Dtype::BF16, &shape.clone(), move || Ok(Cow::Owned(bytes(&key, shape.iter().product(), number))))
        });
        write_safetensors(&place.path().join("model.safetensors"), sources, &pytorch_metadata())?;
        write_atomic(&place.path().join("config.json"), config.as_bytes())?;
        place.commit()?;
    }
    Ok(Report::default())
}

/// Numbers of the base, in bf16; other checkpoints add a tenth as much of their own.
fn bytes(name: &str, len: usize, number: usize) -> Vec<u8> {
    const BLOCK: usize = 1 << 16;
    let mut bytes = vec![0; 2 * len];
    bytes.par_chunks_mut(2 * BLOCK).enumerate().for_each(|(block, bytes)| {
        let mut base = seed::rng(0, &format!("{name}/{block}"));
        let mut own = seed::rng(number as u64, &format!("{name}/{block}"));
        // The sum of two uniform numbers: a triangle is round enough here.
        let draw = |rng: &mut rand_chacha::ChaCha8Rng| {
            let bits = rng.next_u32();
            ((bits >> 16) as f32 + (bits & 0xffff) as f32) / 65_536.0 - 1.0
        };
        let scale = if number == 0 { 0.0 } else { 0.002 };
        let numbers: Vec<f32> = (0..bytes.len() / 2).map(|_| 0.02 * draw(&mut base) + scale * draw(&mut own)).collect();
        encode(&numbers, Dtype::BF16, bytes);
    });
    bytes
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
    })
}

fn shapes() -> Vec<(String, Vec<usize>)> {
    let key_values = 2 * 64;
    let mut shapes = vec![("model.embed_tokens.weight".into(), vec![VOCABULARY, HIDDEN]), ("model.norm.weight".into(), vec![HIDDEN])];
    for layer in 0..LAYERS {
        let parts: [(&str, &[usize]); 9] = [
            ("input_layernorm", &[HIDDEN]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("self_attn.q_proj", &[HIDDEN, HIDDEN]),
            ("self_attn.k_proj", &[key_values, HIDDEN]),
            ("self_attn.v_proj", &[key_values, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, HIDDEN]),
            ("mlp.gate_proj", &[FFN, HIDDEN]),
            ("mlp.up_proj", &[FFN, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, FFN]),
        ];
        shapes.extend(parts.into_iter().map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape.to_vec())));
    }
    shapes.sort();
    shapes
}
