//! The fixtures of mergekit, and small checkpoints made on the spot.
#![allow(dead_code)]

use peft_core::files::{Checkpoint, Dtype, TensorSource};
use peft_merge::{ModelDir, ModelRef, Plan, Recipe, Vocabulary};
use serde_json::json;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/merge")
}

/// The recipe with the models where `root` has them.
pub fn plan_in(root: &Path, recipe: &str) -> peft_core::Result<Plan> {
    let recipe = Recipe::parse(recipe)?;
    let mut names: Vec<ModelRef> = recipe.models().into_iter().cloned().collect();
    if let Some(Vocabulary::Of(model)) = recipe.tokenizer.as_ref().map(|tokenizer| &tokenizer.source) {
        names.push(model.clone());
    }
    let place =
        |name: &ModelRef| ModelDir { model: root.join(&name.model), adapter: name.adapter.as_ref().map(|adapter| root.join(adapter)) };
    let dirs: BTreeMap<ModelRef, ModelDir> = names.into_iter().map(|name| (name.clone(), place(&name))).collect();
    Plan::new(recipe, &dirs, 0)
}

pub fn fixture_plan(name: &str) -> Plan {
    let recipe = std::fs::read_to_string(fixtures().join(format!("recipes/{name}.yaml"))).unwrap();
    plan_in(&fixtures().join("models"), &recipe).unwrap()
}

/// A weight of a plan as numbers.
pub fn computed(plan: &Plan, name: &str) -> Vec<f32> {
    let weight = plan.weights.iter().find(|weight| weight.name == name).unwrap();
    assert_eq!(weight.info.dtype, Dtype::F32);
    floats(&plan.compute(weight).unwrap())
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The largest difference over the largest number.
pub fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    if difference.is_nan() { f32::NAN } else { difference / largest.max(f32::MIN_POSITIVE) }
}

pub fn expected(name: &str) -> Checkpoint {
    Checkpoint::open_file(&fixtures().join(format!("expected/{name}.safetensors"))).unwrap()
}

/// Writes a safetensors file of any numbers, also of those that no writer of this project would write.
pub fn write_file<'a>(path: &Path, tensors: impl IntoIterator<Item = TensorSource<'a>>) {
    let (mut header, mut data) = (json!({ "__metadata__": { "format": "pt" } }), Vec::new());
    for tensor in tensors {
        let (name, info, begin) = (tensor.name.clone(), tensor.info.clone(), data.len());
        data.extend_from_slice(&tensor.bytes().unwrap());
        header[name] = json!({ "dtype": info.dtype, "shape": info.shape, "data_offsets": [begin, data.len()] });
    }
    let header = header.to_string();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
}

/// Writes a checkpoint of these weights.
pub fn checkpoint(dir: &Path, weights: &[(&str, &[usize], Vec<f32>)]) {
    std::fs::create_dir_all(dir).unwrap();
    let source = |(name, shape, numbers): &(&str, &[usize], Vec<f32>)| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        TensorSource::new(*name, Dtype::F32, shape, move || Ok(Cow::Owned(bytes)))
    };
    write_file(&dir.join("model.safetensors"), weights.iter().map(source));
    let layers = weights.iter().filter(|(name, ..)| name.starts_with("model.layers.")).count();
    std::fs::write(dir.join("config.json"), json!({ "num_hidden_layers": layers, "torch_dtype": "float32" }).to_string()).unwrap();
}

/// A vocabulary of these tokens.
pub fn tokenizer(dir: &Path, tokens: &[&str]) {
    let vocab: BTreeMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    std::fs::write(dir.join("tokenizer.json"), json!({ "model": { "vocab": vocab }, "added_tokens": [] }).to_string()).unwrap();
}

/// Numbers that look random.
pub fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
