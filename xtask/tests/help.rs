//! The program of tasks, as people call it.

use std::process::Command;

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_task_says_what_it_does() {
    let all = help(&[]);
    for task in ["check", "parity", "bench", "gpu-suite", "repro"] {
        assert!(all.contains(task), "{task} is missing in:\n{all}");
        assert!(help(&[task]).contains("Usage:"), "{task}");
    }
}

#[test]
fn a_reproduction_without_its_data_says_what_is_missing() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["repro", "merging", "--data", "nowhere/digits.csv"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere/digits.csv"));
}
