//! `peft merge` by methods that are trained, as a user runs it.

mod common;

use common::{Place, TINY, failure, result};
use peft_core::files::Checkpoint;
use serde_json::{Value, json};
use std::path::Path;

const BERT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/encoders/bert");

/// The tiny model fine-tuned on one kind of line.
fn tuned(place: &Place, name: &str, line: impl Fn(&str) -> Value) -> (String, String) {
    let lines = ["badu", "solina", "keto", "miru", "papi", "duno"].map(|word| line(word).to_string());
    let (data, out) = (place.write(&format!("{name}.jsonl"), &lines.join("\n")), place.path(name));
    let fixed = ["finetune", "--model", TINY, "--data", &data, "--method", "full", "--lr", "1e-3", "--progress", "none"];
    result(&[&fixed, &["--epochs", "3", "--batch-size", "3", "--out", &out][..]].concat());
    (out, data)
}

fn decoders(place: &Place) -> [(String, String); 2] {
    [
        tuned(place, "upper", |word| json!({ "prompt": format!("upper: {word} = "), "completion": word.to_uppercase() })),
        tuned(place, "twice", |word| json!({ "prompt": format!("twice: {word} = "), "completion": format!("{word}{word}") })),
    ]
}

fn recipe(place: &Place, method: &str, tasks: &[(String, String)], parameters: Value) -> String {
    let models: Vec<_> = tasks.iter().map(|(model, _)| json!({ "model": model })).collect();
    let data: Vec<_> = tasks.iter().map(|(_, data)| json!({ "file": data })).collect();
    let text = json!({ "merge_method": method, "base_model": TINY, "models": models, "data": data, "parameters": parameters });
    place.write(&format!("{method}.yaml"), &text.to_string())
}

#[test]
fn decoders_are_merged_by_every_method_into_a_model_like_any_other() {
    let place = Place::new();
    let tasks = decoders(&place);
    for (method, parameters, steps) in [
        ("adamerging", json!({ "steps": 4, "batch": 2, "lr": 0.05 }), 4),
        ("atlas", json!({ "steps": 12, "batch": 6, "lr": 0.1, "weight_decay": 0.0 }), 12),
        ("concrete_task_arithmetic", json!({ "steps": 3, "batch": 2, "objective": "ce" }), 3),
        ("concrete_adamerging", json!({ "steps": 2, "adamerging_steps": 2, "batch": 2 }), 4),
    ] {
        let (recipe, out) = (recipe(&place, method, &tasks, parameters), place.path(&format!("merged-{method}")));
        let planned = result(&["merge", &recipe, "--out", &out, "--dry-run"]);
        assert_eq!((&planned["steps"], &planned["tasks"]), (&json!(steps), &json!([["upper", 6], ["twice", 6]])));
        assert!(!Path::new(&out).exists(), "a dry run writes nothing");

        let merged = result(&["merge", &recipe, "--out", &out]);
        assert_eq!((&merged["steps"], &merged["method"], &merged["checkpoints"]), (&json!(steps), &json!(method), &json!([out])));
        if method == "atlas" {
            assert!(merged["loss_last"].as_f64() < merged["loss_first"].as_f64(), "{merged}");
        }
        let coefficients: Vec<Value> =
            serde_json::from_str(&std::fs::read_to_string(place.file(&format!("merged-{method}/coefficients.json"))).unwrap()).unwrap();
        assert_eq!(coefficients.len() % 2, 0);
        assert_eq!(Path::new(&out).join("mask_logits.safetensors").exists(), method.starts_with("concrete"));
        assert!(Path::new(&out).join("merge_recipe.yaml").exists());
        let logits = place.path("logits.safetensors");
        result(&["logits", "--model", &out, "--tokens", "1,2,3", "--out", &logits]);
    }
}

#[test]
fn a_seed_repeats_a_merge() {
    let place = Place::new();
    let tasks = decoders(&place);
    let recipe = recipe(&place, "concrete_task_arithmetic", &tasks, json!({ "steps": 2, "batch": 2, "lr": 0.05 }));
    let weights = |out: &str, seed: &str| {
        let out = place.path(out);
        result(&["merge", &recipe, "--out", &out, "--seed", seed]);
        let checkpoint = Checkpoint::open(Path::new(&out)).unwrap();
        checkpoint.f32s("model.norm.weight").unwrap()
    };
    let first = weights("a", "3");
    assert_eq!(first, weights("b", "3"));
    assert_ne!(first, weights("c", "4"));
}

/// BERT fine-tuned on one kind of label.
fn classifier(place: &Place, task: &str, words: [&str; 2]) -> (String, String) {
    let line = |i: usize| json!({ "text": format!("the cat is {}", words[i % 2]), "label": words[i % 2] }).to_string();
    let (data, out) = (place.write(&format!("{task}.jsonl"), &(0..24).map(line).collect::<Vec<_>>().join("\n")), place.path(task));
    let fixed = ["finetune", "--model", BERT, "--data", &data, "--method", "full", "--lr", "5e-3", "--progress", "none"];
    result(&[&fixed, &["--epochs", "6", "--batch-size", "8", "--out", &out][..]].concat());
    (out, data)
}

fn encoder_recipe(place: &Place, method: &str, models: &[&str], data: &[(&str, &str, &str)], parameters: Value) -> String {
    let models: Vec<_> = models.iter().map(|model| json!({ "model": model })).collect();
    let data: Vec<_> = data.iter().map(|(task, model, file)| json!({ "task": task, "model": model, "file": file })).collect();
    let text = json!({ "merge_method": method, "base_model": BERT, "models": models, "data": data, "parameters": parameters });
    place.write(&format!("{method}.yaml"), &text.to_string())
}

#[test]
fn classifiers_are_merged_on_texts_without_labels_and_keep_their_heads() {
    let place = Place::new();
    let (first, _) = classifier(&place, "mood", ["good", "bad"]);
    let (second, data) = classifier(&place, "animal", ["cat", "dog"]);
    let plain =
        place.write("plain.jsonl", "\u{feff}{\"text\": \"the cat is good\"}\n{\"text\": \"a dog\", \"text_pair\": \"the house\"}\n");
    let recipe = encoder_recipe(
        &place,
        "adamerging",
        &[&first, &second],
        &[("mood", &first, &plain), ("animal", &second, &plain)],
        json!({ "steps": 5, "batch": 4 }),
    );
    let out = place.path("merged");
    let merged = result(&["merge", &recipe, "--out", &out]);
    assert_eq!(merged["checkpoints"], json!([format!("{out}/mood"), format!("{out}/animal")]));
    let [mood, animal] = ["mood", "animal"].map(|task| Checkpoint::open(Path::new(&format!("{out}/{task}"))).unwrap());
    let original = Checkpoint::open(Path::new(&second)).unwrap();
    assert_eq!(animal.f32s("classifier.weight").unwrap(), original.f32s("classifier.weight").unwrap(), "the head is the task's own");
    let trunk = "bert.encoder.layer.0.attention.self.query.weight";
    assert_eq!(animal.f32s(trunk).unwrap(), mood.f32s(trunk).unwrap(), "the trunk is the same");
    assert_ne!(animal.f32s(trunk).unwrap(), original.f32s(trunk).unwrap());
    let scores = result(&["eval", "--model", &format!("{out}/animal"), "--data", &data, "--metric", "classification"]);
    assert_eq!(scores["examples"], 24);
}

#[test]
fn a_task_of_a_classifier_is_unlearned_while_another_stays() {
    let place = Place::new();
    let (first, target) = classifier(&place, "mood", ["good", "bad"]);
    let (second, control) = classifier(&place, "animal", ["cat", "dog"]);
    let data = [("mood", first.as_str(), target.as_str()), ("animal", second.as_str(), control.as_str())];
    let recipe = encoder_recipe(&place, "atlas", &[&first], &data, json!({ "steps": 4, "batch": 8, "objective": "negation" }));
    let merged = result(&["merge", &recipe, "--out", &place.path("merged")]);
    assert!(merged["steps"].as_u64().unwrap() >= 1);

    let alone = encoder_recipe(&place, "atlas", &[&first], &data[..1], json!({ "objective": "negation" }));
    let message = failure(&["merge", &alone, "--out", &place.path("alone")]);
    assert!(message.contains("negation needs two data: the target to unlearn, then the control to keep; there are 1"), "{message}");
}

#[test]
fn mistakes_are_told_with_what_would_be_right() {
    let place = Place::new();
    let out = place.path("merged");
    let told = |text: Value| failure(&["merge", &place.write("recipe.yaml", &text.to_string()), "--out", &out]);
    let data = place.data();
    let whole = |parameters: Value| json!({ "merge_method": "atlas", "base_model": TINY, "models": [{ "model": TINY }], "data": [{ "file": data }], "parameters": parameters });
    let adapter =
        json!({ "merge_method": "atlas", "base_model": TINY, "models": [{ "model": "org/a+org/lora" }], "data": [{ "file": data }] });
    assert!(
        told(adapter).contains("atlas takes whole models; make one with `peft merge-adapter --model org/a --adapter org/lora --out DIR`")
    );
    assert!(told(json!({ "merge_method": "atlas", "models": [{ "model": TINY }] })).contains("recipe.yaml: atlas needs a base_model"));
    let message = told(json!({ "merge_method": "adamerging", "base_model": TINY, "models": [{ "model": TINY }] }));
    assert!(message.contains("it needs `data`, a list with a `file` for each task"), "{message}");
    for (value, said) in
        [(json!(null), "lr: no value, or one that is not a finite number"), (json!("fast"), "lr: invalid type: string \"fast\"")]
    {
        let message = told(whole(json!({ "lr": value })));
        assert!(message.contains(&format!("recipe.yaml: parameters: {said}")), "{message}");
    }
    let message = told(whole(json!({ "learning_rate": 1 })));
    assert!(message.contains("unknown field `learning_rate`, expected one of `granularity`"), "{message}");
    assert!(told(whole(json!({ "lr": 0 }))).contains("lr: above 0, not 0"));
    assert!(told(whole(json!({ "select_top": 2 }))).contains("select_top: from 1 to the number of task vectors, 1, not 2"));
    assert!(told(whole(json!({ "objective": "ufm" }))).contains("two views of each input"));
    assert!(told(whole(json!({ "objective": "negation" }))).contains("negation is for classifiers"));
    let unknown = json!({ "merge_method": "magic", "models": [{ "model": TINY }] });
    assert!(told(unknown).contains("passthrough, adamerging, atlas, concrete_task_arithmetic, concrete_adamerging"));

    let no_head = json!({
        "merge_method": "adamerging", "base_model": BERT, "models": [{ "model": BERT }], "data": [{ "file": data, "model": BERT }]
    });
    assert!(told(no_head).contains("holds no classifier"));
    assert!(!Path::new(&out).exists());
}
