//! The GPU suite on the CPU, where everything must agree.

use serde_json::Value;
use std::process::Command;

fn suite(args: &[&str]) -> (Value, bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_peft-gpu-suite")).args(args).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).expect(&log), output.status.success(), log)
}

#[test]
fn the_cpu_agrees_with_itself() {
    let (report, success, log) = suite(&["--device", "cpu", "--only", "correctness"]);
    let correctness = &report["correctness"];
    assert!(success && report["ok"] == true, "{log}");
    assert_eq!(correctness["failed"], 0, "{log}");
    assert!(correctness["passed"].as_u64().unwrap() >= 30, "{correctness}");
    assert!(report.get("train").is_none());
}

#[test]
fn every_measurement_has_a_number() {
    let sizes = ["--seq", "32", "--steps", "2", "--warmup", "1", "--rank", "4", "--prompt", "8", "--new", "4"];
    let (report, success, log) = suite(&[["--device", "cpu", "--only", "train,generate,merge"].as_slice(), &sizes].concat());
    assert!(success, "{log}");
    let numbers = ["/train/0/tokens_per_second", "/generate/0/batches/1/tokens_per_second", "/merge/0/seconds", "/train/0/peak_bytes/host"];
    for number in numbers {
        assert!(report.pointer(number).and_then(Value::as_f64).is_some_and(|value| value > 0.0), "{number}: {report:#}");
    }
    assert_eq!(report["train"][0]["shape"], "tiny");
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let (report, success, log) = suite(&["--device", "vulcan", "--only", "merge", "--shape", "tiny"]);
    assert!(!success);
    assert!(report["merge"][0]["error"].as_str().unwrap().contains("unknown device `vulcan`"), "{log}");
}
