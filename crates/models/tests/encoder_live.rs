//! Encoders as transformers and PEFT read them now: `PEFT_PYTHON` names a Python with the packages of xtask/parity/requirements.txt.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Distribution, Tensor};
use peft_adapters::PeftConfig;
use peft_adapters::low_rank::{Init, LoraConfig};
use peft_core::{Context, Names, TextClassifier, Texts, adapt, device, merge, save_adapter};
use peft_models::encoder::SequenceClassifier;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

const ROWS: [(&[u32], &[u32]); 2] = [(&[3, 30, 31, 4], &[0; 4]), (&[3, 40, 41, 42, 43, 4], &[0, 0, 0, 1, 1, 1])];

fn texts(pad: u32) -> Texts {
    Texts::new(ROWS, pad, &device::host())
}

/// Logits and labels of transformers.
fn theirs(python: &str, model: &Path, adapter: Option<&Path>, pad: u32) -> (Vec<f32>, Vec<String>) {
    let width = ROWS.iter().map(|(ids, _)| ids.len()).max().unwrap();
    let padded = |values: &[u32], fill| values.iter().copied().chain(std::iter::repeat(fill)).take(width).collect::<Vec<u32>>();
    let ids: Vec<_> = ROWS.iter().map(|(ids, _)| padded(ids, pad)).collect();
    let types: Vec<_> = ROWS.iter().map(|(_, types)| padded(types, 0)).collect();
    let mask: Vec<_> = ROWS.iter().map(|(ids, _)| padded(&vec![1; ids.len()], 0)).collect();
    let asked = json!({"model": model, "adapter": adapter, "ids": ids, "mask": mask, "type_ids": types, "labels": 3});
    let script = workspace().join("xtask/parity/classify.py");
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows: Vec<Vec<f32>> = serde_json::from_value(answer["logits"].clone()).unwrap();
    (rows.concat(), serde_json::from_value(answer["labels"].clone()).unwrap())
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let distance = found.iter().zip(expected).fold(0f32, |largest, (a, b)| largest.max((a - b).abs()));
    let scale = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    eprintln!("differs by {:e} of the largest", distance / scale);
    assert!(distance <= 1e-4 * scale, "{found:?} {expected:?}");
}

/// Every trained tensor random, so that each shows in the output.
struct Randomise;

impl ModuleMapper for Randomise {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        param.map(|tensor| tensor.random_like(Distribution::Normal(0.0, 0.2)))
    }
}

#[test]
fn saved_classifiers_and_adapters_mean_the_same_in_python() {
    let Ok(python) = std::env::var("PEFT_PYTHON") else {
        eprintln!("skipped: set PEFT_PYTHON");
        return;
    };
    for name in ["bert", "roberta"] {
        let base = workspace().join("fixtures/encoders").join(name).canonicalize().unwrap();
        let device = device::host().autodiff();
        let model = SequenceClassifier::load_with_labels(&base, ["no", "yes", "maybe"], 0, &device, None).unwrap();
        let lora = LoraConfig {
            r: 4,
            init_lora_weights: Init::Flag(false),
            modules_to_save: Some(vec!["classifier".into()]),
            ..LoraConfig::for_modules(Names::list(["query", "value"]))
        };
        let (model, _) = adapt(model, &lora, &Context::default()).unwrap();
        let model = model.map(&mut Randomise).valid();
        let pad = model.config().pad_token_id;
        let logits = |model: &SequenceClassifier| model.logits(&texts(pad)).try_into_vec_as::<f32>().unwrap();
        let ours = logits(&model);

        let adapter = tempfile::tempdir().unwrap();
        let config = PeftConfig::Lora(lora).for_file(&base.to_string_lossy(), "SEQ_CLS");
        save_adapter(&model, "default", &config, adapter.path()).unwrap();
        assert_close(&ours, &theirs(&python, &base, Some(adapter.path()), pad).0);

        let merged = merge(model).unwrap();
        let dir = tempfile::tempdir().unwrap();
        merged.save(dir.path(), DType::F32).unwrap();
        let (logits, labels) = theirs(&python, dir.path(), None, pad);
        assert_close(&ours, &logits);
        assert_eq!(labels, ["no", "yes", "maybe"]);
    }
}
