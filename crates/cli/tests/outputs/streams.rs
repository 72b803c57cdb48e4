//! Devices, pipes and links as outputs.
#![cfg(unix)]

use super::{Place, TINY, refusal};
use crate::common::{peft, result};
#[cfg(target_os = "linux")]
use std::ffi::OsStr;
#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, symlink};
#[cfg(target_os = "linux")]
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs the program on arguments of which some are no text.
#[cfg(target_os = "linux")]
fn run(arguments: &[&OsStr]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_peft")).args(arguments).output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_no_text_is_written_to() {
    let place = Place::new();
    let data = place.data();
    let path = |name: &[u8]| place.file("x").with_file_name(OsStr::from_bytes(name));
    let succeeds = |command: &str, paths: &[(&str, &Path)], json: bool| {
        let words = command.split(' ').map(|word| if word == "DATA" { data.as_str() } else { word }).map(OsStr::new);
        let paths = paths.iter().flat_map(|(flag, path)| [OsStr::new(flag), path.as_os_str()]);
        let arguments: Vec<&OsStr> =
            words.chain(paths).filter(|word| !word.is_empty()).chain(json.then_some(OsStr::new("--json"))).collect();
        let output = run(&arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (adapter, file) = (path(b"adapter\xff"), path(b"file\xff"));
    let model = path(b"model\xff");
    std::fs::rename(place.checkpoint(), &model).unwrap();
    for json in [false, true] {
        succeeds(&format!("finetune --model {TINY} --data DATA --max-steps 1 --overwrite"), &[("--out", &adapter)], json);
        succeeds("merge-adapter --overwrite", &[("--model", &model), ("--adapter", &adapter), ("--out", &path(b"whole\xff"))], json);
        succeeds("merge-adapters --weights 1 --overwrite", &[("", &adapter), ("--out", &path(b"one\xff"))], json);
        succeeds("compress --overwrite", &[("", &adapter), ("--out", &file)], json);
        succeeds("decompress --overwrite", &[("", &file), ("--out", &path(b"again\xff"))], json);
        succeeds("logits --tokens 1", &[("--model", &model), ("--out", &path(b"logits\xff"))], json);
        succeeds("fisher --data DATA --n-examples 1 --overwrite", &[("--model", &model), ("--out", &path(b"fisher\xff"))], json);
        succeeds("eval --data DATA --metric perplexity", &[("--model", &model), ("--adapter", &adapter)], json);
        succeeds("report", &[("", &adapter), ("--csv", &path(b"csv\xff"))], json);
        succeeds("inspect", &[("", &adapter)], json);
    }
}

#[test]
fn a_limit_of_the_size_of_files_is_a_full_disk() {
    let place = Place::new();
    let (run, data, out) = (place.path("run"), place.data(), place.path("out"));
    result(&["finetune", "--model", TINY, "--data", &data, "--max-steps", "1", "--out", &run]);
    let program = env!("CARGO_BIN_EXE_peft");
    let limited = format!("ulimit -f 100; exec {program} merge-adapter --model {TINY} --adapter {run} --out {out}");
    let output = Command::new("sh").args(["-c", &limited]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("File too large"), "{said}");
    let left = std::fs::read_dir(place.file("run").parent().unwrap()).unwrap().flatten();
    assert!(left.map(|entry| entry.file_name()).all(|name| !name.to_string_lossy().starts_with(".out")));
}

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
