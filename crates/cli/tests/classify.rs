//! `peft finetune` and `peft eval` of encoders.

mod common;

use burn::tensor::{Int, Tensor, TensorData};
use common::{Place, TINY, failure, result};
use peft_core::device::host;
use peft_core::files::{Checkpoint, Dtype, TensorSource, float_bytes, pytorch_metadata, write_safetensors};
use peft_core::{TextClassifier, Texts};
use peft_models::encoder::SequenceClassifier;
use serde_json::{Value, json};
use std::path::Path;

const BERT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/encoders/bert");
const ROBERTA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/encoders/roberta");

/// Texts whose label is a word of theirs.
fn labelled(place: &Place) -> String {
    let words = ["cat", "dog", "house", "tree", "river"];
    let line = |i: usize| {
        let (a, b) = (words[i % 5], words[(i / 5) % 5]);
        let (label, word) = if i.is_multiple_of(2) { ("good", "good") } else { ("bad", "bad") };
        json!({ "text": format!("the {a} is {word}"), "text_pair": format!("a {b}"), "label": label }).to_string()
    };
    place.write("labelled.jsonl", &(0..40).map(line).collect::<Vec<_>>().join("\n"))
}

fn train(place: &Place, model: &str, method: &str, lr: &str) -> (Value, String) {
    let (data, out) = (labelled(place), place.path(method));
    let fixed = ["finetune", "--model", model, "--data", &data, "--eval", &data, "--method", method, "--lr", lr];
    let done = result(&[&fixed, &["--epochs", "12", "--batch-size", "8", "--out", &out][..]].concat());
    (done, data)
}

#[test]
fn every_method_learns_labels_and_is_evaluated_from_its_files() {
    for (model, method, lr) in [
        (BERT, "full", "5e-3"),
        (BERT, "lora", "1e-2"),
        (BERT, "ia3", "5e-2"),
        (BERT, "bitfit", "2e-2"),
        (BERT, "head", "5e-2"),
        (ROBERTA, "full", "5e-3"),
        (ROBERTA, "lora", "1e-2"),
    ] {
        let place = Place::new();
        let (done, data) = train(&place, model, method, lr);
        let out = place.path(method);
        assert!(done["eval_accuracy"].is_number() && done["eval_f1"].is_number() && done["eval_matthews"].is_number(), "{done}");
        assert_eq!((&done["eval_examples"], &done["examples"]["examples"]), (&json!(40), &json!(40)));
        let whole = matches!(method, "full" | "head");
        let base = if whole { out.as_str() } else { model };
        let adapter = if whole { vec![] } else { vec!["--adapter", &out] };
        let fixed = ["eval", "--model", base, "--data", &data, "--metric", "classification"];
        let scores = result(&[&fixed, &adapter[..]].concat());
        assert_eq!(scores["examples"], 40, "{method}");
        let (found, expected) = (scores["loss"].as_f64().unwrap(), done["eval_loss"].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-4, "{model} {method}: the files hold what was learned: {found} and {expected}");
        assert_eq!(scores["accuracy"]["value"], done["eval_accuracy"]);
        if method != "head" && method != "bitfit" {
            assert!(expected < 0.6, "{model} {method}: {expected}");
        }
        assert_eq!(Path::new(&out).join("labels.json").exists(), !whole);
    }
}

/// Adapters that HF PEFT made for encoders without a classifier, with its logits (`make_encoders.py`).
#[test]
fn an_adapter_of_peft_is_merged_into_a_classifier_that_transformers_would_load() {
    for (name, base) in [("bert-adapter", BERT), ("roberta-adapter", ROBERTA)] {
        let place = Place::new();
        let (dir, out) = (Path::new(BERT).with_file_name(name), place.path("merged"));
        result(&["merge-adapter", "--model", base, "--adapter", &dir.to_string_lossy(), "--out", &out]);
        let (model, expected) =
            (SequenceClassifier::load(&out, &host(), None).unwrap(), Checkpoint::open_file(&dir.join("expected.safetensors")).unwrap());
        assert_eq!(model.labels(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
        let integers =
            |key: &str| -> Vec<i64> { expected.bytes(key).unwrap().chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect() };
        let [rows, width] = expected.info("input_ids").unwrap().shape[..] else { panic!("a batch") };
        let tensor = |key: &str| Tensor::<2, Int>::from_data(TensorData::new(integers(key), [rows, width]), &host());
        let lengths = integers("lengths").into_iter().map(|length| length as usize).collect();
        let texts = Texts { ids: tensor("input_ids"), type_ids: Some(tensor("token_type_ids")), lengths };
        let (found, expected) = (model.logits(&texts).try_into_vec_as::<f32>().unwrap(), expected.f32s("logits").unwrap());
        let distance = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(found.len() == 9 && distance < 1e-5, "{name} differs by {distance}: {found:?} {expected:?}");
        let config: Value = serde_json::from_slice(&std::fs::read(Path::new(&out).join("config.json")).unwrap()).unwrap();
        let class = if name == "bert-adapter" { "BertForSequenceClassification" } else { "RobertaForSequenceClassification" };
        assert_eq!(config["architectures"], json!([class]));
    }
}

#[test]
fn a_merged_classifier_predicts_what_its_adapter_does() {
    let place = Place::new();
    let (_, data) = train(&place, BERT, "lora", "1e-2");
    let (adapter, merged) = (place.path("lora"), place.path("merged"));
    result(&["merge-adapter", "--model", BERT, "--adapter", &adapter, "--out", &merged]);
    let inspected = result(&["inspect", &merged]);
    assert_eq!((&inspected["name"], &inspected["settings"]["labels"]), (&json!("BertForSequenceClassification"), &json!("bad, good")));
    assert_eq!(result(&["inspect", BERT])["name"], "BertModel");

    let fixed = ["eval", "--data", &data, "--metric", "classification", "--limit", "7", "--predictions"];
    let (with, without) = (place.path("with.jsonl"), place.path("without.jsonl"));
    let scores = result(&[&fixed, &[&with, "--model", BERT, "--adapter", &adapter][..]].concat());
    assert_eq!(scores["examples"], 7, "--limit");
    assert_eq!(result(&[&fixed, &[&without, "--model", &merged][..]].concat())["accuracy"], scores["accuracy"]);
    let read = |file: &str| -> Vec<Value> {
        std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (with, without) = (read(&with), read(&without));
    assert_eq!((with.len(), without.len()), (7, 7));
    for (a, b) in with.iter().zip(&without) {
        assert_eq!((&a["text"], &a["predicted"], &a["right"]), (&b["text"], &b["predicted"], &b["right"]));
        let [bad, good] = ["bad", "good"].map(|label| a["scores"][label].as_f64().unwrap());
        assert!((bad + good - 1.0).abs() < 1e-9 && (bad - b["scores"]["bad"].as_f64().unwrap()).abs() < 1e-5, "{a} {b}");
        assert_eq!(a["predicted"], if good > bad { "good" } else { "bad" });
        assert_eq!(a["right"], a["predicted"] == a["label"]);
    }
    assert_eq!(
        (&with[0]["line"], &with[0]["text"], &with[0]["text_pair"], &with[0]["label"]),
        (&json!(1), &json!("the cat is good"), &json!("a cat"), &json!("good"))
    );
    let logits = |model: &[&str]| {
        let file = place.path("logits.safetensors");
        result(&[&["logits", "--tokens", "3,30,31,4", "--out", &file, "--model"], model].concat());
        let file = Checkpoint::open_file(Path::new(&file)).unwrap();
        (file.info("logits").unwrap().shape.clone(), file.f32s("logits").unwrap())
    };
    let (one, other) = (logits(&[BERT, "--adapter", &adapter]), logits(&[&merged]));
    assert!(one.0 == [1, 2] && one.0 == other.0 && one.1.iter().zip(&other.1).all(|(a, b)| (a - b).abs() < 1e-5), "{one:?} {other:?}");
    let message = failure(&["logits", "--model", BERT, "--tokens", "1", "--out", &place.path("none")]);
    assert!(message.contains("is an encoder without a classifier"), "{message}");
    let message = failure(&["generate", "--model", BERT, "--prompt", "a"]);
    assert!(message.contains("`BertModel` is an encoder, which writes no text") || message.contains("`bert` is an encoder"), "{message}");
    for (flag, value) in [("--stride", "4"), ("--max-new-tokens", "4")] {
        let message = failure(&["eval", "--model", &merged, "--data", &data, "--metric", "classification", flag, value]);
        assert!(message.contains(&format!("{flag} is for decoders")), "{message}");
    }
}

/// As HF PEFT merges it, whose head over the vocabulary keeps the embedding that it shared.
#[test]
fn a_head_over_the_vocabulary_stays_where_an_adapter_changes_the_embedding() {
    let place = Place::new();
    let (base, adapter, out) = (place.file("base"), place.file("adapter"), place.path("merged"));
    std::fs::create_dir(&base).unwrap();
    std::fs::create_dir(&adapter).unwrap();
    let encoder = Checkpoint::open(Path::new(BERT)).unwrap();
    let table = "bert.embeddings.word_embeddings.weight";
    let [vocabulary, d] = encoder.info(&table[5..]).unwrap().shape[..] else { panic!("a table") };
    let source = |key: String, shape: &[usize], numbers: Vec<f32>| {
        TensorSource::new(key, Dtype::F32, shape, move || Ok(float_bytes(&numbers, Dtype::F32).unwrap().into()))
    };
    let bias: Vec<f32> = (0..vocabulary).map(|i| i as f32 / 7.0).collect();
    let under = encoder.keys().map(|key| source(format!("bert.{key}"), &encoder.info(key).unwrap().shape, encoder.f32s(key).unwrap()));
    let head = [
        source("cls.predictions.bias".into(), &[vocabulary], bias.clone()),
        source("cls.predictions.transform.dense.weight".into(), &[d, d], vec![0.5; d * d]),
    ];
    write_safetensors(&base.join("model.safetensors"), under.chain(head), &pytorch_metadata()).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(Path::new(BERT).join("config.json")).unwrap()).unwrap();
    config["architectures"] = json!(["BertForMaskedLM"]);
    config["tie_word_embeddings"] = true.into();
    std::fs::write(base.join("config.json"), config.to_string()).unwrap();
    let settings = json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["word_embeddings"], "task_type": null });
    std::fs::write(adapter.join("adapter_config.json"), settings.to_string()).unwrap();
    let prefix = "base_model.model.bert.embeddings.word_embeddings.lora_embedding";
    let factors =
        [source(format!("{prefix}_A"), &[1, vocabulary], vec![1.0; vocabulary]), source(format!("{prefix}_B"), &[d, 1], vec![0.25; d])];
    write_safetensors(&adapter.join("adapter_model.safetensors"), factors, &pytorch_metadata()).unwrap();

    result(&["merge-adapter", "--model", &base.to_string_lossy(), "--adapter", &adapter.to_string_lossy(), "--out", &out]);
    let (base, merged) = (Checkpoint::open(&base).unwrap(), Checkpoint::open(Path::new(&out)).unwrap());
    let config: Value = serde_json::from_slice(&std::fs::read(Path::new(&out).join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["tie_word_embeddings"], &config["architectures"]), (&json!(false), &json!(["BertForMaskedLM"])));
    assert_eq!(merged.f32s("cls.predictions.decoder.weight").unwrap(), base.f32s(table).unwrap());
    assert_eq!(merged.f32s("cls.predictions.decoder.bias").unwrap(), bias);
    let changed: Vec<f32> = base.f32s(table).unwrap().iter().map(|x| x + 0.5).collect();
    assert_eq!(merged.f32s(table).unwrap(), changed);
    for key in base.keys().filter(|key| *key != table) {
        assert_eq!(merged.f32s(key).unwrap(), base.f32s(key).unwrap(), "{key}");
    }
    assert_eq!(merged.keys().count(), base.keys().count() + 2);
}

/// HF PEFT applies it, and nothing here has that layer.
#[test]
fn an_adapter_of_a_layer_within_a_head_over_the_vocabulary_is_refused() {
    let place = Place::new();
    let (base, adapter, out) = (place.file("base"), place.file("adapter"), place.path("merged"));
    std::fs::create_dir(&base).unwrap();
    std::fs::create_dir(&adapter).unwrap();
    let encoder = Checkpoint::open(Path::new(ROBERTA)).unwrap();
    let d = encoder.info("encoder.layer.0.attention.self.query.weight").unwrap().shape[0];
    let source = |key: String, shape: &[usize], numbers: Vec<f32>| {
        TensorSource::new(key, Dtype::F32, shape, move || Ok(float_bytes(&numbers, Dtype::F32).unwrap().into()))
    };
    let under = encoder.keys().map(|key| source(format!("roberta.{key}"), &encoder.info(key).unwrap().shape, encoder.f32s(key).unwrap()));
    let head = source("lm_head.dense.weight".into(), &[d, d], vec![0.5; d * d]);
    write_safetensors(&base.join("model.safetensors"), under.chain([head]), &pytorch_metadata()).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(Path::new(ROBERTA).join("config.json")).unwrap()).unwrap();
    config["architectures"] = json!(["RobertaForMaskedLM"]);
    std::fs::write(base.join("config.json"), config.to_string()).unwrap();
    let modules = ["roberta.encoder.layer.0.attention.self.query", "lm_head.dense"];
    let settings = json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": modules });
    std::fs::write(adapter.join("adapter_config.json"), settings.to_string()).unwrap();
    let factors = modules.into_iter().flat_map(|module| {
        let key = |part: &str| format!("base_model.model.{module}.{part}.weight");
        [source(key("lora_A"), &[1, d], vec![1.0; d]), source(key("lora_B"), &[d, 1], vec![0.25; d])]
    });
    write_safetensors(&adapter.join("adapter_model.safetensors"), factors, &pytorch_metadata()).unwrap();

    let said = failure(&["merge-adapter", "--model", &base.to_string_lossy(), "--adapter", &adapter.to_string_lossy(), "--out", &out]);
    assert!(said.contains("lm_head.dense.lora_A.weight`: expected no such tensor"), "{said}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn numbers_are_a_regression() {
    let place = Place::new();
    let lines: Vec<_> = (0..24).map(|i| json!({ "text": "cat ".repeat(i % 6 + 1), "label": (i % 6) as f64 / 5.0 }).to_string()).collect();
    let (data, out) = (place.write("numbers.jsonl", &lines.join("\n")), place.path("out"));
    let fixed = ["finetune", "--model", BERT, "--data", &data, "--eval", &data, "--method", "full", "--lr", "5e-3"];
    let done = result(&[&fixed, &["--epochs", "20", "--out", &out][..]].concat());
    assert!(done["eval_pearson"].as_f64().unwrap() > 0.5, "{done}");
    let scores = result(&["eval", "--model", &out, "--data", &data, "--metric", "classification"]);
    assert!(scores["spearman"]["value"].as_f64().unwrap() > 0.5 && scores["mse"]["value"].is_number(), "{scores}");
}

#[test]
fn what_does_not_fit_an_encoder_is_refused_with_the_reason() {
    let place = Place::new();
    let (data, out) = (labelled(&place), place.path("out"));
    let finetune =
        |model: &str, extra: &[&str]| failure(&[&["finetune", "--model", model, "--data", &data, "--out", &out], extra].concat());
    assert!(finetune(BERT, &["--packing"]).contains("`packing` is for language models, and this model is an encoder"));
    assert!(finetune(TINY, &["--method", "head"]).contains("head trains the classifier of an encoder, and this model is a decoder"));
    let one = place.write("one.jsonl", "{\"text\": \"a\", \"label\": \"x\"}\n");
    let message = failure(&["finetune", "--model", BERT, "--data", &one, "--out", &out]);
    assert!(message.contains("one.jsonl:1: all examples have the label x"), "{message}");
    let message = failure(&["eval", "--model", BERT, "--data", &data, "--metric", "classification"]);
    assert!(message.contains("holds no classifier"), "{message}");
    let message = failure(&["eval", "--model", BERT, "--data", &data, "--metric", "perplexity"]);
    assert!(message.contains("an encoder is measured with --data and --metric classification"), "{message}");
    let message = failure(&["eval", "--model", TINY, "--data", &data, "--metric", "classification"]);
    assert!(message.contains("classification is for encoders"), "{message}");
}
