//! The program on the embedded tiny model, and places for its files.
#![allow(dead_code)]

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny");

pub fn peft(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_peft")).args(arguments).output().expect("the program starts")
}

/// The result on stdout of a run that must succeed.
pub fn result(arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    let output = peft(&arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout")
}

/// The last line on stderr of a run that must fail.
pub fn failure(arguments: &[&str]) -> String {
    let output = peft(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?} must fail");
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.lines().last().unwrap_or_default().to_string()
}

/// A directory that goes away.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn path(&self, name: &str) -> String {
        self.file(name).to_string_lossy().into_owned()
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.file(name), text).unwrap();
        self.path(name)
    }

    /// A training file of the tiny model's own kind.
    pub fn data(&self) -> String {
        let line = |word: &str| json!({ "prompt": format!("mirror: {word} = "), "completion": word.to_uppercase() }).to_string();
        self.write("train.jsonl", &["badu", "solina", "keto", "miru", "papi", "duno"].map(line).join("\n"))
    }

    /// A copy of the tiny checkpoint, to be damaged.
    pub fn checkpoint(&self) -> PathBuf {
        let to = self.file("model");
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(TINY).unwrap().flatten() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    }
}

/// The loss of every step of the run that wrote into `out`.
pub fn losses(out: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(Path::new(out).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap()).collect()
}
