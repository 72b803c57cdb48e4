//! `peft merge` as a user runs it.

mod common;

use common::{Place, TINY, failure, result};
use peft_train::data::{ChatTemplate, Message};
use serde_json::{Value, json};
use std::path::Path;

fn model(name: &str) -> String {
    format!("{}/../../fixtures/merge/models/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn recipe(place: &Place) -> String {
    let models = ["a", "b"].map(|name| json!({ "model": model(name), "parameters": { "weight": 0.5, "density": 0.5 } }));
    let text = json!({
        "merge_method": "ties",
        "base_model": model("base"),
        "models": models,
        "dtype": "bfloat16",
    });
    place.write("recipe.yaml", &text.to_string())
}

#[test]
fn a_merge_is_planned_without_writing_and_then_written() {
    let place = Place::new();
    let (recipe, out) = (recipe(&place), place.path("merged"));
    let plan = result(&["merge", &recipe, "--out", &out, "--dry-run"]);
    assert!(!Path::new(&out).exists(), "a dry run writes nothing");
    assert_eq!((&plan["method"], &plan["files"]), (&json!("ties"), &json!(["model.safetensors"])));
    let weights = plan["weights"].as_array().unwrap();
    assert!(weights.iter().all(|weight| weight["dtype"] == "BF16" && weight["inputs"].as_array().unwrap().len() == 3));

    assert_eq!(weights[0]["settings"], "weight 0.5; density 0.5; normalize true; rescale false; lambda 1; int8_mask false");

    let merged = result(&["merge", &recipe, "--out", &out]);
    assert_eq!((&merged["bytes"], &merged["weights"]), (&plan["bytes"], &json!(weights.len())));
    assert!(failure(&["merge", &recipe, "--out", &out]).contains("exists already"));
    let again = result(&["merge", &recipe, "--out", &out, "--overwrite", "--shard-size", "4KB"]);
    assert_eq!(again["kept_files"], 0);
    assert!(Path::new(&out).join("model.safetensors.index.json").exists());
}

#[test]
fn a_merged_checkpoint_is_a_model_like_any_other() {
    let place = Place::new();
    let text = format!(
        "merge_method: passthrough\nslices:\n  - sources: [{{model: {TINY}, layer_range: [0, 2]}}]\n  - sources: [{{model: {TINY}, layer_range: [1, 2]}}]\n"
    );
    let out = place.path("deeper");
    result(&["merge", &place.write("recipe.yaml", &text), "--out", &out]);
    let logits = place.path("logits.safetensors");
    result(&["logits", "--model", &out, "--tokens", "1,2,3", "--out", &logits]);
    assert!(Path::new(&logits).exists());
}

#[test]
fn one_thread_is_enough() {
    let place = Place::new();
    let (recipe, out) = (recipe(&place), place.path("merged"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_peft"));
    let status = command.env("RAYON_NUM_THREADS", "1").args(["merge", &recipe, "--out", &out]).status().unwrap();
    assert!(status.success());
}

#[test]
fn mistakes_are_told_with_the_file_that_has_them() {
    let place = Place::new();
    let out = place.path("merged");
    let unknown = place.write("unknown.yaml", "merge_method: magic\nmodels: [{model: a}]\n");
    let error = failure(&["merge", &unknown, "--out", &out]);
    assert!(error.contains("unknown.yaml") && error.contains("there is no `magic`; known: linear, slerp"), "{error}");

    let field = place.write("field.yaml", "merge_method: linear\nmodles: [{model: a}]\n");
    let error = failure(&["merge", &field, "--out", &out]);
    assert!(error.contains("unknown field `modles`"), "{error}");

    let cycle = place.write("cycle.yaml", "merge_method: linear\nmodels: &models [{model: a}, *models]\n");
    let error = failure(&["merge", &cycle, "--out", &out]);
    assert!(error.contains("an alias refers to what it is a part of"), "{error}");

    let adapter = place.write("adapter.yaml", &format!("merge_method: passthrough\nmodels: [{{model: {TINY}+{TINY}}}]\n"));
    let error = failure(&["merge", &adapter, "--out", &out]);
    assert!(error.contains("is no adapter: it has no adapter_config.json"), "{error}");
    assert!(!Path::new(&out).exists());

    let error = failure(&["merge", TINY, "--out", &out]);
    assert!(error.contains("a directory, where a recipe is asked for"), "{error}");

    let missing = place.write("missing.yaml", "merge_method: passthrough\nmodels: [{model: nowhere}]\n");
    assert!(failure(&["merge", &missing, "--out", &out]).contains("no such directory"));
    let error = failure(&["merge", &place.path("nowhere.yaml"), "--out", &out]);
    assert!(error.contains("nowhere.yaml: no such file; a recipe is a YAML file"), "{error}");
}

#[test]
fn a_model_that_is_cut_or_has_no_tokenizer() {
    let place = Place::new();
    let (checkpoint, out) = (place.checkpoint(), place.path("merged"));
    let path = checkpoint.to_string_lossy();
    let text = format!("merge_method: linear\nmodels: [{{model: {TINY}}}, {{model: {path}}}]\nparameters: {{weight: 1}}\n");
    let recipe = place.write("recipe.yaml", &text);
    std::fs::remove_file(checkpoint.join("tokenizer.json")).unwrap();
    result(&["merge", &recipe, "--out", &out]);
    assert!(Path::new(&out).join("tokenizer.json").exists(), "the other model's");

    let file = checkpoint.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = failure(&["merge", &recipe, "--out", &place.path("other")]);
    assert!(error.contains("model/model.safetensors") && error.contains("truncated"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_files_that_are_complete() {
    let place = Place::new();
    let out = place.path("merged");
    let recipe = place.write("recipe.yaml", &format!("merge_method: passthrough\nmodels: [{{model: {TINY}}}]\n"));
    let merge = ["merge", &recipe, "--out", &out, "--shard-size", "30KB"];
    // Files may grow to 40 KiB, which the embedding does not reach, and the first matrix of a layer does.
    let script = "trap '' XFSZ; ulimit -f 80; exec \"$@\"";
    let mut command = std::process::Command::new("sh");
    let output = command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_peft")]).args(merge).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains(".safetensors: File too large"), "{stderr}");
    assert!(!Path::new(&out).exists());
    let waiting: Vec<String> = std::fs::read_dir(place.path(".merged.merging"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != "merge.json")
        .collect();
    assert!(!waiting.is_empty() && waiting.iter().all(|name| name.starts_with("model-000")), "{waiting:?}");
    assert_eq!(result(&merge)["kept_files"], waiting.len());
    result(&["logits", "--model", &out, "--tokens", "1,2,3", "--out", &place.path("logits.safetensors")]);
}

/// What mergekit 0.1.5's templates render by transformers 5.23, with a prompt for the answer.
#[test]
fn chat_templates_of_a_name_render_what_mergekits_do() {
    let place = Place::new();
    let said = |role: &str, content: &str| Message::new(role, content);
    let long = [said("system", " Be brief. "), said("user", "Hi"), said("assistant", " Hello! "), said("user", "More\nplease ")];
    for (name, of_long, of_short) in [
        (
            "alpaca",
            "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello!\n\n### Instruction:\nMore\nplease### Response:\n",
            "\n\n### Instruction:\nHi### Response:\n",
        ),
        (
            "chatml",
            "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n Hello! <|im_end|>\n<|im_start|>user\nMore\nplease <|im_end|>\n<|im_start|>assistant\n",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "exaone",
            "    [|system|] Be brief. \n        [|endofturn|]\n\n    [|user|]Hi\n        \n\n    [|assistant|] Hello! \n        [|endofturn|]\n\n    [|user|]More\nplease \n        \n\n    [|assistant|]\n",
            "        [|system|][|endofturn|]\n\n    [|user|]Hi\n        \n\n    [|assistant|]\n",
        ),
        (
            "llama3",
            "<bos><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\n<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>\n<|start_header_id|>user<|end_header_id|>\n\nMore\nplease<|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n\n",
            "<bos><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "<bos> [INST]  Be brief. \n\nHi [/INST]  Hello! <eos> [INST] More\nplease  [/INST]", "<bos> [INST] Hi [/INST]"),
    ] {
        let text = format!("merge_method: passthrough\nmodels: [{{model: {TINY}}}]\nchat_template: {name}\n");
        let out = place.path(name);
        result(&["merge", &place.write("recipe.yaml", &text), "--out", &out]);
        let template = ChatTemplate::load(&out).unwrap().unwrap();
        assert_eq!(template.render(&long, true).unwrap(), of_long, "{name}");
        assert_eq!(template.render(&long[1..2], true).unwrap(), of_short, "{name}");
    }
    let unknown = format!("merge_method: passthrough\nmodels: [{{model: {TINY}}}]\nchat_template: lama3\n");
    let error = failure(&["merge", &place.write("recipe.yaml", &unknown), "--out", &place.path("out")]);
    assert!(error.contains("`lama3` is neither auto, nor one of") && error.contains("the nearest is `llama3`"), "{error}");
}

#[test]
fn documents_of_a_recipe_are_merged_one_after_the_other() {
    let place = Place::new();
    let [a, b, base] = ["a", "b", "base"].map(model);
    let first = format!("merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n");
    let last = |mean: &str| format!("merge_method: slerp\nbase_model: {base}\nmodels: [{{model: {mean}}}]\nparameters: {{t: 0.3}}\n");
    result(&["merge", &place.write("first.yaml", &first), "--out", &place.path("mean")]);
    result(&["merge", &place.write("last.yaml", &last(&place.path("mean"))), "--out", &place.path("by-hand")]);

    let text = format!("{}---\nname: mean\n{first}", last("mean"));
    let recipe = place.write("recipe.yaml", &text);
    // Of a run that was killed.
    std::fs::create_dir_all(place.file(".merged.parts-old/.mean.merging")).unwrap();
    std::fs::write(place.file(".merged.parts-old/.lock"), "").unwrap();
    result(&["merge", &recipe, "--out", &place.path("merged")]);
    let bytes = |out: &str| std::fs::read(place.file(out).join("model.safetensors")).unwrap();
    assert_eq!(bytes("merged"), bytes("by-hand"));
    assert_eq!(std::fs::read_to_string(place.file("merged/merge_recipe.yaml")).unwrap(), text);
    let hidden =
        std::fs::read_dir(place.file(".")).unwrap().flatten().filter(|entry| entry.file_name().to_string_lossy().contains(".parts-"));
    assert_eq!(hidden.count(), 0, "nothing is left beside the result");
    assert!(failure(&["merge", &recipe, "--out", &place.path("other"), "--dry-run"]).contains("--dry-run is for recipes of one document"));
}

#[test]
fn models_that_compute_in_different_ways_are_merged_only_when_that_is_asked_for() {
    let place = Place::new();
    let other = place.checkpoint();
    let config = std::fs::read_to_string(other.join("config.json")).unwrap();
    std::fs::write(other.join("config.json"), config.replace("\"num_attention_heads\": 4", "\"num_attention_heads\": 8")).unwrap();
    let path = other.to_string_lossy();
    let linear = format!("merge_method: linear\nmodels: [{{model: {TINY}}}, {{model: {path}}}]\nparameters: {{weight: 1}}\n");
    let trained = json!({
        "merge_method": "adamerging", "base_model": TINY, "models": [{ "model": path }], "data": [{ "file": place.data() }],
        "parameters": { "steps": 1, "batch": 2 },
    });
    for text in [linear, trained.to_string()] {
        let (recipe, out) = (place.write("recipe.yaml", &text), place.path("merged"));
        let error = failure(&["merge", &recipe, "--out", &out]);
        assert!(error.contains("num_attention_heads is 4 in") && error.contains("pass --allow-incompatible"), "{error}");
        assert!(!Path::new(&out).exists());
    }
    let recipe = place.write(
        "recipe.yaml",
        &format!("merge_method: linear\nmodels: [{{model: {TINY}}}, {{model: {path}}}]\nparameters: {{weight: 1}}\n"),
    );
    result(&["merge", &recipe, "--out", &place.path("merged"), "--allow-incompatible"]);
}

#[test]
fn weights_are_searched_with_the_tokenizer_of_the_result() {
    let place = Place::new();
    let other = place.checkpoint();
    let text = std::fs::read_to_string(other.join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&text).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let (a, u) = (vocab["a"].clone(), vocab["u"].clone());
    (vocab["a"], vocab["u"]) = (u, a);
    std::fs::write(other.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let path = other.to_string_lossy();
    let text = format!(
        "merge_method: linear\ntokenizer_source: {path}\nmodels: [{{model: {TINY}}}, {{model: {path}}}]\nparameters: {{weight: 1}}\n"
    );
    let (recipe, data, out) = (place.write("recipe.yaml", &text), place.data(), place.path("merged"));
    let merged = result(&["merge", &recipe, "--out", &out, "--evaluate", &data, "--candidates", "3"]);
    let scores = result(&["eval", "--model", &out, "--data", &data, "--metric", "perplexity"]);
    let (found, measured) = (merged["search"]["score"].as_f64().unwrap(), scores["perplexity"].as_f64().unwrap());
    // The result is rounded to the type of the models.
    assert!((found - measured).abs() < 0.01 * measured, "{found} {measured}");
}
