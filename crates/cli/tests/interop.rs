//! Adapters of HF PEFT on this library's models: the same outputs, gradients, merged weights and files.
//!
//! `fixtures/README.md` says what each fixture holds. All comparisons are relative to the largest expected value.

use burn::module::{Flag, Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_adapters::{PeftConfig, load};
use peft_core::files::Checkpoint;
use peft_core::{CONFIG_FILE, Error, TENSOR_FILE, activate, adapter_names, device, merge, save_adapter, unload, unmerge};
use peft_models::{CausalLm, DecoderConfig};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Outputs, merged outputs and gradients.
const TOLERANCE: f32 = 1e-4;
/// Values that only travelled through files.
const SAME: f32 = 1e-6;

/// One fixture with its base.
struct Fixture {
    dir: PathBuf,
    base: PathBuf,
    expected: Checkpoint,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let dir = fixtures().join("adapters").join(name);
        let base = fixtures().join("models").join(fs::read_to_string(dir.join("base.txt")).unwrap().trim());
        let expected = Checkpoint::open_file(&dir.join("expected.safetensors")).unwrap();
        Self { dir, base, expected }
    }

    fn base(&self, device: &Device) -> CausalLm {
        CausalLm::load(&self.base, device, None).unwrap()
    }

    fn adapted(&self, device: &Device) -> (CausalLm, PeftConfig) {
        let (model, config, _) = load(self.base(device), &self.dir, "default").unwrap();
        (model, config)
    }

    fn tokens(&self, device: &Device) -> Tensor<2, Int> {
        let shape = self.expected.info("tokens").unwrap().shape.clone();
        let bytes = self.expected.bytes("tokens").unwrap();
        let tokens: Vec<i64> = bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
        Tensor::from_data(TensorData::new(tokens, shape), device)
    }

    fn logits(&self, model: &CausalLm) -> Vec<f32> {
        floats(model.logits(self.tokens(&model.devices()[0])))
    }

    fn values(&self, key: &str) -> Vec<f32> {
        self.expected.f32s(key).unwrap()
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

/// The largest difference relative to the largest expected value.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |largest: f32, value| largest.max(value.abs()));
    largest(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / largest(&mut expected.iter().copied())
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let error = error(found, expected);
    println!("{what}: {error:.1e}");
    assert!(error <= tolerance, "{what} differs by {error:e} of the largest value; at most {tolerance:e} is right");
}

/// Mean cross-entropy of each row's next tokens.
fn next_token_loss(model: &CausalLm, tokens: Tensor<2, Int>) -> Tensor<1> {
    let [rows, length] = tokens.dims();
    let logits = model.logits(tokens.clone()).slice_dim(1, 0..length - 1);
    let targets = tokens.slice_dim(1, 1..length).reshape([rows, length - 1, 1]);
    -log_softmax(logits, 2).gather(2, targets).mean()
}

/// Switches dropout off, as PyTorch's `eval` does; gradients are still there.
struct NoDropout;

impl ModuleMapper for NoDropout {
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        flag.with_value(false)
    }
}

/// Puts each parameter's gradient in its place, zero where it has none, so that saving the adapter saves gradients.
struct IntoGradients(GradientsParams);

impl ModuleMapper for IntoGradients {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.0.get::<D>(param.id);
        param.map(|value| gradient.unwrap_or_else(|| value.zeros_like()))
    }
}

fn saved(model: &CausalLm, config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    save_adapter(model, "default", config, dir.path()).unwrap();
    dir
}

fn tensors(dir: &Path) -> Checkpoint {
    Checkpoint::open_file(&dir.join(TENSOR_FILE)).unwrap()
}

/// A copy of a fixture's two adapter files to spoil.
fn copied(fixture: &Fixture) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [CONFIG_FILE, TENSOR_FILE] {
        fs::copy(fixture.dir.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn config_of(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join(CONFIG_FILE)).unwrap()).unwrap()
}

fn outputs_and_merging(fixture: &Fixture) {
    let (model, _) = fixture.adapted(&device::host());
    let logits = fixture.logits(&model);
    assert_close("logits", &logits, &fixture.values("logits"), TOLERANCE);

    let model = merge(model).unwrap();
    let expected = fixture.values("merged_logits");
    assert_close("merged", &fixture.logits(&model), &expected, TOLERANCE);
    let alone = unload(model.clone(), "default").unwrap();
    assert!(adapter_names(&alone).is_empty());
    assert_close("merged, adapter gone", &fixture.logits(&alone), &expected, TOLERANCE);

    let model = unmerge(model);
    assert_close("unmerged again", &fixture.logits(&model), &logits, 1e-5);
}

fn gradients(fixture: &Fixture) {
    let device = device::host().autodiff();
    let (model, config) = fixture.adapted(&device);
    let model = model.map(&mut NoDropout);
    let loss = next_token_loss(&model, fixture.tokens(&device));
    assert_close("loss", &floats(loss.clone()), &fixture.values("loss"), 1e-5);

    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let model = model.valid().map(&mut IntoGradients(gradients));
    let saved = saved(&model, &config.for_file("base", "CAUSAL_LM"));
    let found = tensors(saved.path());
    let mut worst: f32 = 0.0;
    for key in fixture.expected.keys().filter_map(|key| key.strip_prefix("grad.")) {
        let expected = fixture.values(&format!("grad.{key}"));
        let mut found = found.f32s(key).unwrap();
        if fixture.dir.ends_with("pissa") {
            // Ours is saved with the frozen start behind the trained factors.
            found = trained_part(key, found, expected.len());
        }
        let error = error(&found, &expected);
        assert!(error <= TOLERANCE, "gradient of {key} differs by {error:e} of its largest value");
        worst = worst.max(error);
    }
    println!("gradients: {worst:.1e}");
}

/// The first half of the ranks of `lora_A: [2r, d_in]` or `lora_B: [d_out, 2r]`; `r` is 4.
fn trained_part(key: &str, values: Vec<f32>, count: usize) -> Vec<f32> {
    match key.ends_with("lora_A.weight") {
        true => values[..count].to_vec(),
        false => values.chunks(8).flat_map(|row| row[..4].to_vec()).collect(),
    }
}

fn files(fixture: &Fixture) {
    let device = device::host();
    let (model, config) = fixture.adapted(&device);
    let theirs = config_of(&fixture.dir);
    let base = theirs["base_model_name_or_path"].as_str().unwrap();
    let first = saved(&model, &config.for_file(base, "CAUSAL_LM"));

    // Our file, read and written again, is the same file; and it is the same adapter.
    let (again, config, _) = load(fixture.base(&device), first.path(), "default").unwrap();
    let second = saved(&again, &config.for_file(base, "CAUSAL_LM"));
    for file in [CONFIG_FILE, TENSOR_FILE] {
        assert!(fs::read(first.path().join(file)).unwrap() == fs::read(second.path().join(file)).unwrap(), "{file} changed");
    }
    assert_close("logits from our file", &fixture.logits(&again), &fixture.values("logits"), TOLERANCE);

    if !fixture.dir.ends_with("pissa") {
        same_tensors(&tensors(first.path()), &tensors(&fixture.dir));
        same_config(first.path(), fixture);
    }
}

/// Keys, shapes and values of HF PEFT's file, but for its copy of the base's embedding.
fn same_tensors(ours: &Checkpoint, theirs: &Checkpoint) {
    let keys: Vec<&str> = theirs.keys().filter(|key| !key.ends_with("base_layer.weight")).collect();
    assert_eq!(ours.keys().collect::<Vec<_>>(), keys);
    for key in keys {
        assert_eq!(ours.info(key).unwrap().shape, theirs.info(key).unwrap().shape, "{key}");
        let error = error(&ours.f32s(key).unwrap(), &theirs.f32s(key).unwrap());
        assert!(error <= SAME, "{key} differs by {error:e}");
    }
}

/// The configuration is HF PEFT's to the byte, with the settings that this library does not know.
fn same_config(ours: &Path, fixture: &Fixture) {
    let mut theirs = config_of(&fixture.dir);
    if theirs["task_type"].is_null() {
        theirs["task_type"] = json!("CAUSAL_LM");
    }
    let text = fs::read_to_string(ours.join(CONFIG_FILE)).unwrap();
    assert_eq!(text, serde_json::to_string_pretty(&theirs).unwrap());
}

fn check(name: &str) {
    let fixture = Fixture::open(name);
    println!("== {name}");
    outputs_and_merging(&fixture);
    gradients(&fixture);
    files(&fixture);
}

macro_rules! adapters {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { check($name) })*

        #[test]
        fn every_fixture_is_checked() {
            let mut names: Vec<_> = fs::read_dir(fixtures().join("adapters")).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            let mut checked = [$($name),*];
            checked.sort();
            assert_eq!(names, checked);
        }
    };
}

adapters! {
    lora: "lora",
    lora_on_all_linear_layers: "lora-all",
    rslora: "rslora",
    dora: "dora",
    dora_on_layers_with_a_bias: "dora-bias",
    pissa_saved_raw: "pissa",
    pissa_converted_to_lora: "pissa-converted",
    ia3: "ia3",
    vera: "vera",
    vera_on_layers_of_different_widths: "vera-down",
    lora_with_whole_modules: "lora-modules-to-save",
    lora_with_patterns_of_rank_and_alpha: "lora-rank-pattern",
    lora_with_all_biases: "lora-bias",
    lora_with_the_biases_of_its_layers: "lora-bias-only",
    lora_with_a_bias_of_its_own: "lora-lora-bias",
    lora_on_an_embedding: "lora-embedding",
    lora_on_an_embedding_without_the_base: "lora-embedding-slim",
    lora_on_one_layer: "lora-layers",
}

#[test]
fn adapters_switch_without_a_trace() {
    let [lora, dora] = ["lora", "dora"].map(Fixture::open);
    let device = device::host();
    let plain = lora.logits(&lora.base(&device));
    let (model, _) = lora.adapted(&device);
    let (model, _, _) = load(model, &dora.dir, "second").unwrap();
    assert_close("the last one loaded is active", &dora.logits(&model), &dora.values("logits"), TOLERANCE);
    let model = activate(model, &[("default", 1.0)]).unwrap();
    assert_close("switched", &lora.logits(&model), &lora.values("logits"), TOLERANCE);
    let model = activate(merge(model).unwrap(), &[("second", 1.0)]).unwrap();
    assert_close("switched while merged", &dora.logits(&model), &dora.values("logits"), TOLERANCE);
    let model = activate(model, &[]).unwrap();
    assert_close("none", &lora.logits(&model), &plain, 1e-5);
}

#[test]
fn half_precision_bases_take_adapters() {
    let fixture = Fixture::open("lora");
    let model = CausalLm::load(&fixture.base, &device::host(), Some(device::host_half())).unwrap();
    let (model, _, _) = load(model, &fixture.dir, "default").unwrap();
    // What rounding the weights to eight bits makes of a random model.
    let tolerance = 5e-2;
    assert_close("bf16", &fixture.logits(&model), &fixture.values("logits"), tolerance);
    let model = merge(model).unwrap();
    assert_close("bf16, merged", &fixture.logits(&model), &fixture.values("logits"), tolerance);
}

fn refused(model: CausalLm, dir: &Path) -> Error {
    match load(model, dir, "default") {
        Ok(_) => panic!("the adapter was accepted"),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_says(error: &Error, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

#[test]
fn an_adapter_for_a_base_of_other_dimensions_is_refused_by_key_and_shapes() {
    let fixture = Fixture::open("lora");
    let model = CausalLm::load(fixtures().join("models/smollm"), &device::host(), None).unwrap();
    let error = refused(model, &fixture.dir);
    assert!(matches!(error, Error::AdapterFile { .. }));
    let key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    assert_says(&error, &[key, "expected [4, 48], found [4, 32]", "another base model"]);
}

#[test]
fn an_adapter_for_a_base_with_more_or_fewer_layers_is_refused() {
    let fixture = Fixture::open("lora");
    let with_layers = |count: usize| {
        let mut value: Value = serde_json::from_slice(&fs::read(fixture.base.join("config.json")).unwrap()).unwrap();
        value["num_hidden_layers"] = json!(count);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), value.to_string()).unwrap();
        CausalLm::init(DecoderConfig::read(dir.path()).unwrap(), &device::host(), 0)
    };
    let error = refused(with_layers(1), &fixture.dir);
    assert!(matches!(error, Error::AdapterFile { .. }));
    assert_says(&error, &["layers.1.self_attn.q_proj.lora_A.weight", "no such tensor", "another base model"]);
    let error = refused(with_layers(3), &fixture.dir);
    assert!(matches!(error, Error::AdapterFile { .. }));
    assert_says(&error, &["layers.2.self_attn.q_proj.lora_A.weight", "expected [4, 32], found nothing"]);
}

#[test]
fn a_truncated_file_is_refused() {
    let fixture = Fixture::open("lora");
    let dir = copied(&fixture);
    let file = dir.path().join(TENSOR_FILE);
    let bytes = fs::read(&file).unwrap();
    for length in [0, 7, 100, bytes.len() - 1] {
        fs::write(&file, &bytes[..length]).unwrap();
        let error = refused(fixture.base(&device::host()), dir.path());
        assert!(matches!(error, Error::File { .. }), "{length} bytes: {error}");
        assert_says(&error, &[TENSOR_FILE]);
    }
    fs::remove_file(&file).unwrap();
    assert!(matches!(refused(fixture.base(&device::host()), dir.path()), Error::Io { .. }));
}

#[test]
fn configurations_that_cannot_be_honoured_are_refused() {
    let fixture = Fixture::open("lora");
    let dir = copied(&fixture);
    let refused_with = |field: &str, value: Value| {
        let mut config = config_of(&fixture.dir);
        config[field] = value;
        fs::write(dir.path().join(CONFIG_FILE), config.to_string()).unwrap();
        refused(fixture.base(&device::host()), dir.path())
    };
    assert_says(&refused_with("peft_type", json!("LOHA")), &[CONFIG_FILE, "peft_type is `LOHA`", "LORA, IA3, VERA"]);
    assert_says(&refused_with("peft_type", Value::Null), &["peft_type is `nothing`"]);
    assert_says(&refused_with("r", json!("four")), &[CONFIG_FILE, "`r` is \"four\"; expected a whole number"]);
    assert_says(&refused_with("r", json!(0)), &["r must be positive"]);
    assert_says(&refused_with("use_qalora", json!(true)), &["`use_qalora` is not supported"]);
    assert_says(&refused_with("layer_replication", json!([[0, 2]])), &["`layer_replication` is not supported"]);
    assert_says(
        &refused_with("init_lora_weights", json!("loftq")),
        &["init_lora_weights is `loftq`", "quantised", "convert it to LoRA first"],
    );
    assert_says(&refused_with("init_lora_weights", json!("olara")), &["init_lora_weights is `olara`", "HF PEFT 0.21 does not have"]);
    assert_says(&refused_with("use_hyperlora", json!(true)), &[CONFIG_FILE, "`use_hyperlora` is true", "nearest is `use_"]);
    assert_says(&refused_with("init_lora_weights", json!("pissa_niter_4")), &["convert it to LoRA first"]);
    let rank = refused_with("r", json!(5));
    assert_says(&rank, &["expected [5, 32], found [4, 32]", "gives the module another rank"]);
    assert!(!rank.to_string().contains("another base model"), "{rank}");
    assert_says(&refused_with("target_modules", json!(["q_prj"])), &["no module matches `q_prj`", "`q_proj`"]);
}
