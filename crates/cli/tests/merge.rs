//! `peft merge` as a user runs it.

mod common;

use common::{Place, TINY, failure, result};
use serde_json::json;
use std::path::Path;

fn model(name: &str) -> String {
    format!("{}/../../fixtures/merge/models/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn recipe(place: &Place) -> String {
    let models = ["a", "b"].map(|name| json!({ "model": model(name), "parameters": { "weight": 0.5, "density": 0.5 } }));
    let text = json!({
        "merge_method": "ties",
        "base_model": model("base"),
        "models": models,
        "dtype": "bfloat16",
    });
    place.write("recipe.yaml", &text.to_string())
}

#[test]
fn a_merge_is_planned_without_writing_and_then_written() {
    let place = Place::new();
    let (recipe, out) = (recipe(&place), place.path("merged"));
    let plan = result(&["merge", &recipe, "--out", &out, "--dry-run"]);
    assert!(!Path::new(&out).exists(), "a dry run writes nothing");
    assert_eq!((&plan["method"], &plan["files"]), (&json!("ties"), &json!(["model.safetensors"])));
    let weights = plan["weights"].as_array().unwrap();
    assert!(weights.iter().all(|weight| weight["dtype"] == "BF16" && weight["inputs"].as_array().unwrap().len() == 3));

    let merged = result(&["merge", &recipe, "--out", &out]);
    assert_eq!((&merged["bytes"], &merged["weights"]), (&plan["bytes"], &json!(weights.len())));
    assert!(failure(&["merge", &recipe, "--out", &out]).contains("exists already"));
    let again = result(&["merge", &recipe, "--out", &out, "--overwrite", "--shard-size", "4KB"]);
    assert_eq!(again["kept_files"], 0);
    assert!(Path::new(&out).join("model.safetensors.index.json").exists());
}

#[test]
fn a_merged_checkpoint_is_a_model_like_any_other() {
    let place = Place::new();
    let text = format!(
        "merge_method: passthrough\nslices:\n  - sources: [{{model: {TINY}, layer_range: [0, 2]}}]\n  - sources: [{{model: {TINY}, layer_range: [1, 2]}}]\n"
    );
    let out = place.path("deeper");
    result(&["merge", &place.write("recipe.yaml", &text), "--out", &out]);
    let logits = place.path("logits.safetensors");
    result(&["logits", "--model", &out, "--tokens", "1,2,3", "--out", &logits]);
    assert!(Path::new(&logits).exists());
}

#[test]
fn one_thread_is_enough() {
    let place = Place::new();
    let (recipe, out) = (recipe(&place), place.path("merged"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_peft"));
    let status = command.env("RAYON_NUM_THREADS", "1").args(["merge", &recipe, "--out", &out]).status().unwrap();
    assert!(status.success());
}

#[test]
fn mistakes_are_told_with_the_file_that_has_them() {
    let place = Place::new();
    let out = place.path("merged");
    let unknown = place.write("unknown.yaml", "merge_method: magic\nmodels: [{model: a}]\n");
    let error = failure(&["merge", &unknown, "--out", &out]);
    assert!(error.contains("unknown.yaml") && error.contains("there is no `magic`; known: linear, slerp"), "{error}");

    let adapter = place.write("adapter.yaml", "merge_method: passthrough\nmodels: [{model: org/a+org/lora}]\n");
    let error = failure(&["merge", &adapter, "--out", &out]);
    assert!(error.contains("peft merge-adapter --model org/a --adapter org/lora"), "{error}");

    let missing = place.write("missing.yaml", "merge_method: passthrough\nmodels: [{model: nowhere}]\n");
    assert!(failure(&["merge", &missing, "--out", &out]).contains("no such directory"));
}
