//! Run files, through the program itself.

use crate::cases;
use crate::edits::{edited, edited_json, noise};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUN: &str = "
model: SmolLM2-135M
data: train.jsonl
method: lora
target_modules: [q_proj, 'v_proj']
layers_to_transform: [0, 1]
r: 16
lora_alpha: 32
init_lora_weights: true
rank_pattern:
  'layers\\.0\\.self_attn\\.q_proj': 4
alpha_pattern: {v_proj: 8.5}
epochs: 2
lr: 2e-4
lr_scheduler: cosine
max_grad_norm: 0
train_on_prompt: false
dtype: bf16
seed: 7
";

/// Whether the program refuses the run file and the model, which does not exist, with an error.
fn refuses(bytes: &[u8]) -> Result<String, TestCaseError> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("run.yaml"), bytes)?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_peft"))
        .args(["finetune", "--config", "run.yaml", "--model", "nowhere", "--out", "out"])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > Duration::from_secs(60) {
            child.kill()?;
            return Err(TestCaseError::fail("it did not come back"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    prop_assert_eq!(output.status.code(), Some(1), "{}", stderr);
    prop_assert!(stderr.starts_with("error: "), "{}", stderr);
    Ok(stderr)
}

fn settings() -> Value {
    json!({
        "method": "lora", "target_modules": ["q_proj"], "exclude_modules": ["v_proj"], "layers_to_transform": [0], "modules_to_save": ["lm_head"],
        "r": 16, "lora_alpha": 32, "lora_dropout": 0.1, "bias": "none", "init_lora_weights": true, "rank_pattern": { "q_proj": 4 }, "max_steps": 5,
        "batch_size": 4, "gradient_accumulation_steps": 4, "lr": 0.0002, "warmup_steps": 20, "max_length": 128, "eval_steps": 3, "device": "cpu",
    })
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn any_run_file_is_refused_with_an_error(bytes in prop_oneof![
        4 => edited(RUN.into()),
        4 => edited_json(settings()).prop_map(|run| run.to_string().into_bytes()),
        1 => noise(),
    ]) {
        refuses(&bytes)?;
    }
}

#[test]
fn aliases_that_grow_without_end_are_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let list = vec![format!("*a{}", i - 1); 10].join(", ");
        text += &format!("a{i}: &a{i} [{list}]\n");
    }
    refuses(format!("{text}target_modules: *a11\n").as_bytes()).unwrap();
    refuses(format!("rank_pattern: {}1{}\n", "[".repeat(100_000), "]".repeat(100_000)).as_bytes()).unwrap();
    refuses(format!("rank_pattern: {}\n", "{a: ".repeat(100_000)).as_bytes()).unwrap();
}
