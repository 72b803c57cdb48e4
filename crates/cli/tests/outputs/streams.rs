//! Devices, pipes and links as outputs.
#![cfg(unix)]

use super::{Place, TINY, refusal};
use crate::common::{peft, result};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::process::{Command, Stdio};

fn logits(out: &str) -> [&str; 7] {
    ["logits", "--model", TINY, "--tokens", "1,2", "--out", out]
}

#[test]
fn a_device_is_written_to_and_stays() {
    let place = Place::new();
    let (run, data) = (place.path("run"), place.data());
    result(&["finetune", "--model", TINY, "--data", &data, "--max-steps", "1", "--out", &run]);
    let answers = place.write("answers.jsonl", r#"{"prompt":"copy: badu = ","answer":"badu"}"#);
    let eval = ["eval", "--model", TINY, "--data", &answers, "--metric", "exact-match", "--predictions", "/dev/null"];
    let fisher = ["fisher", "--model", TINY, "--data", &data, "--n-examples", "1", "--out", "/dev/null"];
    let report = ["report", &run, "--out", "/dev/null", "--csv", "/dev/null"];
    let compress = ["compress", &run, "--out", "/dev/null"];
    for arguments in [logits("/dev/null").as_slice(), &eval, &fisher, &report, &compress] {
        let output = peft(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
    assert!(!std::path::Path::new("/dev/null.partial").exists());
    let said = refusal(&["merge-adapter", "--model", TINY, "--adapter", &run, "--out", "/dev/null"]);
    assert!(said.contains("a file, where a directory is to be written"), "{said}");
    let said = refusal(&["finetune", "--model", TINY, "--data", &data, "--out", "/dev/null", "--overwrite"]);
    assert!(said.contains("a file, where a directory is to be written"), "{said}");
}

#[test]
fn standard_output_gets_the_result_and_nothing_else() {
    let place = Place::new();
    let file = place.path("logits.safetensors");
    result(&logits(&file));
    let expected = std::fs::read(&file).unwrap();
    let output = peft(&logits("/dev/stdout"));
    assert!(output.status.success() && output.stdout == expected);
    assert!(String::from_utf8_lossy(&output.stderr).contains("written to /dev/stdout"));

    // Redirected to a file, and by the number of a descriptor.
    let redirected = std::fs::File::create(place.path("redirected")).unwrap();
    let status =
        Command::new(env!("CARGO_BIN_EXE_peft")).args(logits("/dev/fd/1")).stdout(redirected).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read(place.path("redirected")).unwrap(), expected);
}

#[test]
fn a_pipe_is_written_to_and_stays() {
    let place = Place::new();
    let (file, pipe) = (place.path("logits.safetensors"), place.path("pipe"));
    result(&logits(&file));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    result(&logits(&pipe));
    assert_eq!(reader.join().unwrap(), std::fs::read(&file).unwrap());
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn a_link_stays_a_link() {
    let place = Place::new();
    let (real, link, nowhere) = (place.write("real", "old"), place.path("link"), place.path("nowhere"));
    symlink(&real, &link).unwrap();
    symlink("made", &nowhere).unwrap();
    result(&logits(&link));
    result(&logits(&nowhere));
    for path in [&link, &nowhere] {
        assert!(std::fs::symlink_metadata(path).unwrap().is_symlink());
    }
    assert_eq!(std::fs::read(&real).unwrap(), std::fs::read(place.path("made")).unwrap());
}
