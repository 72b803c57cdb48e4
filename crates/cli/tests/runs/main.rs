//! Runs that are stopped, that fail, and that use several devices.

#[path = "../common/mod.rs"]
mod common;
mod ends;
#[cfg(unix)]
mod streams;

use common::{Place, TINY, failure, losses, result};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The arguments of a run that takes a while.
fn long(data: &str, out: &str) -> Vec<String> {
    let text = format!(
        "finetune --model {TINY} --data {data} --max-steps 150 --batch-size 2 --lora-dropout 0.1 --progress none --json --out {out}"
    );
    text.split(' ').map(String::from).collect()
}

fn steps(out: &str) -> usize {
    std::fs::read_to_string(Path::new(out).join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_run_after_its_step_and_it_goes_on_as_if_nothing_had_happened() {
    let place = Place::new();
    let data = place.data();
    let whole = place.path("whole");
    assert!(Command::new(env!("CARGO_BIN_EXE_peft")).args(long(&data, &whole)).output().unwrap().status.success());
    // On a busy machine a run may end before it is stopped; then another one is.
    let broken = (0..20).map(|attempt| place.path(&format!("broken-{attempt}"))).find(|out| stops_twice(&data, out));
    let broken = broken.expect("one of the runs is stopped in time");
    let again = [long(&data, &broken), vec!["--resume".into()]].concat();
    assert!(Command::new(env!("CARGO_BIN_EXE_peft")).args(&again).output().unwrap().status.success());
    assert_eq!(losses(&broken), losses(&whole), "dropout included");
    let again: Vec<&str> = again.iter().map(String::as_str).filter(|argument| *argument != "--json").collect();
    assert!(failure(&again).ends_with("this run is over, so that there is nothing to resume; --overwrite trains anew"));
}

/// Begin a run and stop it by Ctrl-C, go on and stop it by SIGTERM. False if it ended before.
#[cfg(unix)]
fn stops_twice(data: &str, out: &str) -> bool {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let resume = if code == 143 { &["--resume"][..] } else { &[] };
        let mut command = Command::new(env!("CARGO_BIN_EXE_peft"));
        let mut child = command.args(long(data, out)).args(resume).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let before = steps(out);
        while steps(out) < before + 3 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            return false;
        }
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let step = said["steps"].as_u64().unwrap() as usize;
        assert!(step < 150 && step == steps(out), "{said}");
        let checkpoint = said["interrupted"].as_str().unwrap();
        assert!(checkpoint.ends_with(&format!("checkpoints/step-{step}")) && Path::new(checkpoint).join("state.json").exists());
        assert!(!Path::new(out).join("adapter_model.safetensors").exists(), "the run is not over");
    }
    true
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    // Files may grow to 20 KiB, which the first checkpoint exceeds.
    let script = "trap '' XFSZ; ulimit -f 40; exec \"$@\"";
    let limited = |extra: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_peft")]).args(long(&data, &out)).args(extra).output().unwrap()
    };
    let output = limited(&["--save-steps", "3"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("trained.bpk") && stderr.contains("File too large"), "{stderr}");
    let left: Vec<_> = std::fs::read_dir(Path::new(&out).join("checkpoints")).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(steps(&out), 3, "the steps that were taken are on record");
}

#[test]
fn two_devices_train_as_one_with_twice_the_accumulation() {
    let place = Place::new();
    let data = place.data();
    let run = |name: &str, extra: &[&str]| {
        let out = place.path(name);
        let fixed = ["finetune", "--model", TINY, "--data", &data, "--max-steps", "4", "--batch-size", "1", "--out", &out];
        result(&[&fixed, extra].concat());
        losses(&out)
    };
    let (one, two) = (run("one", &["--gradient-accumulation-steps", "2"]), run("two", &["--devices", "cpu,cpu"]));
    for (a, b) in one.iter().zip(&two) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
    assert_eq!(one.len(), two.len());
    let out = place.path("none");
    let message = failure(&["finetune", "--model", TINY, "--data", &data, "--devices", "cpu,gpu", "--out", &out]);
    assert!(message.contains("unknown device `gpu`"), "{message}");
}

#[test]
fn recomputed_blocks_train_as_kept_ones() {
    let place = Place::new();
    let data = place.data();
    let run = |name: &str, extra: &[&str]| {
        let out = place.path(name);
        result(&[&["finetune", "--model", TINY, "--data", &data, "--max-steps", "4", "--out", &out], extra].concat());
        losses(&out)
    };
    for (a, b) in run("kept", &[]).iter().zip(run("again", &["--gradient-checkpointing"])) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
}

#[test]
fn two_devices_share_one_thread() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_peft"));
    command.args([
        "finetune",
        "--model",
        TINY,
        "--data",
        &data,
        "--devices",
        "cpu,cpu",
        "--max-steps",
        "3",
        "--progress",
        "none",
        "--out",
        &out,
    ]);
    let mut child = command.env("RAYON_NUM_THREADS", "1").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("the devices wait for each other");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(steps(&out), 3);
}

#[test]
fn dropout_on_two_devices_is_the_same_in_every_run() {
    let place = Place::new();
    let data = place.data();
    let run = |name: &str| {
        let out = place.path(name);
        let fixed = ["finetune", "--model", TINY, "--data", &data, "--max-steps", "6", "--batch-size", "1", "--lora-dropout", "0.3"];
        result(&[&fixed[..], &["--devices", "cpu,cpu", "--out", &out]].concat());
        std::fs::read(Path::new(&out).join("adapter_model.safetensors")).unwrap()
    };
    assert_eq!(run("one"), run("two"));
}
