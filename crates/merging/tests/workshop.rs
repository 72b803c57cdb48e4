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
    let shards: Vec<String> = plan.shards(8000).unwrap().into_iter().map(|shard| shard.name).collect();
    assert!(shards.len() > 3, "{shards:?}");
    leave(&plan, &out, 8000);
    for name in &shards[2..] {
        std::fs::remove_file(waiting.join(name)).unwrap();
    }
    std::fs::write(waiting.join(".model-00003-of-00009.safetensors.partial-1-AbCdEf"), "half").unwrap();

    let finished = write(&plan, &out, 8000);
    assert_eq!(finished.kept, 2);
    for name in shards.iter().map(String::as_str).chain([INDEX_FILE, "config.json"]) {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), std::fs::read(whole.join(name)).unwrap(), "{name}");
    }
    assert!(!waiting.exists());
    Checkpoint::open(&out).unwrap();
}

#[test]
fn a_workshop_without_a_complete_file_goes_away() {
    let place = tempfile::tempdir().unwrap();
    let (out, waiting) = (place.path().join("merged"), place.path().join(".merged.merging"));
    let plan = fixture_plan("linear");
    let leave_idle = || {
        std::fs::create_dir(&waiting).unwrap();
        std::fs::write(waiting.join("merge.json"), "{}").unwrap();
        std::fs::write(waiting.join(".model.safetensors.partial-1-AbCdEf"), "half").unwrap();
    };
    // A kill before the first file, and one behind the last: the next command removes what is left, also where it is refused.
    leave_idle();
    write(&plan, &out, 8000);
    leave_idle();
    assert!(Workshop::open(&plan, &out, false, 8000).unwrap_err().to_string().contains("exists already"));
    assert!(!waiting.exists());
    // With a complete file it waits, as the merge that replaces the result may go on.
    leave_idle();
    std::fs::write(waiting.join("model-00001-of-00009.safetensors"), "").unwrap();
    Workshop::open(&plan, &out, false, 8000).unwrap_err();
    assert!(waiting.exists());
}

#[test]
fn a_merge_that_fails_at_once_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    checkpoint(&place.path().join("a"), &[("w.weight", &[4], vec![1.0, f32::NAN, 0.0, 0.0])]);
    checkpoint(&place.path().join("b"), &[("w.weight", &[4], numbers(4, 1))]);
    for name in ["a", "b"] {
        std::fs::write(place.path().join(name).join("config.json"), "{}").unwrap();
    }
    let recipe = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n";
    let plan = plan_in(place.path(), recipe).unwrap();
    let error = Workshop::open(&plan, &place.path().join("out"), false, 8000).unwrap().run(&|_| ()).unwrap_err().to_string();
    assert!(error.contains("w.weight"), "{error}");
    let mut left: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["a", "b"]);
}

#[test]
fn files_of_another_recipe_are_not_kept() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("merged");
    let (one, other) = (fixture_plan("linear"), fixture_plan("linear_plain"));
    leave(&one, &out, 8000);
    assert_eq!(write(&other, &out, 8000).kept, 0);
}

/// A merge up to its end, which does not come.
fn leave(plan: &Plan, out: &Path, shard_bytes: u64) {
    assert_eq!(Workshop::open(plan, out, false, shard_bytes).unwrap().compute(&|_| ()).unwrap(), 0);
}

/// Two recipes that make files of the same names and shapes: what one has left must not end in the result of the other.
#[test]
fn what_waits_is_kept_by_its_content_and_not_by_its_name() {
    let place = tempfile::tempdir().unwrap();
    let (one, other) = (fixture_plan("linear"), fixture_plan("ties"));
    let (out, whole, strange) = (place.path().join("merged"), place.path().join("whole"), place.path().join("strange"));
    write(&one, &whole, 8000);
    write(&other, &strange, 8000);
    leave(&one, &out, 8000);
    let waiting = place.path().join(".merged.merging");
    let names: Vec<String> = one.shards(8000).unwrap().into_iter().map(|shard| shard.name).collect();
    let bytes = |dir: &Path, name: &str| std::fs::read(dir.join(name)).unwrap();
    let (a, b) = (bytes(&whole, &names[0]), bytes(&strange, &names[0]));
    assert!(a.len() == b.len() && a != b, "the recipes differ in numbers alone");

    // A file of the other merge, one that is cut, and one with a changed number.
    std::fs::write(waiting.join(&names[0]), b).unwrap();
    let cut = bytes(&waiting, &names[1]);
    std::fs::write(waiting.join(&names[1]), &cut[..cut.len() - 1]).unwrap();
    let mut changed = bytes(&waiting, &names[2]);
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(waiting.join(&names[2]), changed).unwrap();
    std::fs::create_dir(waiting.join("model-1")).unwrap();
    assert_eq!(write(&one, &out, 8000).kept, names.len() - 3);
    for name in &names {
        assert_eq!(bytes(&out, name), bytes(&whole, name), "{name}");
    }
}

#[test]
fn an_input_that_has_changed_starts_a_merge_anew_also_if_size_and_date_are_the_same() {
    let place = tempfile::tempdir().unwrap();
    let model = |name: &str, seed: u32| checkpoint(&place.path().join(name), &[("w.weight", &[4], numbers(4, seed))]);
    model("a", 1);
    model("b", 2);
    for name in ["a", "b"] {
        std::fs::write(place.path().join(name).join("config.json"), "{}").unwrap();
    }
    let recipe = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n";
    let out = place.path().join("out");
    leave(&plan_in(place.path(), recipe).unwrap(), &out, 8000);
    assert_eq!(Workshop::open(&plan_in(place.path(), recipe).unwrap(), &out, false, 8000).unwrap().compute(&|_| ()).unwrap(), 1);

    let file = place.path().join("b/model.safetensors");
    let date = std::fs::metadata(&file).unwrap().modified().unwrap();
    model("b", 3);
    std::fs::File::options().append(true).open(&file).unwrap().set_modified(date).unwrap();
    assert_eq!(write(&plan_in(place.path(), recipe).unwrap(), &out, 8000).kept, 0);
}

#[test]
fn two_merges_cannot_write_to_one_place() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("merged");
    let plan = fixture_plan("linear");
    let first = Workshop::open(&plan, &out, false, 8000).unwrap();
    let error = Workshop::open(&plan, &out, true, 8000).unwrap_err().to_string();
    assert!(error.contains("merged: is another output of this command too"), "{error}");
    first.run(&|_| ()).unwrap();
    write_again(&plan, &out);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left beside the result");
}

fn write_again(plan: &Plan, out: &Path) {
    Workshop::open(plan, out, true, 8000).unwrap().run(&|_| ()).unwrap();
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
    let error = Workshop::open(&plan, &out, true, 1 << 30).unwrap_err().to_string();
    assert!(error.contains("holds files that peft has not written there (mine)"), "{error}");
    std::fs::remove_file(out.join("mine")).unwrap();
    write_again(&plan, &out);
    std::fs::write(out.join("mine"), "").unwrap();
    let error = Workshop::open(&plan, &out, true, 1 << 30).unwrap_err().to_string();
    assert!(error.contains("(mine)"), "{error}");
    assert!(out.join("mine").exists() && out.join("model.safetensors.index.json").exists());
}

#[test]
fn a_recipe_cannot_be_made_from_its_own_result() {
    let plan = fixture_plan("linear");
    let error = Workshop::open(&plan, &fixtures().join("models/b"), true, 1 << 30).unwrap_err().to_string();
    assert!(error.contains("is a model of the recipe (") && error.contains("b), "), "{error}");
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
