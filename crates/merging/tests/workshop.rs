//! Writing a merge: what is in the directory, and what an interrupted run leaves.

mod common;

use common::{checkpoint, fixture_plan, fixtures, numbers, plan_in, tokenizer};
use peft_core::files::{Checkpoint, INDEX_FILE, read_json};
use peft_merge::{Plan, Workshop};
use serde_json::{Value, json};
use std::path::Path;

fn write(plan: &Plan, out: &Path, shard_bytes: u64) -> peft_merge::Finished {
    Workshop::open(plan, out, false, shard_bytes).unwrap().run(&|_| ()).unwrap()
}

#[test]
fn the_result_is_a_checkpoint_with_configuration_tokenizer_and_card() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("merged");
    let plan = fixture_plan("passthrough");
    write(&plan, &out, u64::MAX);
    let merged = Checkpoint::open(&out).unwrap();
    assert_eq!(merged.keys().count(), plan.weights.len());
    let config: Value = read_json(&out.join("config.json")).unwrap();
    assert_eq!(config["num_hidden_layers"], 4);
    assert_eq!(config["vocab_size"], merged.info("lm_head.weight").unwrap().shape[0]);
    let tokenizer = |dir: &Path| std::fs::read(dir.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer(&out), tokenizer(&fixtures().join("models/a")));
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.starts_with("---\nlibrary_name: transformers\n") && card.contains("layer_range:") && card.contains("# merged"), "{card}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left beside the result");
}

#[test]
fn a_union_of_vocabularies_gets_its_own_tokenizer_and_size() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("merged");
    let plan = fixture_plan("tokens_union");
    write(&plan, &out, u64::MAX);
    let tokenizer: Value = read_json(&out.join("tokenizer.json")).unwrap();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let position = |token: &str| added.iter().position(|entry| entry["content"] == token);
    assert!(position("<x>").is_some() && position("<z>").is_some());
    let config: Value = read_json(&out.join("config.json")).unwrap();
    assert_eq!(config["vocab_size"], plan.alignment.as_ref().unwrap().rows);
}

#[test]
fn an_interrupted_merge_goes_on_with_the_files_that_are_complete() {
    let place = tempfile::tempdir().unwrap();
    let (out, whole) = (place.path().join("merged"), place.path().join("whole"));
    let plan = fixture_plan("dare_ties");
    write(&plan, &whole, 8000);
    let waiting = place.path().join(".merged.merging");

    // What a killed run leaves: complete files, and one that was being written.
    let workshop = Workshop::open(&plan, &out, false, 8000).unwrap();
    let shards: Vec<String> = plan.shards(8000).unwrap().into_iter().map(|shard| shard.name).collect();
    assert!(shards.len() > 3, "{shards:?}");
    for name in &shards[..2] {
        std::fs::copy(whole.join(name), waiting.join(name)).unwrap();
    }
    std::fs::write(waiting.join(".tmpAbC"), "half").unwrap();
    drop(workshop);

    let finished = write(&plan, &out, 8000);
    assert_eq!(finished.kept, 2);
    for name in shards.iter().map(String::as_str).chain([INDEX_FILE, "config.json"]) {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), std::fs::read(whole.join(name)).unwrap(), "{name}");
    }
    assert!(!waiting.exists());
    Checkpoint::open(&out).unwrap();
}

#[test]
fn files_of_another_recipe_are_not_kept() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("merged");
    let (one, other) = (fixture_plan("linear"), fixture_plan("linear_plain"));
    let waiting = place.path().join(".merged.merging");
    Workshop::open(&one, &out, false, 8000).unwrap();
    one.write(&waiting, 8000, &|_| ()).unwrap();
    assert_eq!(write(&other, &out, 8000).kept, 0);
}

#[test]
fn an_output_with_content_is_kept_unless_it_is_to_be_replaced() {
    let place = tempfile::tempdir().unwrap();
    let plan = fixture_plan("linear");
    let out = place.path().join("merged");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "").unwrap();
    let error = Workshop::open(&plan, &out, false, 1 << 30).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
    Workshop::open(&plan, &out, true, 1 << 30).unwrap().run(&|_| ()).unwrap();
    assert!(!out.join("mine").exists() && out.join("model.safetensors").exists());
}

#[test]
fn a_recipe_cannot_be_made_from_its_own_result() {
    let plan = fixture_plan("linear");
    let error = Workshop::open(&plan, &fixtures().join("models/b"), true, 1 << 30).unwrap_err().to_string();
    assert!(error.contains("b is a model of the recipe"), "{error}");
}

#[test]
fn kinds_of_layers_and_types_of_numbers_are_told_in_the_configuration() {
    let place = tempfile::tempdir().unwrap();
    for model in ["a", "b"] {
        let dir = place.path().join(model);
        checkpoint(&dir, &[("model.layers.0.w.weight", &[2], numbers(2, 1)), ("model.layers.1.w.weight", &[2], numbers(2, 2))]);
        let config = json!({ "num_hidden_layers": 2, "layer_types": [format!("{model}0"), format!("{model}1")], "dtype": "float32" });
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        tokenizer(&dir, &["x"]);
        std::fs::write(dir.join("tokenizer_config.json"), json!({ "chat_template": "{{ hello }}" }).to_string()).unwrap();
    }
    let recipe = "merge_method: passthrough\ndtype: bfloat16\nchat_template: auto\nslices:\n  - sources: [{model: a, layer_range: [1, 2]}]\n  \
                  - sources: [{model: b, layer_range: [0, 2]}]\n";
    let out = place.path().join("out");
    write(&plan_in(place.path(), recipe).unwrap(), &out, 1 << 30);
    let config: Value = read_json(&out.join("config.json")).unwrap();
    assert_eq!(config, json!({ "num_hidden_layers": 3, "layer_types": ["a1", "b0", "b1"], "dtype": "bfloat16" }));
    assert_eq!(std::fs::read_to_string(out.join("chat_template.jinja")).unwrap(), "{{ hello }}");
}
