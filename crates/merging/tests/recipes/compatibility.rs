//! Models that compute in different ways, or mean other tokens, are not mixed in silence.

use crate::common::{checkpoint, computed, numbers, plan_in, read, tokenizer, write};
use peft_merge::{ModelDir, Plan, Recipe};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const LINEAR: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";

fn models(root: &Path, tokens: bool) {
    for (name, seed) in [("a", 1), ("b", 2)] {
        let dir = root.join(name);
        checkpoint(&dir, &[("model.embed_tokens.weight", &[4, 3], numbers(12, seed)), ("model.norm.weight", &[3], numbers(3, seed))]);
        let config = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "num_attention_heads": 4, "rope_theta": 10000.0,
            "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "eos_token_id": 2, "transformers_version": "4.40.0",
        });
        write(&dir, "config.json", config);
        if tokens {
            tokenizer(&dir, &["x", "y", "z", "pad"]);
        }
    }
}

fn change(dir: &Path, name: &str, value: Value) {
    let mut config = read(dir, "config.json");
    config[name] = value;
    write(dir, "config.json", config);
}

/// The plan that goes on whatever differs.
fn allowed(root: &Path) -> Plan {
    let mut recipe = Recipe::parse(LINEAR).unwrap();
    recipe.allow_incompatible = true;
    let dir = |name: &peft_merge::ModelRef| (name.clone(), ModelDir { model: root.join(&name.model), adapter: None });
    let dirs: BTreeMap<_, _> = recipe.models().into_iter().map(dir).collect();
    Plan::new(recipe, &dirs, 0).unwrap()
}

#[test]
fn every_setting_that_changes_what_is_computed_is_named_with_both_values() {
    let place = tempfile::tempdir().unwrap();
    models(place.path(), true);
    let b = place.path().join("b");
    for (name, value) in [("rope_theta", json!(500_000.0)), ("num_attention_heads", json!(2)), ("hidden_act", json!("gelu"))] {
        change(&b, name, value);
    }
    let error = plan_in(place.path(), LINEAR).unwrap_err().to_string();
    for said in [
        "a and b compute in different ways",
        "rope_theta is 10000 in a and 500000 in b",
        "num_attention_heads is 4 in a and 2 in b",
        "hidden_act is silu in a and gelu in b",
        "pass --allow-incompatible",
    ] {
        assert!(error.contains(said), "{error}");
    }
    let plan = allowed(place.path());
    assert!(plan.warnings.iter().any(|warning| warning.contains("rope_theta is 10000 in a and 500000 in b")), "{:?}", plan.warnings);
    let mean: Vec<f32> = numbers(3, 1).iter().zip(numbers(3, 2)).map(|(a, b)| (a + b) / 2.0).collect();
    assert_eq!(computed(&plan, "model.norm.weight"), mean);
}

#[test]
fn settings_that_change_nothing_are_no_reason_to_refuse() {
    let place = tempfile::tempdir().unwrap();
    models(place.path(), true);
    let b = place.path().join("b");
    for (name, value) in [
        ("transformers_version", json!("5.0.0")),
        ("torch_dtype", json!("bfloat16")),
        ("use_cache", json!(false)),
        ("_name_or_path", json!("org/b")),
        ("max_position_embeddings", json!(8192)),
        ("eos_token_id", json!([1, 2])),
        ("hidden_act", json!("swish")),
        ("num_key_value_heads", json!(4)),
    ] {
        change(&b, name, value);
    }
    let plan = plan_in(place.path(), LINEAR).unwrap();
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    change(&b, "router_of_tomorrow", json!("on"));
    let plan = plan_in(place.path(), LINEAR).unwrap();
    assert!(plan.warnings[0].contains("router_of_tomorrow is not set in a and on in b"), "{:?}", plan.warnings);
}

#[test]
fn classes_in_another_order_are_not_mixed() {
    let place = tempfile::tempdir().unwrap();
    models(place.path(), true);
    let label = |name: &str, first: &str, second: &str| change(&place.path().join(name), "id2label", json!({ "0": first, "1": second }));
    label("a", "good", "bad");
    label("b", "LABEL_0", "LABEL_1");
    plan_in(place.path(), LINEAR).unwrap();
    label("b", "bad", "good");
    let error = plan_in(place.path(), LINEAR).unwrap_err().to_string();
    assert!(error.contains("class 0 is `good` in one and `bad` in the other"), "{error}");
}

#[test]
fn vocabularies_without_tokenizer_json_are_compared_by_what_there_is() {
    let place = tempfile::tempdir().unwrap();
    let error = |prepare: &dyn Fn(&Path, &Path)| {
        models(place.path(), false);
        let dirs = ["a", "b"].map(|name| place.path().join(name));
        for dir in &dirs {
            for name in ["tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "added_tokens.json"] {
                std::fs::remove_file(dir.join(name)).ok();
            }
        }
        prepare(&dirs[0], &dirs[1]);
        match plan_in(place.path(), LINEAR) {
            Ok(plan) => plan.warnings.join("; "),
            Err(error) => format!("refused: {error}"),
        }
    };
    let text = |dir: &Path, name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    let tokens = |dir: &Path| tokenizer(dir, &["x", "y", "z", "pad"]);

    let alone = error(&|a, b| {
        tokens(a);
        text(b, "tokenizer.model", "");
    });
    assert!(alone.starts_with("refused: ") && alone.contains("b has tokenizer.model, and no tokenizer.json to compare"), "{alone}");
    assert_eq!(error(&|a, b| [a, b].into_iter().for_each(|dir| text(dir, "tokenizer.model", "same"))), "");
    let models_differ = error(&|a, b| {
        text(a, "tokenizer.model", "one");
        text(b, "tokenizer.model", "other");
    });
    assert!(models_differ.contains("refused: ") && models_differ.contains("tokenizer.model of one is not"), "{models_differ}");
    let lines = error(&|a, b| {
        tokens(a);
        text(b, "vocab.txt", "x\nz\ny\npad\n");
    });
    assert!(lines.contains("number 1 is `y` in one and `z` in the other"), "{lines}");
    let same = error(&|a, b| {
        tokens(a);
        write(b, "vocab.json", json!({ "x": 0, "y": 1, "z": 2 }));
        write(b, "added_tokens.json", json!({ "pad": 3 }));
    });
    assert_eq!(same, "");
    let none = error(&|a, _| tokens(a));
    assert_eq!(none, "b has no tokenizer: that it has the tokens of the others is not checked");
}
