//! The models against transformers: the same logits, the same greedy text, with and without a cache.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use peft_core::{LanguageModel, device};
use peft_models::CausalLm;
use peft_train::generate::{GenerateConfig, generate, generate_batch};
use safetensors::SafeTensors;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What transformers computed for a fixture.
struct Expected {
    tokens: Vec<i64>,
    rows: usize,
    logits: Vec<f32>,
    generated: Vec<i64>,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn fixture(name: &str) -> PathBuf {
    workspace().join("fixtures/models").join(name)
}

fn expected(name: &str) -> Expected {
    let bytes = std::fs::read(fixture(name).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let integers = |key: &str| {
        let tensor = file.tensor(key).unwrap();
        tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
    };
    let logits = file.tensor("logits").unwrap();
    Expected {
        tokens: integers("tokens"),
        rows: logits.shape()[0],
        logits: logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        generated: integers("generated"),
    }
}

fn ids(values: &[i64], rows: usize, device: &Device) -> Tensor<2, Int> {
    let shape = [rows, values.len() / rows];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |largest, value| largest.max(value.abs()))
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let error = largest(found.iter().zip(expected).map(|(a, b)| a - b));
    let scale = largest(expected.iter().copied());
    assert!(error <= 1e-4 * scale, "differs by {error} at scale {scale}");
}

fn check_fixture(name: &str) {
    let expected = expected(name);
    let device = device::host();
    // Other devices than the CPU compute in the type that is stored.
    let dtype = (!device::host_is_cpu()).then_some(DType::F32);
    let model = CausalLm::load(fixture(name), &device, dtype).unwrap();
    let tokens = ids(&expected.tokens, expected.rows, &device);
    let logits = floats(model.logits(tokens.clone()));
    assert_close(&logits, &expected.logits);
    check_cache(&model, tokens, &logits);
    check_generation(&model, &expected.generated);
    check_batched_generation(&model, &expected.generated);
    check_autodiff(name, &expected);
}

/// Pieces of any length through the cache give the logits of the whole.
fn check_cache(model: &CausalLm, tokens: Tensor<2, Int>, logits: &[f32]) {
    let [rows, length] = tokens.dims();
    let vocab = model.vocab_size();
    for piece in [1, 5, length] {
        let mut cache = model.cache(&vec![0; rows], 7);
        for start in (0..length).step_by(piece) {
            let end = (start + piece).min(length);
            let last = floats(model.step(tokens.clone().slice_dim(1, start..end), &mut cache));
            let at = |row: usize| ((row * length + end - 1) * vocab)..((row * length + end) * vocab);
            let whole: Vec<f32> = (0..rows).flat_map(|row| logits[at(row)].to_vec()).collect();
            assert_close(&last, &whole);
        }
        assert_eq!(cache.len(), length);
    }
}

fn check_generation(model: &CausalLm, expected: &[i64]) {
    let expected: Vec<u32> = expected.iter().map(|id| *id as u32).collect();
    let (prompt, continuation) = expected.split_at(8);
    let config = GenerateConfig { max_new_tokens: continuation.len(), ..Default::default() };
    let mut streamed = Vec::new();
    let new = generate(model, prompt, &config, |token| {
        streamed.push(token);
        ControlFlow::Continue(())
    });
    assert_eq!(new.unwrap(), continuation);
    assert_eq!(streamed, continuation);
}

/// Prompts of different lengths do not disturb each other.
fn check_batched_generation(model: &CausalLm, text: &[i64]) {
    let text: Vec<u32> = text.iter().map(|id| *id as u32).collect();
    let prompts = [&text[..8], &text[2..5], &text[..1], &text[..8]];
    let config = GenerateConfig { max_new_tokens: 6, ..Default::default() };
    let alone = prompts.map(|prompt| generate(model, prompt, &config, |_| ControlFlow::Continue(())).unwrap());
    let together = generate_batch(model, &prompts, &config, |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(together, alone);
}

/// On a device with autodiff, attention takes another route to the same numbers.
fn check_autodiff(name: &str, expected: &Expected) {
    let device = device::host().autodiff();
    let model = CausalLm::load(fixture(name), &device, Some(DType::F32)).unwrap();
    let tokens = ids(&expected.tokens, expected.rows, &device);
    assert_close(&floats(model.logits(tokens)), &expected.logits);
}

macro_rules! fixtures {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { check_fixture($name) })*
    };
}

fixtures! {
    llama: "llama",
    llama_with_biases: "llama-bias",
    llama3_rope: "llama3",
    llama3_rope_in_a_transformers_4_config: "llama3-v4",
    llama_with_linear_rope: "llama-linear",
    mistral_with_a_window: "mistral",
    qwen2: "qwen2",
    qwen2_with_a_window_on_some_layers: "qwen2-window",
    qwen3: "qwen3",
    smollm: "smollm",
    llama_stored_in_bf16: "llama-bf16",
    llama_stored_in_f16: "llama-f16",
    llama_in_shards: "llama-sharded",
}

#[test]
fn weights_can_be_converted_while_loading() {
    let device = device::host();
    let model = CausalLm::load(fixture("llama-bf16"), &device, Some(DType::F32)).unwrap();
    assert_eq!(model.model.norm.weight.val().dtype(), DType::F32);
    let expected = expected("llama-bf16");
    assert_close(&floats(model.logits(ids(&expected.tokens, expected.rows, &device))), &expected.logits);
}

#[test]
fn an_end_token_stops_generation_and_is_left_out() {
    let device = device::host();
    let model = CausalLm::load(fixture("llama"), &device, None).unwrap();
    let expected: Vec<u32> = expected("llama").generated.iter().map(|id| *id as u32).collect();
    let config = GenerateConfig { eos_ids: vec![expected[10]], ..Default::default() };
    let new = generate(&model, &expected[..8], &config, |_| ControlFlow::Continue(())).unwrap();
    let until = expected[8..].iter().position(|id| *id == expected[10]).unwrap();
    assert_eq!(new, expected[8..8 + until]);
}

#[test]
fn breaking_stops_generation_after_the_token() {
    let device = device::host();
    let model = CausalLm::load(fixture("llama"), &device, None).unwrap();
    let new = generate(&model, &[5, 78], &GenerateConfig::default(), |_| ControlFlow::Break(())).unwrap();
    assert_eq!(new.len(), 1);
}

#[test]
fn a_seed_determines_what_is_drawn() {
    let device = device::host();
    let model = CausalLm::load(fixture("smollm"), &device, None).unwrap();
    let draw = |seed| {
        let config = GenerateConfig { max_new_tokens: 20, temperature: 1.0, seed, ..Default::default() };
        generate(&model, &[5, 78], &config, |_| ControlFlow::Continue(())).unwrap()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

/// A long prompt is read in pieces; the pieces give what the whole gives.
#[test]
fn a_prompt_longer_than_a_piece_gives_the_same_text() {
    let device = device::host();
    let model = CausalLm::load(fixture("qwen2-window"), &device, None).unwrap();
    let prompt: Vec<u32> = (0..1100).map(|i| (i * 37 % 90 + 4) as u32).collect();
    let config = GenerateConfig { max_new_tokens: 1, ..Default::default() };
    let new = generate(&model, &prompt, &config, |_| ControlFlow::Continue(())).unwrap();
    let whole: Vec<i64> = prompt.iter().map(|id| i64::from(*id)).collect();
    let logits = floats(model.logits(ids(&whole, 1, &device)));
    let last = &logits[logits.len() - model.vocab_size()..];
    let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
    assert_eq!(new, [best as u32]);
}

/// A real checkpoint: TinyStories in 260 000 parameters.
#[test]
fn stories260k_tells_its_story() {
    let data = std::env::var_os("PEFT_DATA").map_or_else(|| workspace().join("../shared/data"), PathBuf::from);
    let dir = data.join("models/stories260K/hf");
    if !dir.exists() {
        eprintln!("skipped: {} does not exist; set PEFT_DATA", dir.display());
        return;
    }
    let device = device::host();
    let model = CausalLm::load(dir, &device, None).unwrap();
    assert_eq!(model.config().eos_token_ids, [2]);
    let first = floats(model.logits(ids(&[1], 1, &device)));
    for (found, expected) in first.iter().zip([-6.2229, 8.4043, -6.2237, -6.2225, -6.2220]) {
        assert!((found - expected).abs() < 1e-3, "{:?}", &first[..5]);
    }
    let story = [403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421];
    let config = GenerateConfig { max_new_tokens: story.len(), ..Default::default() };
    let new = generate(&model, &[1], &config, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(new, story);
}
