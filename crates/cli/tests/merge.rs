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

    assert_eq!(weights[0]["settings"], "weight 0.5; density 0.5; normalize true; rescale false; lambda 1; int8_mask false");

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

    let field = place.write("field.yaml", "merge_method: linear\nmodles: [{model: a}]\n");
    let error = failure(&["merge", &field, "--out", &out]);
    assert!(error.contains("unknown field `modles`"), "{error}");

    let cycle = place.write("cycle.yaml", "merge_method: linear\nmodels: &models [{model: a}, *models]\n");
    let error = failure(&["merge", &cycle, "--out", &out]);
    assert!(error.contains("an alias refers to what it is a part of"), "{error}");

    let adapter = place.write("adapter.yaml", &format!("merge_method: passthrough\nmodels: [{{model: {TINY}+{TINY}}}]\n"));
    let error = failure(&["merge", &adapter, "--out", &out]);
    assert!(error.contains("is no adapter: it has no adapter_config.json"), "{error}");
    assert!(!Path::new(&out).exists());

    let error = failure(&["merge", TINY, "--out", &out]);
    assert!(error.contains("a directory, where a recipe is asked for"), "{error}");

    let missing = place.write("missing.yaml", "merge_method: passthrough\nmodels: [{model: nowhere}]\n");
    assert!(failure(&["merge", &missing, "--out", &out]).contains("no such directory"));
}

#[test]
fn a_model_that_is_cut_or_has_no_tokenizer() {
    let place = Place::new();
    let (checkpoint, out) = (place.checkpoint(), place.path("merged"));
    let path = checkpoint.to_string_lossy();
    let text = format!("merge_method: linear\nmodels: [{{model: {TINY}}}, {{model: {path}}}]\nparameters: {{weight: 1}}\n");
    let recipe = place.write("recipe.yaml", &text);
    std::fs::remove_file(checkpoint.join("tokenizer.json")).unwrap();
    result(&["merge", &recipe, "--out", &out]);
    assert!(Path::new(&out).join("tokenizer.json").exists(), "the other model's");

    let file = checkpoint.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = failure(&["merge", &recipe, "--out", &place.path("other")]);
    assert!(error.contains("model/model.safetensors") && error.contains("truncated"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_files_that_are_complete() {
    let place = Place::new();
    let out = place.path("merged");
    let recipe = place.write("recipe.yaml", &format!("merge_method: passthrough\nmodels: [{{model: {TINY}}}]\n"));
    let merge = ["merge", &recipe, "--out", &out, "--shard-size", "30KB"];
    // Files may grow to 40 KiB, which the embedding does not reach, and the first matrix of a layer does.
    let script = "trap '' XFSZ; ulimit -f 80; exec \"$@\"";
    let mut command = std::process::Command::new("sh");
    let output = command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_peft")]).args(merge).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains(".safetensors: File too large"), "{stderr}");
    assert!(!Path::new(&out).exists());
    let waiting: Vec<String> = std::fs::read_dir(place.path(".merged.merging"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != "merge.json")
        .collect();
    assert!(!waiting.is_empty() && waiting.iter().all(|name| name.starts_with("model-000")), "{waiting:?}");
    assert_eq!(result(&merge)["kept_files"], waiting.len());
    result(&["logits", "--model", &out, "--tokens", "1,2,3", "--out", &place.path("logits.safetensors")]);
}
