//! Numbers of special tokens by the tokenizer of the result. The right ones follow from the vocabularies.

use crate::common::{checkpoint, numbers, plan_in, read, tokenizer, write};
use serde_json::{Value, json};
use std::path::Path;

const LINEAR: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";

/// A model with these tokens and files.
fn model(root: &Path, name: &str, tokens: &[&str], config: Value, generation: Option<Value>) {
    let dir = root.join(name);
    let seed = u32::from(name.as_bytes()[0]);
    checkpoint(&dir, &[("model.embed_tokens.weight", &[tokens.len(), 3], numbers(3 * tokens.len(), seed))]);
    tokenizer(&dir, tokens);
    write(&dir, "config.json", config);
    if let Some(generation) = generation {
        write(&dir, "generation_config.json", generation);
    }
}

/// What is beside the weights of the merge.
fn extras(root: &Path, tokenizer: &str) -> [Value; 2] {
    let out = root.join("out");
    std::fs::create_dir_all(&out).unwrap();
    plan_in(root, &format!("{LINEAR}{tokenizer}\n")).unwrap().write_extras(&out).unwrap();
    ["config.json", "generation_config.json"].map(|name| read(&out, name))
}

const OURS: [&str; 6] = ["<s>", "</s>", "<pad>", "<eot>", "x", "y"];
const THEIRS: [&str; 6] = ["</s>", "<s>", "y", "x", "<eot>", "<pad>"];

#[test]
fn they_are_those_of_the_model_that_gives_the_tokenizer() {
    let place = tempfile::tempdir().unwrap();
    let ids =
        json!({ "bos_token_id": 0, "eos_token_id": [1, 3], "pad_token_id": 2, "decoder_start_token_id": 0, "forced_eos_token_id": 1 });
    let mut generation = ids.clone();
    generation["temperature"] = json!(0.7);
    model(place.path(), "a", &OURS, ids, Some(generation));
    model(place.path(), "b", &THEIRS, json!({ "bos_token_id": 1, "eos_token_id": 0 }), None);
    for source in ["tokenizer_source: b", "tokenizer: {source: b}"] {
        let [config, generation] = extras(place.path(), source);
        // What b does not say is translated token by token; of several ends of a text none is lost.
        let expected =
            json!({ "bos_token_id": 1, "eos_token_id": [0, 4], "pad_token_id": 5, "decoder_start_token_id": 1, "forced_eos_token_id": 0 });
        for (name, id) in expected.as_object().unwrap() {
            assert_eq!((&config[name], &generation[name]), (id, id), "{source}: {name}");
        }
        assert_eq!((&config["vocab_size"], &generation["temperature"]), (&json!(6), &json!(0.7)));
    }
    for source in ["tokenizer_source: base", "tokenizer_source: union"] {
        let [config, generation] = extras(place.path(), source);
        assert_eq!(
            (&config["eos_token_id"], &generation["eos_token_id"], &config["pad_token_id"]),
            (&json!([1, 3]), &json!([1, 3]), &json!(2))
        );
    }
}

#[test]
fn generation_ends_where_the_model_of_the_tokenizer_ends_it() {
    let place = tempfile::tempdir().unwrap();
    model(place.path(), "a", &OURS, json!({ "eos_token_id": 1 }), None);
    let donor = json!({ "eos_token_id": [0, 4], "temperature": 0.1 });
    model(place.path(), "b", &THEIRS, json!({ "eos_token_id": 0 }), Some(donor));
    let [config, generation] = extras(place.path(), "tokenizer_source: b");
    assert_eq!((&config["eos_token_id"], generation), (&json!(0), json!({ "eos_token_id": [0, 4] })), "no other setting of b");
}

#[test]
fn a_tokenizer_without_a_model_says_them_itself_and_the_rest_is_translated() {
    let place = tempfile::tempdir().unwrap();
    let text = json!({ "eos_token_id": [1, 3, 4], "pad_token_id": -1, "bos_token_id": 0, "vocab_size": 6 });
    let config = json!({ "model_type": "x", "image_token_index": 4, "text_config": text, "bad_words_ids": [[4, 5], [1]] });
    model(place.path(), "a", &OURS, config.clone(), Some(json!({ "eos_token_id": [1, 3, 4] })));
    model(place.path(), "b", &OURS, config, None);
    let donor = place.path().join("t");
    write(&donor, "tokenizer_config.json", json!({ "eos_token": { "content": "<eot>" }, "bos_token": "<s>" }));
    // As many tokens as the models have, so that a count tells nothing.
    tokenizer(&donor, &THEIRS);
    let [config, generation] = extras(place.path(), "tokenizer_source: t");
    let text = &config["text_config"];
    assert_eq!((&text["eos_token_id"], &text["pad_token_id"], &text["bos_token_id"]), (&json!([4, 0, 3]), &json!(-1), &json!(1)));
    assert_eq!((&config["image_token_index"], &config["bad_words_ids"]), (&json!(3), &json!([[3, 2], [0]])));
    assert_eq!((&text["vocab_size"], &generation["eos_token_id"]), (&json!(6), &json!([4, 0, 3])));
    let written = read(&place.path().join("out"), "tokenizer.json");
    assert_eq!(written, read(&donor, "tokenizer.json"), "the tokenizer is the one that was named");
    assert_eq!(read(&place.path().join("out"), "tokenizer_config.json")["bos_token"], json!("<s>"));
}

#[test]
fn a_token_that_the_result_lacks_has_no_number() {
    let place = tempfile::tempdir().unwrap();
    model(place.path(), "a", &OURS, json!({ "eos_token_id": [3, 1], "pad_token_id": 2, "bos_token_id": null }), Some(json!({})));
    model(place.path(), "b", &["</s>", "<s>", "x"], json!({}), None);
    let [config, _] = extras(place.path(), "tokenizer_source: b");
    assert_eq!((&config["eos_token_id"], &config["pad_token_id"]), (&json!([0]), &json!(null)));
}

#[test]
fn tokens_declared_beside_the_tokenizer_count() {
    let place = tempfile::tempdir().unwrap();
    for (name, added) in [("a", "<im_end>"), ("b", "<im_start>")] {
        model(place.path(), name, &["<s>", "</s>"], json!({}), Some(json!({})));
        checkpoint(&place.path().join(name), &[("model.embed_tokens.weight", &[3, 3], numbers(9, 4))]);
        write(&place.path().join(name), "tokenizer_config.json", json!({ "added_tokens_decoder": { "2": { "content": added } } }));
    }
    let error = plan_in(place.path(), LINEAR).unwrap_err().to_string();
    assert!(error.contains("number 2 is `<im_end>` in one and `<im_start>` in the other"), "{error}");
    let plan = plan_in(place.path(), &format!("{LINEAR}tokenizer_source: union\n")).unwrap();
    assert_eq!(plan.alignment.unwrap().tokenizer.ids["<im_start>"], 3);
}
