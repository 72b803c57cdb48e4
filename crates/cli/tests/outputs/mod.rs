//! Outputs through the program: what a fault or a second process leaves, and what may not be an output.

mod faults;
mod inputs;
mod streams;
#[cfg(unix)]
mod two_processes;

use crate::common::{Place, TINY, peft, result};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

fn fixture(name: &str) -> String {
    format!("{}/../../fixtures/merge/models/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// All files below a directory by their paths from there, links by where they lead.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), format!("{prefix}{}", entry.file_name().to_string_lossy()));
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                walk(&path, &format!("{name}/"), found);
            } else if kind.is_symlink() {
                found.insert(name, std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
            } else if kind.is_file() {
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, "", &mut found);
    found
}

/// An adapter of the tiny model in `name`, trained for a step.
fn adapter(place: &Place, name: &str, seed: &str) -> String {
    let (data, out) = (place.data(), place.path(name));
    result(&["finetune", "--model", TINY, "--data", &data, "--max-steps", "1", "--r", "2", "--lr", "0.1", "--seed", seed, "--out", &out]);
    out
}

/// A recipe of two small models, which are `a` and `b` with this weight.
fn recipe(place: &Place, name: &str, weight: f64) -> String {
    let models = [(fixture("a"), weight), (fixture("b"), 1.0)];
    let models = models.map(|(model, weight)| json!({ "model": model, "parameters": { "weight": weight } }));
    place.write(name, &json!({ "merge_method": "linear", "models": models }).to_string())
}

/// The last line on stderr of a run that ends with 1.
fn refusal(arguments: &[&str]) -> String {
    crate::common::failure(arguments)
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

fn succeeds(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = peft(&arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
