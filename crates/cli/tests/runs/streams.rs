//! Runs whose messages nobody can read: the stream is closed, its reader goes away, or the disk under it is full.

use crate::common::{Place, TINY, losses};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Run the program in a shell, with its streams redirected.
fn redirected(arguments: &[&str], redirection: &str) -> Output {
    let script = format!("exec \"$@\" {redirection}");
    Command::new("sh").args(["-c", &script, "sh", env!("CARGO_BIN_EXE_peft")]).args(arguments).output().unwrap()
}

fn training<'a>(data: &'a str, out: &'a str) -> [&'a str; 11] {
    ["finetune", "--model", TINY, "--data", data, "--max-steps", "30", "--progress", "plain", "--out", out]
}

fn is_saved(out: &str) -> bool {
    losses(out).len() == 30 && Path::new(out).join("adapter_model.safetensors").exists() && !Path::new(out).join("checkpoints").exists()
}

#[test]
fn a_reader_of_stderr_that_goes_away_does_not_end_the_run() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_peft"));
    let mut child = command.args(training(&data, &out)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    assert!(child.wait().unwrap().success());
    assert!(is_saved(&out));
}

#[test]
fn a_stderr_that_is_closed_or_full_does_not_end_the_run() {
    let place = Place::new();
    let data = place.data();
    for (name, redirection) in [("closed", "2>&-"), ("full", "2>/dev/full"), ("both", ">&- 2>&-")] {
        let out = place.path(name);
        assert!(redirected(&training(&data, &out), redirection).status.success(), "{name}");
        assert!(is_saved(&out), "{name}");
    }
}

#[test]
fn a_stdout_that_is_full_is_an_error_after_everything_is_saved() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let output = redirected(&training(&data, &out), ">/dev/full");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).ends_with("error: stdout: No space left on device (os error 28)\n"));
    assert!(is_saved(&out));
}

#[test]
fn an_error_that_nobody_reads_is_still_an_exit_code() {
    for arguments in [&["inspect", "nowhere"][..], &["inspect", "nowhere", "--json"], &["merge", "nowhere.yaml", "--out", "x"]] {
        for redirection in ["2>/dev/full", ">/dev/full 2>&1", ">&- 2>&-"] {
            assert_eq!(redirected(arguments, redirection).status.code(), Some(1), "{arguments:?} {redirection}");
        }
    }
    // Warnings too.
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let warned = [&training(&data, &out)[..], &["--warmup-steps", "100"]].concat();
    assert!(redirected(&warned, "2>/dev/full").status.success());
}
