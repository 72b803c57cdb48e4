//! Compressed adapters and checkpoints through the program, on the embedded tiny model.

mod common;

use common::{Place, TINY, failure, peft, result};
use serde_json::Value;

const TRAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/quickstart/train.jsonl");
const EVAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/quickstart/eval.jsonl");

fn perplexity(model: &[&str]) -> f64 {
    let eval = ["eval", "--data", EVAL, "--metric", "perplexity", "--limit", "64"];
    result(&[&eval, model].concat())["perplexity"].as_f64().unwrap()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

#[test]
fn an_adapter_is_searched_compressed_served_and_restored() {
    let place = Place::new();
    let (adapter, file, again) = (place.path("adapter"), place.path("adapter.cpft"), place.path("again"));
    let trained = ["--max-steps", "60", "--batch-size", "16", "--lr", "0.003", "--r", "8", "--target-modules", "all-linear"];
    result(&[&["finetune", "--model", TINY, "--data", TRAIN, "--out", &adapter], trained.as_slice()].concat());
    let (base, tuned) = (perplexity(&["--model", TINY]), perplexity(&["--model", TINY, "--adapter", &adapter]));
    assert!(tuned < base / 2.0, "{base} -> {tuned}");

    let grid = ["--density", "0.1,0.3", "--alpha", "1,2,40", "--search", EVAL, "--limit", "64"];
    let done = result(&[&["compress", &adapter, "--base", TINY, "--out", &file], grid.as_slice()].concat());
    let tried = done["search"]["tried"].as_array().unwrap();
    assert_eq!(tried.len(), 6);
    let lowest = tried.iter().filter_map(|tried| tried["perplexity"].as_f64()).fold(f64::INFINITY, f64::min);
    assert_eq!(number(&done["search"], "perplexity"), lowest);
    assert!((number(&done["search"], "perplexity_uncompressed") / tuned - 1.0).abs() < 1e-6);
    assert!(number(&done, "times_smaller") > 8.0, "{done}");
    assert_eq!(number(&done, "kept"), (number(&done, "density") * number(&done, "elements")).floor());
    assert_eq!(number(&done, "bytes"), std::fs::metadata(&file).unwrap().len() as f64);

    let served = perplexity(&["--model", TINY, "--adapter", &file]);
    assert!((served / lowest - 1.0).abs() < 1e-6, "{served} is what the search has found, {lowest}");
    assert!(served < tuned + 0.25 * (base - tuned), "{base} -> {tuned}, compressed {served}");
    result(&["decompress", &file, "--out", &again]);
    assert_eq!(perplexity(&["--model", TINY, "--adapter", &again]), served, "the directory holds the same numbers");
    let config = |dir: &str| std::fs::read_to_string(format!("{dir}/adapter_config.json")).unwrap();
    assert_eq!(config(&again), config(&adapter));

    let kind = result(&["inspect", &file]);
    assert_eq!((kind["kind"].as_str(), &kind["parameters"]), (Some("compressed adapter"), &done["elements"]));
    let text = result(&["generate", "--model", TINY, "--adapter", &file, "--prompt", "mirror: solina = ", "--max-new-tokens", "8"]);
    assert!(text["results"][0]["text"].is_string());
    result(&["merge-adapter", "--model", TINY, "--adapter", &file, "--out", &place.path("merged")]);
}

#[test]
fn a_full_fine_tune_is_compressed_against_its_base_and_restored() {
    let place = Place::new();
    let (full, file, again) = (place.path("full"), place.path("full.cpft"), place.path("again"));
    let trained = ["--method", "full", "--max-steps", "30", "--batch-size", "16", "--lr", "0.001"];
    result(&[&["finetune", "--model", TINY, "--data", TRAIN, "--out", &full], trained.as_slice()].concat());
    let (base, tuned) = (perplexity(&["--model", TINY]), perplexity(&["--model", &full]));
    let done = result(&["compress", &full, "--base", TINY, "--density", "0.2", "--alpha", "2", "--out", &file]);
    assert!(number(&done, "times_smaller") > 15.0, "{done}");
    result(&["decompress", &file, "--base", TINY, "--out", &again]);
    let restored = perplexity(&["--model", &again]);
    assert!(restored < tuned + 0.25 * (base - tuned), "{base} -> {tuned}, compressed {restored}");

    let searched = ["--density", "0.2", "--alpha", "2,3", "--search", EVAL, "--limit", "64", "--overwrite"];
    let done = result(&[&["compress", &full, "--base", TINY, "--out", &file], searched.as_slice()].concat());
    let first = &done["search"]["tried"][0];
    assert!((number(first, "perplexity") / restored - 1.0).abs() < 1e-6, "{first} is what was restored, {restored}");

    let said = failure(&["decompress", &file, "--out", &place.path("x")]);
    assert!(said.contains("--base"), "{said}");
    let said = failure(&["decompress", &file, "--base", &full, "--out", &place.path("x")]);
    assert!(said.contains("checksum") && !place.file("x").exists(), "{said}");
    let said = failure(&["eval", "--model", TINY, "--adapter", &file, "--data", EVAL, "--metric", "perplexity"]);
    assert!(said.contains("no adapter"), "{said}");
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_no_file() {
    let place = Place::new();
    let (data, adapter, file) = (place.data(), place.path("adapter"), place.path("adapter.cpft"));
    result(&["finetune", "--model", TINY, "--data", &data, "--max-steps", "2", "--out", &adapter]);
    let compress = |more: &[&str]| {
        let said = failure(&[&["compress", &adapter, "--out", &file], more].concat());
        assert!(!place.file("adapter.cpft").exists(), "{said}");
        said
    };
    assert!(compress(&["--density", "0"]).contains("density of 0"));
    assert!(compress(&["--density", "0.1,0.2"]).contains("--search"));
    assert!(compress(&["--alpha", "0"]).contains("alpha of 0"));
    assert_eq!(peft(&["compress", &adapter, "--out", &file, "--search", EVAL]).status.code(), Some(2), "--search needs --base");
    let said = failure(&["compress", TINY, "--out", &file]);
    assert!(said.contains("--base"), "{said}");

    result(&["compress", &adapter, "--out", &file]);
    assert!(failure(&["compress", &adapter, "--out", &file]).contains("--overwrite"));
    let output = peft(&["compress", &adapter, "--base", TINY, "--out", &place.path("idle.cpft")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--base has no effect"), "{said}");
    let warned = |file: &str| {
        let output = peft(&["compress", &adapter, "--out", &place.path(file)]);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).contains("tokenizer or chat template of its own")
    };
    assert!(!warned("plain.cpft"));
    place.write("adapter/chat_template.jinja", "{{ messages[0].content }}");
    assert!(warned("own.cpft"), "a template that the compressed file cannot hold");
    let bytes = std::fs::read(&file).unwrap();
    let eval = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        failure(&["eval", "--model", TINY, "--adapter", &file, "--data", &data, "--metric", "perplexity"])
    };
    let said = eval(&bytes[..bytes.len() / 2]);
    assert!(said.contains("truncated") && said.contains("adapter.cpft"), "{said}");
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 8;
    assert!(eval(&damaged).contains("checksum"));
    assert!(eval(b"something else entirely").contains("not a compressed expert"));
}
