//! What `--resume` and `--overwrite` make of what an earlier run left: every state that a kill can leave, and what was exchanged meanwhile.

use crate::common::{Place, TINY, failure, losses, peft, result};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// The files of a run's directory.
fn listing(out: &str) -> Vec<String> {
    let names = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(file, value.to_string()).unwrap();
}

/// Make of a finished run that has kept its checkpoints one that was killed before its end.
fn unfinish(out: &str) {
    let out = Path::new(out);
    edit(&out.join("run_state.json"), |state| state["finished"] = false.into());
    for name in ["adapter_model.safetensors", "adapter_config.json", "summary.json", "report.html"] {
        std::fs::remove_file(out.join(name)).unwrap();
    }
}

/// Move files of a finished run to where they stand before the run is over.
fn take_back(out: &str, names: &[&str]) {
    let (out, complete) = (Path::new(out), Path::new(out).join("finished"));
    std::fs::create_dir(&complete).unwrap();
    std::fs::copy(out.join("run_state.json"), complete.join("run_state.json")).unwrap();
    edit(&out.join("run_state.json"), |state| state["finished"] = false.into());
    for name in names {
        std::fs::rename(out.join(name), complete.join(name)).unwrap();
    }
}

#[test]
fn a_run_that_was_killed_while_its_results_were_put_into_place_is_finished_by_resume() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let arguments = ["finetune", "--model", TINY, "--data", &data, "--max-steps", "3", "--progress", "none", "--out", &out];
    let done = result(&arguments);
    let (files, adapter) = (listing(&out), std::fs::read(place.file("out/adapter_model.safetensors")).unwrap());
    let resume = [&arguments[..], &["--resume"]].concat();
    let all = ["adapter_config.json", "adapter_model.safetensors", "summary.json"];
    for moved in [&all[..], &all[1..], &all[2..], &[]] {
        take_back(&out, moved);
        std::fs::create_dir_all(place.file("out/checkpoints/.step-2.removed")).unwrap();
        std::fs::remove_file(place.file("out/report.html")).unwrap();
        let again = result(&resume);
        assert_eq!((&again["steps"], &again["train_loss_last"]), (&done["steps"], &done["train_loss_last"]));
        assert_eq!(listing(&out), files, "{moved:?}");
        assert_eq!(std::fs::read(place.file("out/adapter_model.safetensors")).unwrap(), adapter);
    }
    // Nothing of the results is left beside the empty directory.
    std::fs::create_dir(place.file("out/finished")).unwrap();
    result(&resume);
    assert_eq!(listing(&out), files);
    assert!(failure(&resume).ends_with("this run is over, so that there is nothing to resume; --overwrite trains anew"));
}

#[test]
fn a_run_that_was_killed_while_an_earlier_one_was_removed_begins_anew() {
    let place = Place::new();
    let (data, out, fresh) = (place.data(), place.path("out"), place.path("fresh"));
    let fixed = ["finetune", "--model", TINY, "--data", &data, "--progress", "none", "--save-steps", "2", "--save-total-limit", "9"];
    let run = |out: &str, extra: &[&str]| result(&[&fixed[..], extra, &["--out", out]].concat());
    run(&out, &["--max-steps", "8"]);
    let other = ["--max-steps", "5", "--seed", "9"];
    run(&fresh, &other);
    // As the new run leaves it that is killed at once.
    edit(&place.file("out/run_state.json"), |state| (state["begun"], state["finished"]) = (false.into(), false.into()));
    run(&out, &[&other[..], &["--resume"]].concat());
    assert_eq!(losses(&out), losses(&fresh));
    assert_eq!(listing(&place.path("out/checkpoints")), ["step-2", "step-4"]);
}

#[test]
fn overwriting_a_run_leaves_nothing_of_it_and_everything_else() {
    let place = Place::new();
    let (data, out, fresh) = (place.data(), place.path("out"), place.path("fresh"));
    let fixed = ["finetune", "--model", TINY, "--data", &data, "--progress", "none", "--save-steps", "1"];
    let run = |out: &str, extra: &[&str]| result(&[&fixed[..], extra, &["--out", out]].concat());
    run(&out, &["--max-steps", "9", "--save-total-limit", "4", "--eval", &data, "--samples", "1"]);
    unfinish(&out);
    std::fs::write(place.file("out/notes.txt"), "mine").unwrap();
    let other = ["--max-steps", "5", "--seed", "9", "--save-total-limit", "2"];
    run(&fresh, &other);
    run(&out, &[&other[..], &["--overwrite"]].concat());
    assert_eq!(listing(&place.path("out/checkpoints")), ["step-3", "step-4"], "the newest of the new run");
    assert_eq!(losses(&out), losses(&fresh));
    let mut expected = listing(&fresh);
    expected.push("notes.txt".into());
    expected.sort();
    assert_eq!(listing(&out), expected);
    // A checkpoint in place of an adapter: the adapter goes.
    result(&[&fixed[..], &["--method", "full", "--max-steps", "1", "--out", &out, "--overwrite"]].concat());
    assert!(place.file("out/model.safetensors").exists() && !place.file("out/adapter_model.safetensors").exists());
}

#[test]
fn a_base_that_was_exchanged_is_noticed() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let model = place.checkpoint();
    let dir = model.to_string_lossy().into_owned();
    let arguments =
        ["finetune", "--model", &dir, "--data", &data, "--max-steps", "6", "--save-steps", "2", "--save-total-limit", "9", "--out", &out];
    result(&arguments);
    unfinish(&out);
    let resume = [&arguments[..], &["--resume"]].concat();
    let weights = model.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, other).unwrap();
    let message = failure(&resume);
    assert!(message.contains("has changed since the run began: its weights are not those that the run was trained on"), "{message}");
    std::fs::write(&weights, bytes).unwrap();
    assert_eq!(result(&resume)["steps"], 6);
}

#[test]
fn a_template_that_writes_the_date_writes_that_of_the_first_call() {
    let place = Place::new();
    let model = place.checkpoint();
    let template = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";
    std::fs::write(model.join("chat_template.jinja"), template).unwrap();
    let chat = json!({ "messages": [{ "role": "user", "content": "q" }, { "role": "assistant", "content": "ok" }] });
    let data = place.write("chat.jsonl", &chat.to_string());
    let (dir, out) = (model.to_string_lossy().into_owned(), place.path("out"));
    let arguments =
        ["finetune", "--model", &dir, "--data", &data, "--max-steps", "6", "--save-steps", "2", "--save-total-limit", "9", "--out", &out];
    result(&arguments);
    unfinish(&out);
    let resume = [&arguments[..], &["--resume"]].concat();
    // The same as a clock that goes on: the run says when it began, and what it says is what counts.
    let state = place.file("out/run_state.json");
    let began = serde_json::from_str::<Value>(&std::fs::read_to_string(&state).unwrap()).unwrap()["began"].clone();
    edit(&state, |state| state["began"] = 951_782_400.into());
    assert!(failure(&resume).contains("belongs to a run with other training data"), "{}", failure(&resume));
    edit(&state, |state| state["began"] = began);
    assert_eq!(result(&resume)["steps"], 6);
}

#[test]
fn a_run_that_fails_at_its_start_leaves_no_directory() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let model = place.checkpoint();
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    // The last weight of the file, which holds f16, becomes not a number.
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&[0, 0x7e]);
    std::fs::write(&weights, bytes).unwrap();
    let message = failure(&["finetune", "--model", &model.to_string_lossy(), "--data", &data, "--max-steps", "3", "--out", &out]);
    assert!(message.contains("finite") && !message.contains("learning rate"), "{message}");
    assert!(!Path::new(&out).exists());
    std::fs::create_dir(&out).unwrap();
    failure(&["finetune", "--model", &model.to_string_lossy(), "--data", &data, "--max-steps", "3", "--out", &out]);
    result(&["finetune", "--model", TINY, "--data", &data, "--max-steps", "1", "--out", &out]);
}

#[test]
fn settings_that_cannot_act_are_refused_or_named() {
    let place = Place::new();
    let data = place.data();
    let run = |extra: &[&str]| {
        let out = place.path("out");
        let fixed = ["finetune", "--model", TINY, "--data", &data, "--max-steps", "2", "--progress", "none", "--overwrite", "--out", &out];
        let output = peft(&[&fixed[..], extra].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for setting in [
        &["--eval-steps", "1"][..],
        &["--load-best-model-at-end"],
        &["--early-stopping-patience", "2"],
        &["--metric-for-best-model", "accuracy"],
    ] {
        let (code, said) = run(setting);
        let name = setting[0].trim_start_matches('-').replace('-', "_");
        assert_eq!(code, Some(1), "{setting:?}");
        assert!(said.ends_with(&format!("`{name}` needs evaluation data: give --eval or --eval-split\n")), "{said}");
    }
    assert!(!place.file("out").exists(), "nothing is written for a run that cannot start");
    for (setting, said) in [
        (&["--eval-split", "1", "--load-best-model-at-end"][..], "`load_best_model_at_end` compares evaluations, of which there is one"),
        (&["--eval-split", "1", "--metric-for-best-model", "accuracy"], "`metric_for_best_model` does nothing without"),
        (&["--method", "ia3", "--weight-decay", "0.1"], "`weight_decay` does nothing here"),
        (&["--lora-alpha", "0"], "`lora_alpha` is 0"),
        (&["--warmup-steps", "9"], "warmup_steps is 9 and the run has 2 steps"),
        (&["--save-steps", "9"], "save_steps is 9 and the run has 2 steps: no checkpoint is written"),
    ] {
        let (code, stderr) = run(setting);
        assert!(code == Some(0) && stderr.contains(said), "{setting:?}: {stderr}");
    }
    let (code, said) = run(&["--devices", "cpu,cpu", "--gradient-accumulation-steps", "9223372036854775808"]);
    assert!(code == Some(0), "{said}");
    for number in ["nan", "inf", "1e999"] {
        let (code, said) = run(&["--lr", number]);
        assert!(code == Some(1) && said.contains("`lr` is ") && said.contains("finite number"), "{said}");
    }
}

/// A run with everything in it that is written.
fn eventful(data: &str, out: &str) -> Vec<String> {
    let text = format!(
        "finetune --model {TINY} --data {data} --eval {data} --samples 1 --batch-size 2 --lora-dropout 0.1 --max-steps 8 --save-steps 3 \
         --eval-steps 2 --load-best-model-at-end --lr 0.05 --progress none --out {out}"
    );
    text.split_whitespace().map(String::from).collect()
}

/// Let the change of number `at` that the run makes to the disk fail, fill the disk, or be the moment at which it is killed. False if the run has
/// ended before.
fn faulty(arguments: &[String], fault: &str, at: usize) -> bool {
    let output = Command::new(env!("CARGO_BIN_EXE_peft")).args(arguments).env("PEFT_FAULT", format!("{fault}:{at}")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{fault}:{at}: {stderr}");
    stderr.contains("PEFT_FAULT")
}

#[test]
fn whatever_change_to_the_disk_fails_or_is_the_last_the_run_goes_on_to_the_same_end() {
    let place = Place::new();
    let (data, whole) = (place.data(), place.path("whole"));
    assert!(Command::new(env!("CARGO_BIN_EXE_peft")).args(eventful(&data, &whole)).output().unwrap().status.success());
    let adapter = |out: &str| std::fs::read(Path::new(out).join("adapter_model.safetensors")).unwrap();
    for fault in ["kill", "full"] {
        // Which of the changes is left to chance; together, runs of this test try them all.
        let mut at = rand::random_range(1..30);
        loop {
            let out = place.path(&format!("{fault}-{at}"));
            let begun = eventful(&data, &out);
            if !faulty(&begun, fault, at) {
                break;
            }
            let again = [begun, vec!["--resume".into()]].concat();
            let output = Command::new(env!("CARGO_BIN_EXE_peft")).args(&again).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() || stderr.contains("this run is over"), "{fault}:{at}: {stderr}");
            assert!(losses(&out) == losses(&whole) && adapter(&out) == adapter(&whole), "{fault}:{at}");
            assert_eq!(listing(&out), listing(&whole), "{fault}:{at}");
            at += rand::random_range(25..60);
        }
        assert!(at > 100, "the run changes more than that");
    }
}

#[test]
fn a_damaged_state_is_told_with_the_way_out_which_works() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let arguments = ["finetune", "--model", TINY, "--data", &data, "--max-steps", "1", "--out", &out];
    result(&arguments);
    for damage in ["", "{\"began\": ", "{}", "[1, 2]"] {
        place.write("out/run_state.json", damage);
        let said = failure(&[&arguments[..], &["--resume"]].concat());
        assert!(said.contains("run_state.json: is damaged") && said.contains("--overwrite"), "{damage}: {said}");
        result(&[&arguments[..], &["--overwrite"]].concat());
    }
}
