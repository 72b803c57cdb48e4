//! Files that nobody would write on purpose: whatever they hold, reading them gives a value or an error. It never panics, never hangs
//! and never takes much memory.
//!
//! Each property runs a few dozen cases; `PROPTEST_CASES=100000` runs that many. A case that fails is kept in `proptest-regressions` and
//! runs first from then on. What such cases taught stands as a named test beside its property.

mod adapters;
mod bounds;
mod checkpoints;
mod configs;
mod data;
mod edits;
mod run_files;
mod templates;
mod tokenizers;

use proptest::test_runner::Config;
use std::path::{Path, PathBuf};

/// Settings of a property with this many cases, unless the environment says otherwise.
fn cases(cases: u32) -> Config {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default(),
        None => Config { cases, ..Config::default() },
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The model that the program carries.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny")
}

/// The files of a directory copied to another.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn json_of(file: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}
