//! What torch makes of the same models and numpy of the same merges: `xtask/parity/fisher.py` wrote the fixtures.

mod common;

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use common::{checkpoint, computed, difference, plan_in};
use peft_core::files::Checkpoint;
use peft_core::{LanguageModel, Result, TextClassifier, Texts, device};
use peft_merge::fisher::{Estimator, FISHER_FILE, Fisher, FisherConfig, Prediction};
use peft_models::{CausalLm, SequenceClassifier, weights};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Of the largest number of each weight.
const TOLERANCE: f32 = 1e-5;

const TEXTS: [(&[u32], &[u32]); 3] = [(&[3, 30, 31, 4], &[0; 4]), (&[3, 40, 41, 42, 43, 4], &[0, 0, 0, 1, 1, 1]), (&[3, 77, 4], &[0; 3])];
const SEQUENCES: [&[u32]; 3] = [&[1, 17, 30, 4, 90], &[1, 52, 52, 7], &[1, 9, 61, 33, 12, 2]];

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The estimate lies where torch's does under every key.
fn assert_same<M: Module>(fisher: Fisher<M>, expected: &str) {
    let oracle = Checkpoint::open_file(&fixtures("fisher/information.safetensors")).unwrap();
    let count = oracle.keys().filter(|key| key.starts_with(expected)).count();
    let model = fisher.into_model().unwrap();
    let tensors = weights(&model, |_| burn::tensor::DType::F32).unwrap();
    assert_eq!(tensors.len(), count, "{expected}");
    for tensor in tensors {
        let key = format!("{expected}/{}", tensor.name);
        assert_eq!(oracle.info(&key).unwrap().shape, tensor.info.shape, "{key}");
        let found = common::floats(&(tensor.data)().unwrap());
        assert!(found.iter().all(|x| *x >= 0.0), "{key}: squares");
        let theirs = oracle.f32s(&key).unwrap();
        // Rounding alone stands where the gradient is zero: that of keys' biases.
        let largest = theirs.iter().fold(0f32, |largest, x| largest.max(*x));
        if largest < 1e-12 {
            assert!(found.iter().all(|x| *x < 1e-10), "{key}");
            continue;
        }
        let far = difference(&found, &theirs);
        assert!(far <= TOLERANCE, "{key}: {far:e}");
    }
}

fn of_texts(config: FisherConfig, prediction: impl Fn(Tensor<2>) -> Prediction) -> Result<Fisher<SequenceClassifier>> {
    let device = device::host().autodiff();
    let model = SequenceClassifier::load(fixtures("encoders/bert-classifier"), &device, None)?;
    let mut fisher = Fisher::new(model, config, |_| true)?;
    for row in TEXTS {
        fisher.add(|model| prediction(model.logits(&Texts::new([row], 0, &device))))?;
    }
    Ok(fisher)
}

fn of_sequences(config: FisherConfig, sequences: &[&[u32]]) -> Result<Fisher<CausalLm>> {
    let device = device::host().autodiff();
    let model = CausalLm::load(fixtures("models/llama"), &device, None)?;
    let mut fisher = Fisher::new(model, config, |_| true)?;
    for ids in sequences {
        let labels: Vec<usize> = ids[1..].iter().map(|id| *id as usize).collect();
        let values: Vec<i32> = ids[..ids.len() - 1].iter().map(|id| *id as i32).collect();
        let input = || Tensor::<2, Int>::from_data(TensorData::new(values.clone(), [1, labels.len()]), &device);
        fisher.add(|model| {
            let hidden = model.hidden(input());
            let [_, length, d] = hidden.dims();
            Prediction::Classes { logits: model.head(hidden.reshape([length, d])), labels: Some(labels.clone()) }
        })?;
    }
    Ok(fisher)
}

#[test]
fn a_classifier_has_the_information_that_torch_finds() {
    assert_same(of_texts(FisherConfig::default(), Prediction::logits).unwrap(), "bert/exact");
    assert_same(of_texts(FisherConfig::default(), Prediction::numbers).unwrap(), "bert/numbers");
}

#[test]
fn a_decoder_has_the_information_that_torch_finds() {
    let empirical = |per_row| FisherConfig { estimator: Estimator::Empirical, per_row, seed: 0 };
    assert_same(of_sequences(empirical(false), &SEQUENCES).unwrap(), "llama/sequence");
    assert_same(of_sequences(empirical(true), &SEQUENCES).unwrap(), "llama/token");
    assert_same(of_sequences(FisherConfig::default(), &[&[1, 17, 30], &[1, 52]]).unwrap(), "llama/exact");
}

#[test]
fn merges_are_those_of_numpy() {
    let place = tempfile::tempdir().unwrap();
    let inputs = Checkpoint::open_file(&fixtures("fisher/inputs.safetensors")).unwrap();
    for i in 0..3 {
        let take = |kind: &str| {
            let prefix = format!("{kind}/{i}/");
            let keys: Vec<&str> = inputs.keys().filter(|key| key.starts_with(&prefix)).collect();
            keys.into_iter()
                .map(|key| (key[prefix.len()..].to_string(), inputs.info(key).unwrap().shape.clone(), inputs.f32s(key).unwrap()))
                .collect::<Vec<_>>()
        };
        for (kind, dir) in [("model", place.path().join(i.to_string())), ("fisher", place.path().join(format!("fisher-{i}")))] {
            let tensors = take(kind);
            let tensors: Vec<(&str, &[usize], Vec<f32>)> =
                tensors.iter().map(|(name, shape, numbers)| (name.as_str(), shape.as_slice(), numbers.clone())).collect();
            checkpoint(&dir, &tensors);
        }
        std::fs::rename(place.path().join(format!("fisher-{i}/model.safetensors")), place.path().join(i.to_string()).join(FISHER_FILE))
            .unwrap();
    }
    let expected = Checkpoint::open_file(&fixtures("fisher/merged.safetensors")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(fixtures("fisher/cases.json")).unwrap()).unwrap();
    let mut compared = 0;
    for (number, case) in cases.iter().enumerate() {
        let models: Vec<String> = (0..3)
            .map(|i| {
                let (file, weight) = (place.path().join(i.to_string()).join(FISHER_FILE), &case["weights"][i]);
                format!("  - {{model: '{i}', fisher: '{}', parameters: {{weight: {weight}}}}}\n", file.display())
            })
            .collect();
        let recipe = format!(
            "merge_method: fisher\nbase_model: '{}'\nmodels:\n{}parameters: {{normalize: {}, fisher_floor: {}, favor_target: {}, floor_relative: {}}}\n",
            case["target"],
            models.concat(),
            case["normalize"],
            case["floor"],
            case["favor"],
            case["relative"]
        );
        let plan = plan_in(place.path(), &recipe).unwrap();
        for weight in &plan.weights {
            let far = difference(&computed(&plan, &weight.name), &expected.f32s(&format!("{number}/{}", weight.name)).unwrap());
            assert!(far <= 1e-6, "case {number} {case}: {}: {far:e}", weight.name);
            compared += 1;
        }
    }
    assert_eq!(compared, expected.keys().count());
}
