//! The program on the embedded tiny model: the main job from start to end, and what it says to bad input.

mod common;
#[path = "outputs/mod.rs"]
mod outputs;
mod weights;

use common::{Place, TINY, failure, losses, peft, result};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn logits(file: &str) -> Vec<f32> {
    let bytes = std::fs::read(file).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor("logits").unwrap().data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Largest difference over the largest magnitude.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let scale = a.iter().fold(0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / scale
}

#[test]
fn finetune_save_load_merge_generate() {
    let place = Place::new();
    let (data, adapter, merged) = (place.data(), place.path("adapter"), place.path("merged"));
    let done =
        result(&["finetune", "--model", TINY, "--data", &data, "--eval", &data, "--max-steps", "6", "--lr", "0.01", "--out", &adapter]);
    assert_eq!(done["steps"], 6);
    assert!(done["train_loss_last"].as_f64() < done["train_loss_first"].as_f64());
    for key in ["eval_loss", "tokens_per_second", "trainable_params", "total_params"] {
        assert!(done[key].is_number(), "{key}");
    }
    let metrics = std::fs::read_to_string(Path::new(&adapter).join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 6);

    let tokens = ["--tokens", "1,20,30,40,50,60"];
    let at = |name: &str, extra: &[&str]| {
        let file = place.path(name);
        result(&[&["logits", "--out", &file], tokens.as_slice(), extra].concat());
        logits(&file)
    };
    let base = at("base.safetensors", &["--model", TINY]);
    let adapted = at("adapted.safetensors", &["--model", TINY, "--adapter", &adapter]);
    assert!(distance(&base, &adapted) > 1e-3, "the adapter changes the model");
    result(&["merge-adapter", "--model", TINY, "--adapter", &adapter, "--out", &merged]);
    let merged_logits = at("merged.safetensors", &["--model", &merged]);
    // The tiny checkpoint is stored in f16, and so is the merged one: one rounding of each weight.
    assert!(distance(&adapted, &merged_logits) < 5e-3, "{}", distance(&adapted, &merged_logits));

    let text = result(&["generate", "--model", &merged, "--prompt", "copy: badu = ", "--max-new-tokens", "8"]);
    assert!(!text["results"][0]["tokens"].as_array().unwrap().is_empty());
    // The text ends long before that, and no memory is taken for what is not written.
    let same = result(&["generate", "--model", TINY, "--prompt", "copy: badu = ", "--max-new-tokens", "1000000000"]);
    assert_eq!(same["results"][0]["text"], "badu", "the tiny model copies");
    let prompts = ["--prompt", "copy: badu = ", "--prompt", "upper: ko = ", "--prompt", "reverse: badu = "];
    let several = result(&[["generate", "--model", TINY, "--max-new-tokens", "8"].as_slice(), &prompts].concat());
    let texts: Vec<_> = several["results"].as_array().unwrap().iter().map(|outcome| outcome["text"].clone()).collect();
    assert_eq!((texts.len(), &texts[0], &texts[2]), (3, &"badu".into(), &"udab".into()), "prompts of different lengths together");
    let kind = result(&["inspect", &adapter]);
    assert_eq!((kind["kind"].as_str(), kind["name"].as_str()), (Some("adapter"), Some("lora")));
}

#[test]
fn every_method_trains_saves_and_loads() {
    let place = Place::new();
    let data = place.data();
    for method in ["lora", "rslora", "dora", "pissa", "ia3", "vera", "full"] {
        let out = place.path(method);
        let done =
            result(&["finetune", "--model", TINY, "--data", &data, "--method", method, "--max-steps", "2", "--lr", "0.001", "--out", &out]);
        assert_eq!(done["steps"], 2, "{method}");
        let eval = match method {
            "full" => result(&["eval", "--model", &out, "--data", &data, "--metric", "perplexity"]),
            _ => result(&["eval", "--model", TINY, "--adapter", &out, "--data", &data, "--metric", "perplexity"]),
        };
        assert!(eval["perplexity"].as_f64().unwrap() > 1.0, "{method}");
    }
    let none =
        failure(&["finetune", "--model", TINY, "--data", &data, "--method", "bitfit", "--max-steps", "2", "--out", &place.path("b")]);
    assert_eq!(none, "error: invalid configuration: bitfit finds nothing to train in this model");
}

#[test]
fn a_killed_run_resumes_to_the_same_losses() {
    check_resuming("");
}

#[test]
fn a_killed_run_with_packed_rows_of_a_streamed_file_resumes_to_the_same_losses() {
    check_resuming(" --packing --streaming --max-length 64 --eval-split 1");
}

#[test]
fn a_killed_run_on_two_devices_with_dropout_resumes_to_the_same_losses() {
    check_resuming(" --devices cpu,cpu --lora-dropout 0.2");
}

fn check_resuming(extra: &str) {
    let place = Place::new();
    let data = place.data();
    let arguments = |out: &str, more: &[&str]| -> Vec<String> {
        let text = format!("finetune --model {TINY} --data {data} --max-steps 100 --batch-size 2 --save-steps 4 --out {out}{extra}");
        text.split(' ').chain(more.iter().copied()).map(String::from).collect()
    };
    let whole = place.path("whole");
    assert!(Command::new(env!("CARGO_BIN_EXE_peft")).args(arguments(&whole, &[])).output().unwrap().status.success());

    // Where it is killed is left to chance. On a busy machine a run may end before that; then another one is killed.
    let killed = (0..20).map(|attempt| place.path(&format!("killed-{attempt}"))).find(|out| {
        let first = is_killed(&arguments(out, &[]), out, rand::random_range(1..60));
        first
            && (is_killed(&arguments(out, &["--resume"]), out, rand::random_range(1..90)) || !Path::new(out).join("summary.json").exists())
    });
    let killed = killed.expect("one of the runs is killed in time");
    let seen = losses(&killed).len();
    let other = arguments(&killed, &["--resume", "--lora-alpha", "3"]);
    let message = failure(&other.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(
        message
            .ends_with("--resume needs the settings of the run that it continues, which this file holds: `lora_alpha` is 3.0 and was 16.0"),
        "{message}"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_peft")).args(arguments(&killed, &["--resume"])).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (expected, found) = (losses(&whole), losses(&killed));
    assert_eq!(expected, found, "killed after {seen} steps");
    let adapter = |out: &str| std::fs::read(Path::new(out).join("adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(&whole), adapter(&killed));
    assert!(!Path::new(&killed).join("checkpoints").exists(), "a finished run needs no checkpoints");
}

/// Start a run and kill it once it has taken so many steps. False if it ended before.
fn is_killed(arguments: &[String], out: &str, steps: usize) -> bool {
    let metrics = Path::new(out).join("metrics.jsonl");
    let taken = || std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    let mut child = Command::new(env!("CARGO_BIN_EXE_peft")).args(arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
    while taken() < steps && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().ok();
    !child.wait().unwrap().success()
}

#[test]
fn a_run_file_gives_settings_and_flags_win() {
    let place = Place::new();
    let data = place.data();
    let out = place.path("out");
    let run = place.write("run.yaml", &format!("model: {TINY}\ndata: {data}\nr: 2\nmax_steps: 2\nrank_pattern:\n  v_proj: 3\n"));
    result(&["finetune", "--config", &run, "--r", "4", "--out", &out]);
    let config: Value = serde_json::from_str(&std::fs::read_to_string(Path::new(&out).join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["rank_pattern"]["v_proj"]), (&json!(4), &json!(3)));
    let again = place.path("again");
    result(&["finetune", "--config", &place.path("out/run.yaml"), "--out", &again]);
    result(&["finetune", "--config", &place.path("out/run.yaml"), "--out", &out, "--overwrite"]);
    let wrong = place.write("wrong.yaml", "lora_aplha: 3\n");
    let message = failure(&["finetune", "--config", &wrong, "--out", &place.path("x")]);
    assert!(message.contains("lora_aplha"), "{message}");
}

#[test]
fn data_are_packed_grouped_streamed_and_set_aside() {
    let place = Place::new();
    let line = |i: usize| json!({ "prompt": "copy: ", "completion": "badu ".repeat(1 + i * i % 17) }).to_string();
    let lines: Vec<String> = (0..40).map(line).chain([json!({"text": ""}).to_string()]).collect();
    let data = place.write("lengths.jsonl", &lines.join("\n"));
    let train = |name: &str, extra: &[&str]| {
        let out = place.path(name);
        let arguments = ["finetune", "--model", TINY, "--data", &data, "--max-length", "64", "--batch-size", "4", "--out", &out];
        (result(&[&arguments, extra].concat()), losses(&out))
    };
    let share = |result: &Value| result["padding"]["share"].as_f64().unwrap();

    let (plain, plain_losses) = train("plain", &[]);
    assert_eq!((&plain["examples"]["examples"], &plain["examples"]["skipped"]["empty"]), (&json!(40), &json!(1)));
    assert!(plain["examples"]["truncated"].as_u64() > Some(0) && plain["examples"]["longest"].as_u64() > Some(64));
    assert_eq!(share(&plain), plain["padding"]["share_plain"].as_f64().unwrap());
    let (grouped, _) = train("grouped", &["--group-by-length"]);
    let (packed, packed_losses) = train("packed", &["--packing"]);
    assert!(share(&grouped) < 0.7 * share(&plain) && share(&packed) < 0.7 * share(&plain), "{grouped} {packed} {plain}");
    assert_eq!((plain["steps"].clone(), packed["tokens"].clone()), (json!(10), plain["tokens"].clone()));

    assert_eq!(train("streamed", &["--streaming"]).1, plain_losses);
    assert_eq!(train("streamed-packed", &["--streaming", "--packing"]).1, packed_losses);

    let (aside, _) = train("aside", &["--eval-split", "0.1"]);
    assert_eq!((&aside["eval_examples"], &aside["steps"]), (&json!(4), &json!(9)));
    assert!(aside["eval_loss"].is_number());
}

#[test]
fn every_form_of_data_trains() {
    let place = Place::new();
    let array = json!([{ "instruction": "mirror: badu = ", "output": "UDAB" }, { "text": "copy: badu = badu" }]);
    let data = place.write("data.json", &serde_json::to_string_pretty(&array).unwrap());
    let done = result(&["finetune", "--model", TINY, "--data", &data, "--max-length", "256", "--out", &place.path("out")]);
    assert_eq!((&done["examples"]["examples"], &done["steps"]), (&json!(2), &json!(1)));
}

#[test]
fn multiple_choice_and_exact_match_count_right_answers() {
    let place = Place::new();
    let choices = place.write("choices.jsonl", &json!({ "prompt": "copy: badu = ", "choices": ["dabu", "badu"], "answer": 1 }).to_string());
    assert_eq!(result(&["eval", "--model", TINY, "--data", &choices, "--metric", "multiple-choice"])["accuracy"], 1.0);
    let answers = place.write("answers.jsonl", &json!({ "prompt": "upper: badu = ", "answer": "BADU" }).to_string());
    assert_eq!(result(&["eval", "--model", TINY, "--data", &answers, "--metric", "exact-match"])["accuracy"], 1.0);
}

#[test]
fn damaged_checkpoints_are_refused_with_the_reason() {
    let place = Place::new();
    let model = place.checkpoint();
    let weights = model.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let dir = model.to_string_lossy();
    let run = || failure(&["generate", "--model", &dir, "--prompt", "a"]);

    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(run().contains("model.safetensors"), "{}", run());
    assert!(run().contains("truncated") || run().contains("ends"), "{}", run());
    std::fs::write(&weights, b"{}").unwrap();
    assert!(run().contains("model.safetensors"), "{}", run());
    std::fs::remove_file(&weights).unwrap();
    assert!(run().contains("model.safetensors"), "{}", run());
    let index = json!({ "metadata": {}, "weight_map": { "model.norm.weight": "../outside.safetensors" } });
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(run().contains("outside"), "{}", run());
    std::fs::remove_file(model.join("model.safetensors.index.json")).unwrap();
    std::fs::write(&weights, &bytes).unwrap();

    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let with = |key: &str, value: Value| {
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config[key] = value;
        std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    };
    with("hidden_size", json!(1_000_000_000_000u64));
    assert!(run().contains("hidden_size") || run().contains("parameters"), "{}", run());
    with("architectures", json!(["GPT2LMHeadModel"]));
    assert!(run().contains("GPT2LMHeadModel") && run().contains("LlamaForCausalLM"), "{}", run());
    with("intermediate_size", json!(64));
    assert!(run().contains("expected shape [64, 128], found shape [344, 128]"), "{}", run());
}

#[test]
fn bad_data_is_refused_with_its_line() {
    let place = Place::new();
    let train = |data: &str| failure(&["finetune", "--model", TINY, "--data", data, "--out", &place.path("out")]);
    let empty = place.write("empty.jsonl", "\n\n");
    assert!(train(&empty).contains("no examples"), "{}", train(&empty));
    let broken = place.write("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": \n");
    assert!(train(&broken).contains("broken.jsonl:2:"), "{}", train(&broken));
    let missing = place.path("missing.jsonl");
    assert!(train(&missing).contains("missing.jsonl"), "{}", train(&missing));
    assert!(!Path::new(&place.path("out")).exists(), "nothing is written for a run that cannot start");

    let model = place.checkpoint();
    let config = model.join("tokenizer_config.json");
    let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    tokenizer["chat_template"] = json!("{{ raise_exception('no roles here') }}");
    std::fs::write(&config, tokenizer.to_string()).unwrap();
    let chat = place.write(
        "chat.jsonl",
        &json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] }).to_string(),
    );
    let message = failure(&["finetune", "--model", &model.to_string_lossy(), "--data", &chat, "--out", &place.path("out")]);
    assert!(message.contains("no roles here") && message.contains("chat.jsonl:1"), "{message}");
}

#[test]
fn bad_settings_are_refused_with_what_would_be_right() {
    let place = Place::new();
    let data = place.data();
    let train = |extra: &[&str]| failure(&[&["finetune", "--model", TINY, "--data", &data, "--out", &place.path("out")], extra].concat());
    let message = train(&["--target-modules", "q_prj"]);
    assert!(message.starts_with("error: no module matches `q_prj`; the nearest names are `q_proj`"), "{message}");
    assert_eq!(train(&["--r", "0"]), "error: invalid configuration: r must be positive");
    let message = train(&["--r", "4096"]);
    assert!(message.contains("rank 4096 is above min(d_in, d_out) = "), "{message}");
    let message = train(&["--device", "cuda:0"]);
    assert_eq!(message, "error: this build has no cuda backend; build with `cargo build --release --features cuda`");
    let message = train(&["--method", "ia3", "--r", "4"]);
    assert_eq!(message, "error: invalid configuration: `r` is no setting of ia3");
    let message = train(&["--packing", "--group-by-length"]);
    assert_eq!(message, "error: invalid configuration: packing leaves nothing to group by length; choose one of them");
    let message = train(&["--eval-split", "6"]);
    assert_eq!(message, "error: invalid configuration: eval_split = 6 leaves nothing to train on of 6 examples");
    let both = place.write("both.yaml", &format!("eval: {data}\neval_split: 0.5\n"));
    let message = train(&["--config", &both]);
    assert_eq!(message, "error: invalid configuration: both eval and eval_split are set; choose one of them");
    let out = place.path("full");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(Path::new(&out).join("something"), "").unwrap();
    let message = failure(&["finetune", "--model", TINY, "--data", &data, "--out", &out]);
    assert_eq!(message, format!("error: {out} exists already; choose another directory or pass --overwrite"));
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/adapters/lora");
    let message = failure(&["generate", "--model", TINY, "--adapter", fixtures, "--prompt", "a"]);
    assert!(message.contains("was the adapter made for another base model?"), "{message}");
    assert!(message.contains("lora_A.weight"), "{message}");
}

#[test]
fn with_json_an_error_is_an_object_too() {
    let output = peft(&["inspect", "/nowhere", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(error["error"].as_str().unwrap().contains("/nowhere"));
    assert_eq!(peft(&["finetune", "--no-such-flag"]).status.code(), Some(2));
}

#[test]
fn keys_of_rows_that_do_nothing_are_warned_of_once() {
    let place = Place::new();
    let rows = [r#"{"text":"good film","label":"pos"}"#, r#"{"text":"bad film","label":"neg","images":["a.png"]}"#];
    let data = place.write("rows.jsonl", &rows.join("\n"));
    let out = place.path("out");
    for streaming in [&[][..], &["--streaming"]] {
        let arguments = [&["finetune", "--model", TINY, "--data", &data, "--out", &out, "--overwrite"], streaming].concat();
        let output = peft(&[&arguments[..], &["--max-steps", "1", "--progress", "none"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert_eq!(stderr.matches("`label` of 2 examples is not used: texts are learned without it").count(), 1, "{stderr}");
        assert_eq!(stderr.matches("`images` of 1 example is not used: the text alone is learned").count(), 1, "{stderr}");
    }
}
