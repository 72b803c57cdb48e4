//! No command harms what it reads, whatever its output is.

use super::{Place, TINY, adapter, refusal, tree};
use crate::common::{peft, result};
use serde_json::json;
use std::path::Path;

/// A directory `P` with all that commands read, and files of others.
fn inputs(place: &Place) -> String {
    let root = place.path("P");
    std::fs::create_dir(&root).unwrap();
    std::fs::rename(place.checkpoint(), Path::new(&root).join("base")).unwrap();
    adapter(place, "P/adapter", "1");
    result(&["compress", &format!("{root}/adapter"), "--out", &format!("{root}/adapter.cpft")]);
    place.write("P/thesis.txt", "x");
    std::fs::rename(place.data(), Path::new(&root).join("train.jsonl")).unwrap();
    let merge = json!({ "merge_method": "linear", "models": [{ "model": format!("{root}/base"), "parameters": { "weight": 1 } }] });
    place.write("P/recipe.yaml", &merge.to_string());
    let learned = json!({
        "merge_method": "adamerging",
        "base_model": format!("{root}/base"),
        "models": [{ "model": format!("{root}/base") }],
        "parameters": { "steps": 1 },
        "data": [{ "task": "t", "file": format!("{root}/train.jsonl") }],
    });
    place.write("P/learned.yaml", &learned.to_string());
    place.write("P/settings.yaml", "max_steps: 1\n");
    root
}

/// The commands that write a directory, but for it, and what they read.
const COMMANDS: [(&str, &[&str]); 7] = [
    ("merge R/recipe.yaml", &["recipe.yaml", "base"]),
    ("merge R/learned.yaml", &["learned.yaml", "base", "train.jsonl"]),
    ("merge-adapter --model R/base --adapter R/adapter", &["base", "adapter"]),
    ("merge-adapters R/adapter --weights 1", &["adapter"]),
    ("decompress R/adapter.cpft", &["adapter.cpft"]),
    ("finetune --model R/base --data R/train.jsonl --max-steps 1", &["base", "train.jsonl"]),
    (
        "finetune --config R/settings.yaml --model R/base --data R/train.jsonl --eval R/questions.jsonl --method full",
        &["settings.yaml", "base", "train.jsonl", "questions.jsonl"],
    ),
];

#[test]
fn a_directory_that_is_holds_or_is_in_an_input_is_no_output() {
    let place = Place::new();
    let root = inputs(&place);
    place.write("P/questions.jsonl", r#"{"prompt":"copy: badu = ","completion":"badu"}"#);
    let before = tree(Path::new(&root));
    for (number, (command, inputs)) in COMMANDS.iter().enumerate() {
        let words: Vec<String> = command.split(' ').map(|word| word.replace("R/", &format!("{root}/"))).collect();
        // What holds all inputs, by several names.
        let mut places = vec![root.clone(), format!("{root}/"), format!("{root}/base/.."), format!("{root}/nothing/..")];
        for input in *inputs {
            places.extend([format!("{root}/{input}"), format!("{root}/{input}/inside"), format!("{root}/{input}/in/side")]);
            #[cfg(unix)]
            {
                let link = place.path(&format!("{number}-to-{input}"));
                std::os::unix::fs::symlink(format!("{root}/{input}"), &link).unwrap();
                places.push(link);
            }
        }
        #[cfg(unix)]
        {
            let link = place.path(&format!("{number}-to-root"));
            std::os::unix::fs::symlink(&root, &link).unwrap();
            places.push(link);
        }
        for out in &places {
            let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
            arguments.extend(["--overwrite", "--out", out.as_str()]);
            let said = refusal(&arguments);
            assert!(said.contains("writing there") || said.contains("whose files are inputs"), "{arguments:?}: {said}");
            assert!(tree(Path::new(&root)) == before, "{arguments:?} has changed the inputs");
        }
    }
}

#[test]
fn a_run_leaves_directories_of_others_alone() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("others"));
    let run = ["finetune", "--model", TINY, "--data", &data, "--max-steps", "1", "--save-steps", "1", "--out", &out, "--overwrite"];
    for file in ["checkpoints/step-1/mine", "finished/mine"] {
        let file = place.file("others").join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "mine").unwrap();
        let said = refusal(&run);
        assert!(said.contains("holds files that peft has not written there"), "{said}");
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
        std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
    }
    std::fs::create_dir_all(place.file("others/notes")).unwrap();
    place.write("others/notes/mine", "mine");
    result(&run);
    result(&run);
    assert_eq!(std::fs::read(place.file("others/notes/mine")).unwrap(), b"mine");
    // A run of a version that listed no files.
    std::fs::create_dir_all(place.file("others/checkpoints/step-1")).unwrap();
    std::fs::remove_file(place.file("others/.peft-files")).unwrap();
    place.write("others/checkpoints/step-1/state.json", "{}");
    result(&run);
}

#[test]
fn a_quickstart_replaces_itself_and_nothing_else() {
    let place = Place::new();
    let root = inputs(&place);
    let before = tree(Path::new(&root));
    let said = refusal(&["quickstart", "--out", &root, "--overwrite"]);
    assert!(said.contains("holds files that peft has not written there (adapter.cpft, base/README.md, "), "{said}");
    assert!(tree(Path::new(&root)) == before);

    let out = place.path("quickstart");
    result(&["quickstart", "--out", &out]);
    result(&["quickstart", "--out", &out, "--overwrite"]);
    std::fs::write(Path::new(&out).join("adapter/notes.txt"), "mine").unwrap();
    let said = refusal(&["quickstart", "--out", &out, "--overwrite"]);
    assert!(said.contains("(adapter/notes.txt)"), "{said}");
}

#[test]
fn a_file_of_an_input_is_no_output() {
    let place = Place::new();
    let root = inputs(&place);
    let questions = place.write("P/questions.jsonl", r#"{"prompt":"copy: badu = ","answer":"badu"}"#);
    let encoder = Path::new(&root).join("encoder");
    std::fs::create_dir(&encoder).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"] {
        let from = format!("{}/../../fixtures/encoders/bert-classifier/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::copy(from, encoder.join(name)).unwrap();
    }
    place.write("P/labelled.jsonl", "{\"text\":\"a\",\"label\":0}\n");
    let before = tree(Path::new(&root));
    let commands = [
        "logits --model R/base --adapter R/adapter --tokens 1 --out",
        "fisher --model R/base --data R/train.jsonl --n-examples 1 --overwrite --out",
        "eval --model R/base --adapter R/adapter --data R/questions.jsonl --metric exact-match --predictions",
        "compress R/adapter --overwrite --out",
        "report R/adapter --out",
        "report R/adapter --out page.html --csv",
        "eval --model R/encoder --data R/labelled.jsonl --metric classification --predictions",
    ];
    let parts: [&[&str]; 7] = [
        &["base/model.safetensors", "adapter/adapter_model.safetensors", "base/config.json", "base/vocab.txt"],
        &["base/model.safetensors", "train.jsonl", "base/tokenizer.json"],
        &["questions.jsonl", "adapter/adapter_config.json", "base/chat_template.jinja"],
        &["adapter/adapter_model.safetensors", "adapter/adapter_config.json"],
        &["adapter/metrics.jsonl", "adapter/run.yaml", "adapter/adapter_model.safetensors", "adapter/.peft-files", "base/config.json"],
        &["adapter/metrics.jsonl", "base/model.safetensors"],
        &["labelled.jsonl", "encoder/model.safetensors", "encoder/config.json", "adapter/adapter_model.safetensors"],
    ];
    for (command, parts) in commands.iter().zip(parts) {
        for part in parts {
            let file = format!("{root}/{part}");
            let link = place.path("link");
            let _ = std::fs::remove_file(&link);
            #[cfg(unix)]
            std::os::unix::fs::symlink(&file, &link).unwrap();
            for out in [&file, &link].into_iter().filter(|out| cfg!(unix) || *out == &file) {
                let words: Vec<String> = command.split(' ').map(|word| word.replace('R', &root)).collect();
                let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
                arguments.push(out.as_str());
                refusal(&arguments);
                assert!(tree(Path::new(&root)) == before, "{arguments:?} has changed the inputs");
            }
        }
    }
    assert!(Path::new(&questions).exists());

    // As it is said of two outputs of one command.
    let (adapter, page) = (format!("{root}/adapter"), place.path("page.html"));
    let said = refusal(&["report", &adapter, "--out", &page, "--csv", &page]);
    assert!(said.contains("page.html: is another output of this command too"), "{said}");
    assert!(!Path::new(&page).exists());
}

#[test]
fn whole_weights_do_not_come_beside_those_of_another_checkpoint() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let train = ["finetune", "--model", TINY, "--data", &data, "--max-steps", "1", "--method", "full", "--overwrite", "--out", &out];
    std::fs::create_dir(&out).unwrap();
    for name in ["model-00001-of-00002.safetensors", "model.safetensors.index.json"] {
        std::fs::write(place.file("out").join(name), "{}").unwrap();
        let before = tree(Path::new(&out));
        let said = refusal(&train);
        assert!(said.contains(&format!("holds weights of another checkpoint, such as {name}")), "{said}");
        assert!(tree(Path::new(&out)) == before);
        std::fs::remove_file(place.file("out").join(name)).unwrap();
    }
    result(&train);
}

#[test]
fn a_run_that_does_not_start_leaves_nothing_and_stands_in_nobodys_way() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("deep/out"));
    let run = |more: &[&str]| peft(&[&["finetune", "--model", TINY, "--data", &data, "--out", &out, "--max-steps", "1"], more].concat());
    assert!(!run(&["--target-modules", "nothing"]).status.success());
    assert!(!run(&["--samples", "2"]).status.success());
    assert!(!place.file("deep").exists());

    // Killed anywhere before it has learned, as after it has written its settings.
    let has_learned = || place.file("deep/out/metrics.jsonl").metadata().is_ok_and(|file| file.len() > 0);
    let mut with_settings = 0;
    for change in (2..).step_by(3) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_peft"));
        command.args(["finetune", "--model", TINY, "--data", &data, "--out", &out, "--max-steps", "1"]);
        assert!(!command.env("PEFT_FAULT", format!("kill:{change}")).output().unwrap().status.success());
        if has_learned() {
            break;
        }
        with_settings += usize::from(place.file("deep/out/run.yaml").exists());
        let again = run(&[]);
        assert!(again.status.success(), "killed at change {change}: {}", String::from_utf8_lossy(&again.stderr));
        assert!(!run(&[]).status.success(), "a result does stand in the way");
        std::fs::remove_dir_all(place.file("deep")).unwrap();
    }
    assert!(with_settings > 0);
}

/// As transformers has it, which looks for an adapter where it finds an `adapter_config.json`.
#[test]
fn what_lies_in_a_base_does_not_come_into_the_merged_model() {
    let place = Place::new();
    let base = place.checkpoint();
    let adapter = adapter(&place, "adapter", "1");
    std::fs::copy(Path::new(&adapter).join("adapter_config.json"), base.join("adapter_config.json")).unwrap();
    for name in ["trainer_state.json", "secret.json", "notes.txt"] {
        std::fs::write(base.join(name), "{}").unwrap();
    }
    let base = base.to_string_lossy();
    let belongs = [".peft-files", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let merge = place.write("recipe.yaml", &json!({ "merge_method": "passthrough", "models": [{ "model": base }] }).to_string());
    let out = place.path("merged");
    result(&["merge-adapter", "--model", &base, "--adapter", &adapter, "--out", &out]);
    assert_eq!(tree(Path::new(&out)).into_keys().collect::<Vec<_>>(), belongs);
    result(&["merge", &merge, "--out", &out, "--overwrite"]);
    let files: Vec<String> = tree(Path::new(&out)).into_keys().filter(|name| name != "README.md" && name != "merge_recipe.yaml").collect();
    assert_eq!(files, belongs);
    let data = place.data();
    let full = place.path("full");
    result(&["finetune", "--model", &base, "--data", &data, "--max-steps", "1", "--method", "full", "--out", &full]);
    for name in ["adapter_config.json", "trainer_state.json", "secret.json", "notes.txt"] {
        assert!(!Path::new(&full).join(name).exists(), "{name}");
    }
}
