//! `peft merge-adapters`, and adapters in recipes of `peft merge`, as a user runs them.

mod common;
mod dialect;

use common::{Place, TINY, failure, peft, result};
use peft_core::files::Checkpoint;
use serde_json::json;
use std::path::Path;

/// Two short trainings, as `first` and `second`.
fn adapters(place: &Place) -> [String; 2] {
    let data = place.data();
    let train = |name: &str, more: &[&str]| {
        let out = place.path(name);
        let fixed = ["finetune", "--model", TINY, "--data", &data, "--max-steps", "4", "--lr", "0.02", "--out", &out];
        result(&[&fixed, more].concat());
        out
    };
    [
        train("first", &["--r", "4", "--target-modules", "q_proj,v_proj"]),
        train("second", &["--r", "4", "--method", "rslora", "--seed", "9"]),
    ]
}

fn logits(place: &Place, model: &[&str]) -> Vec<f32> {
    let out = place.path("logits.safetensors");
    result(&[&["logits", "--tokens", "1,20,33,41,7", "--out", &out], model].concat());
    Checkpoint::open_file(Path::new(&out)).unwrap().f32s("logits").unwrap()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn merged_adapters_do_what_a_merge_of_models_with_them_does() {
    let place = Place::new();
    let [first, second] = adapters(&place);
    let (both, merged) = (place.path("both"), place.path("merged"));
    let done = result(&["merge-adapters", &first, &second, "--weights", "0.7,-0.4", "--combination", "cat", "--out", &both]);
    assert_eq!((&done["combination"], &done["rank"]), (&json!("cat"), &json!(8)));
    let adapted = logits(&place, &["--model", TINY, "--adapter", &both]);
    assert!(difference(&logits(&place, &["--model", TINY]), &adapted) > 0.01, "the adapters do something");

    let recipe = format!(
        "merge_method: task_arithmetic\nbase_model: {TINY}\ndtype: float32\nmodels:\n  - {{model: {TINY}+{first}, parameters: {{weight: 0.7}}}}\n  \
         - {{model: {TINY}+{second}, parameters: {{weight: -0.4}}}}\n"
    );
    result(&["merge", &place.write("recipe.yaml", &recipe), "--out", &merged]);
    let found = difference(&logits(&place, &["--model", &merged]), &adapted);
    assert!(found < 1e-4, "{found:e}");

    let svd = place.path("svd");
    result(&["merge-adapters", &first, &second, "--weights", "0.7,-0.4", "--svd-rank", "8", "--out", &svd]);
    let found = difference(&logits(&place, &["--model", TINY, "--adapter", &svd]), &adapted);
    assert!(found < 1e-4, "{found:e}");
}

#[test]
fn an_adapter_in_a_recipe_is_what_merge_adapter_makes_of_it() {
    let place = Place::new();
    let [first, _] = adapters(&place);
    let (merged, put) = (place.path("merged"), place.path("put"));
    let recipe = place.write("recipe.yaml", &format!("merge_method: passthrough\nmodels: [{{model: {TINY}+{first}}}]\n"));
    let plan = result(&["merge", &recipe, "--out", &merged, "--dry-run"]);
    assert_eq!(plan["models"], json!([format!("{TINY}+{first}")]));
    result(&["merge", &recipe, "--out", &merged]);
    result(&["merge-adapter", "--model", TINY, "--adapter", &first, "--out", &put]);
    let (ours, theirs) = (Checkpoint::open(Path::new(&merged)).unwrap(), Checkpoint::open(Path::new(&put)).unwrap());
    for key in theirs.keys() {
        assert_eq!(ours.info(key), theirs.info(key), "{key}");
        // In f16, whose last bit a sum in another order may turn.
        assert!(difference(&ours.f32s(key).unwrap(), &theirs.f32s(key).unwrap()) < 1e-3, "{key}");
    }
    let error = failure(&["merge", &recipe, "--out", &first, "--overwrite"]);
    assert!(error.contains("is an adapter of the recipe"), "{error}");
}

#[test]
fn every_combination_runs_and_compressed_adapters_are_adapters() {
    let place = Place::new();
    let [first, _] = adapters(&place);
    let small = place.path("first.cpft");
    result(&["compress", &first, "--density", "0.5", "--out", &small]);
    for name in
        ["svd", "linear", "cat", "ties", "ties_svd", "dare_ties", "dare_linear", "dare_ties_svd", "dare_linear_svd", "magnitude_prune"]
    {
        let out = place.path(name);
        let density = if ["svd", "linear", "cat"].contains(&name) { &[][..] } else { &["--density", "0.6"][..] };
        let fixed = ["merge-adapters", &first, &small, "--weights", "0.5,0.5", "--combination", name, "--out", &out];
        result(&[&fixed, density].concat());
        logits(&place, &["--model", TINY, "--adapter", &out]);
        assert_eq!(result(&["inspect", &out])["kind"], "adapter");
    }
}

#[test]
fn a_merge_of_adapters_is_planned_without_writing() {
    let place = Place::new();
    let [first, second] = adapters(&place);
    let out = place.path("out");
    let merge = ["merge-adapters", &first, &second, "--weights", "1,1", "--combination", "cat", "--out", &out, "--dry-run"];
    let plan = result(&merge);
    assert!(!Path::new(&out).exists());
    let rows = plan["plan"].as_array().unwrap();
    assert_eq!(rows.len() as u64, plan["modules"].as_u64().unwrap());
    assert!(rows.iter().any(|row| row["rank"] == 8 && row["adapters"] == json!([first, second])), "{plan}");
    let text = String::from_utf8(peft(&merge).stdout).unwrap();
    assert!(text.contains("rank 8") && text.contains("cat of 2 adapters"), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let [first, second] = adapters(&place);
    let out = place.path("out");
    let merge = |more: &[&str]| {
        let said = failure(&[&["merge-adapters", &first, &second, "--out", &out], more].concat());
        assert!(!Path::new(&out).exists(), "{said}");
        said
    };
    assert!(merge(&["--weights", "1"]).contains("number of weights is 1, that of adapters 2"));
    assert!(merge(&["--weights", "1,1", "--combination", "ties"]).contains("needs a density"));
    assert!(merge(&["--weights", "1,1", "--density", "0.5"]).contains("svd drops nothing"));
    let unknown = peft(&["merge-adapters", &first, &second, "--out", &out, "--weights", "1,1", "--combination", "tise"]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(unknown.status.code() == Some(2) && said.contains("magnitude_prune_svd") && said.contains("'ties'"), "{said}");
    let said = failure(&["merge-adapters", &first, TINY, "--weights", "1,1", "--out", &out]);
    assert!(said.contains("is no adapter"), "{said}");
    let said = failure(&["merge-adapters", "nowhere", "--weights", "1", "--out", &out]);
    assert!(said.contains("no such directory"), "{said}");

    let said = failure(&["merge-adapters", &first, &second, "--weights", "1,1", "--out", &second]);
    assert!(said.contains("is one of the adapters"), "{said}");
    result(&["merge-adapters", &first, &second, "--weights", "1,1", "--out", &out]);
    let said = failure(&["merge-adapters", &first, &second, "--weights", "1,1", "--out", &out]);
    assert!(said.contains("exists already"), "{said}");
    result(&["merge-adapters", &first, &second, "--weights", "1,1", "--out", &out, "--overwrite"]);

    let file = format!("{second}/adapter_model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let said = failure(&["merge-adapters", &first, &second, "--weights", "1,1", "--out", &place.path("other")]);
    assert!(said.contains("second/adapter_model.safetensors") && said.contains("truncated"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_no_adapter() {
    let place = Place::new();
    let [first, second] = adapters(&place);
    let out = place.path("out");
    // Files may grow to 4 KiB.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
    let mut command = std::process::Command::new("sh");
    let merge = ["merge-adapters", &first, &second, "--weights", "1,1", "--out", &out];
    let output = command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_peft")]).args(merge).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("adapter_model.safetensors: File too large"), "{stderr}");
    let left = std::fs::read_dir(place.path("")).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("out"));
    assert_eq!(left.count(), 0);
}

#[test]
fn an_adapters_own_template_and_tokens_count_and_go_where_it_goes() {
    let place = Place::new();
    let [first, second] = adapters(&place);
    let base_settings: serde_json::Value =
        serde_json::from_slice(&std::fs::read(Path::new(TINY).join("tokenizer_config.json")).unwrap()).unwrap();
    let mut settings = base_settings.clone();
    settings["chat_template"] = json!("[{{ messages[0].content }}]");
    std::fs::write(Path::new(&first).join("tokenizer_config.json"), settings.to_string()).unwrap();

    // The base puts <bos> before the text, the adapter's template two brackets around it.
    let prompt_tokens = |model: &[&str]| {
        let asked = [&["generate", "--chat", "--prompt", "ab", "--max-new-tokens", "1"], model].concat();
        result(&asked)["results"][0]["prompt_tokens"].as_u64().unwrap()
    };
    assert_eq!(prompt_tokens(&["--model", TINY]), 3);
    assert_eq!(prompt_tokens(&["--model", TINY, "--adapter", &first]), 4);

    let (merged, together, recipe_out) = (place.path("merged"), place.path("together"), place.path("recipe-out"));
    result(&["merge-adapter", "--model", TINY, "--adapter", &first, "--out", &merged]);
    assert_eq!(prompt_tokens(&["--model", &merged]), 4);
    result(&["merge-adapters", &first, &second, "--weights", "0.5,0.5", "--out", &together]);
    assert_eq!(prompt_tokens(&["--model", TINY, "--adapter", &together]), 4);
    let recipe =
        place.write("recipe.yaml", &format!("merge_method: linear\nmodels:\n- {{model: {TINY}+{first}, parameters: {{weight: 1}}}}\n"));
    result(&["merge", &recipe, "--out", &recipe_out]);
    assert_eq!(prompt_tokens(&["--model", &recipe_out]), 4);

    // A template in a file of its own goes before the one beside it, also before the base's.
    std::fs::remove_file(Path::new(&first).join("tokenizer_config.json")).unwrap();
    std::fs::write(Path::new(&first).join("chat_template.jinja"), "({{ messages[0].content }}))").unwrap();
    assert_eq!(prompt_tokens(&["--model", TINY, "--adapter", &first]), 5);
    result(&["merge-adapter", "--model", TINY, "--adapter", &first, "--out", &merged, "--overwrite"]);
    assert_eq!(prompt_tokens(&["--model", &merged]), 5);

    // A token that the base's embedding does not have is an error where it is used.
    let mut settings = base_settings;
    settings["additional_special_tokens"] = json!(["<new>"]);
    std::fs::write(Path::new(&first).join("tokenizer_config.json"), settings.to_string()).unwrap();
    let reason = failure(&["generate", "--model", TINY, "--adapter", &first, "--prompt", "a<new>"]);
    assert!(reason.contains("gives the token `<new>` the id 100, and the model's embedding has 100 tokens"), "{reason}");
}
