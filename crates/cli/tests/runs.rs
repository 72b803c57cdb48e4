//! Runs that are stopped, that fail, and that use several devices.

mod common;

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
    let (whole, broken) = (place.path("whole"), place.path("broken"));
    assert!(Command::new(env!("CARGO_BIN_EXE_peft")).args(long(&data, &whole)).output().unwrap().status.success());
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let resume = if code == 143 { &["--resume"][..] } else { &[] };
        let mut command = Command::new(env!("CARGO_BIN_EXE_peft"));
        let mut child = command.args(long(&data, &broken)).args(resume).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let before = steps(&broken);
        while steps(&broken) < before + 3 {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be stopped");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let step = said["steps"].as_u64().unwrap() as usize;
        assert!(step < 150 && step == steps(&broken), "{said}");
        let checkpoint = said["interrupted"].as_str().unwrap();
        assert!(checkpoint.ends_with(&format!("checkpoints/step-{step}")) && Path::new(checkpoint).join("state.json").exists());
        assert!(!Path::new(&broken).join("adapter_model.safetensors").exists(), "the run is not over");
    }
    let again = [long(&data, &broken), vec!["--resume".into()]].concat();
    assert!(Command::new(env!("CARGO_BIN_EXE_peft")).args(&again).output().unwrap().status.success());
    assert_eq!(losses(&broken), losses(&whole), "dropout included");
    let again: Vec<&str> = again.iter().map(String::as_str).filter(|argument| *argument != "--json").collect();
    assert!(failure(&again).ends_with("this run is over, so that there is nothing to resume; --overwrite trains anew"));
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
