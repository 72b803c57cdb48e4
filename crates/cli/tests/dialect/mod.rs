//! Every command says the same of an adapter of HF PEFT as HF PEFT does, or refuses it.
//!
//! `fixtures/dialect` holds the cases: adapters that HF PEFT has saved, settings that were changed afterwards, and its logits.

use crate::common::{Place, TINY, failure, peft};
use peft_core::files::Checkpoint;
use peft_core::{CONFIG_FILE, TENSOR_FILE};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Cases that recipes refuse with a way out: what is no low-rank change of the base's own weights.
const NOT_IN_RECIPES: [&str; 12] = [
    "grown",
    "grown-tied",
    "head-tied",
    "head-whole-tied",
    "ia3",
    "ia3-excluded",
    "ia3-no-feedforward",
    "names",
    "olora",
    "pissa",
    "vera",
    "vera-narrowed",
];
/// Cases that merges of adapters refuse besides: what is more than matrices.
const NOT_AMONG_ADAPTERS: [&str; 4] = ["bias", "bias-and-modules", "head-whole-tied", "saved-module-is-nowhere"];
/// Cases that merges of adapters read although recipes do not.
const AMONG_ADAPTERS_ALONE: [&str; 3] = ["grown", "grown-tied", "head-tied"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// What a command says of a case: logits, or why it refuses.
type Said = Result<Vec<f32>, String>;

struct Case {
    place: Place,
    name: String,
    base: String,
    adapter: String,
    tokens: String,
}

impl Case {
    fn new(case: &Value, tokens: &str) -> Self {
        let place = Place::new();
        let (from, dir) = (fixtures().join("dialect").join(case["adapter"].as_str().unwrap()), place.file("adapter"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::copy(from.join(TENSOR_FILE), dir.join(TENSOR_FILE)).unwrap();
        let mut config = json(&from.join(CONFIG_FILE));
        config.as_object_mut().unwrap().extend(case["settings"].as_object().unwrap().clone());
        std::fs::write(dir.join(CONFIG_FILE), config.to_string()).unwrap();
        let base = fixtures().join("models").join(case["base"].as_str().unwrap()).to_string_lossy().into_owned();
        Self { name: case["name"].as_str().unwrap().into(), base, adapter: place.path("adapter"), tokens: tokens.into(), place }
    }

    fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let output = peft(arguments);
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().into()),
        }
    }

    fn logits(&self, model: &[&str]) -> Said {
        let out = self.place.path("logits.safetensors");
        self.run(&[&["logits", "--tokens", &self.tokens, "--out", &out], model].concat())?;
        Ok(Checkpoint::open_file(Path::new(&out)).unwrap().f32s("logits").unwrap())
    }

    fn adapted(&self) -> Said {
        self.logits(&["--model", &self.base, "--adapter", &self.adapter])
    }

    fn merged(&self) -> Said {
        let out = self.place.path("merged");
        self.run(&["merge-adapter", "--model", &self.base, "--adapter", &self.adapter, "--out", &out])?;
        self.logits(&["--model", &out])
    }

    fn in_a_recipe(&self) -> Said {
        let out = self.place.path("from-recipe");
        let recipe = format!("merge_method: passthrough\nmodels: [{{model: {}+{}}}]\n", self.base, self.adapter);
        self.run(&["merge", &self.place.write("recipe.yaml", &recipe), "--out", &out])?;
        self.logits(&["--model", &out])
    }

    fn among_adapters(&self) -> Said {
        let out = self.place.path("of-one");
        self.run(&["merge-adapters", &self.adapter, "--weights", "1", "--combination", "cat", "--out", &out])?;
        self.logits(&["--model", &self.base, "--adapter", &out])
    }

    /// Compares all commands with what HF PEFT says.
    fn check(&self, expected: Option<Vec<f32>>) {
        let name = self.name.as_str();
        let recipe = !NOT_IN_RECIPES.contains(&name);
        let adapters = (recipe || AMONG_ADAPTERS_ALONE.contains(&name)) && !NOT_AMONG_ADAPTERS.contains(&name);
        let all = [
            ("logits", self.adapted(), true),
            ("merge-adapter", self.merged(), true),
            ("merge", self.in_a_recipe(), recipe),
            ("merge-adapters", self.among_adapters(), adapters),
        ];
        for (command, said, reads) in all {
            match (&expected, said) {
                (Some(expected), Ok(found)) if reads => {
                    assert_eq!(found.len(), expected.len(), "{name}: {command}");
                    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                    let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
                    assert!(error < 1e-4, "{name}: {command} differs from HF PEFT by {error:e}");
                }
                (None, Err(_)) => {}
                (Some(_), Err(said)) if !reads => assert!(said.contains("peft merge-adapter"), "{name}: {command}: {said}"),
                (expected, said) => {
                    panic!(
                        "{name}: {command}: {:?}, and HF PEFT {}",
                        said.map(|_| "read"),
                        if expected.is_some() { "reads it" } else { "refuses" }
                    )
                }
            }
        }
    }
}

#[test]
fn all_commands_read_an_adapter_as_hf_peft_does() {
    let cases = json(&fixtures().join("dialect/cases.json"));
    let tokens: Vec<String> = cases["tokens"].as_array().unwrap().iter().map(Value::to_string).collect();
    let expected = Checkpoint::open_file(&fixtures().join("dialect/expected.safetensors")).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() > 30);
    let (tokens, expected) = (tokens.join(","), &expected);
    let tokens = tokens.as_str();
    let check = |case: &Value| {
        let of_hf = (case["refused"] == false).then(|| expected.f32s(case["name"].as_str().unwrap()).unwrap());
        Case::new(case, tokens).check(of_hf);
    };
    let (one, other) = cases.split_at(cases.len() / 2);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| other.iter().for_each(check));
        one.iter().for_each(check);
        if let Err(panic) = second.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn settings_that_mean_something_else_are_refused_by_all_commands_with_the_same_words() {
    let cases = json(&fixtures().join("dialect/cases.json"));
    let settings = [
        ("use_hyperlora", Value::from(true), "`use_hyperlora` is true, and an adapter of type LORA has no such setting"),
        ("layer_replication", serde_json::json!([[0, 2]]), "`layer_replication` is not supported: layers of the base are repeated"),
        ("trainable_token_indices", serde_json::json!([1]), "`trainable_token_indices` is not supported"),
        ("r", Value::from("four"), "`r` is \"four\"; expected a whole number"),
        ("target_modules", Value::from("("), "target_modules: `(` is not a regular expression"),
        ("init_lora_weights", Value::from("loftq"), "init_lora_weights is `loftq`: the base was quantised"),
    ];
    for (setting, value, words) in settings {
        let mut case = cases["cases"][0].clone();
        case["settings"][setting] = value;
        let case = Case::new(&case, "4,5");
        let small = case.place.path("small.cpft");
        let said =
            [case.adapted().unwrap_err(), case.merged().unwrap_err(), case.in_a_recipe().unwrap_err(), case.among_adapters().unwrap_err()];
        assert!(said.iter().all(|said| said.contains(words)), "{setting}: {said:?}");
        if !matches!(setting, "target_modules" | "init_lora_weights") {
            let said = case.run(&["compress", &case.adapter, "--out", &small]).unwrap_err();
            assert!(said.contains(words), "{said}");
            let said = case.run(&["inspect", &case.adapter]).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }
}

/// HF PEFT drops nothing where the share is negative, and torch's `Dropout` takes all up to 1.
#[test]
fn dropout_says_nothing_about_a_loaded_adapter() {
    let cases = json(&fixtures().join("dialect/cases.json"));
    let plain = Case::new(&cases["cases"][0], "4,5").adapted().unwrap();
    for share in [1.0, -0.5] {
        let mut case = cases["cases"][0].clone();
        case["settings"]["lora_dropout"] = share.into();
        Case::new(&case, "4,5").check(Some(plain.clone()));
    }
    let mut case = cases["cases"][0].clone();
    case["settings"]["lora_dropout"] = 1.5.into();
    let case = Case::new(&case, "4,5");
    for said in [case.adapted(), case.merged(), case.in_a_recipe(), case.among_adapters()] {
        assert!(said.as_ref().is_err_and(|said| said.contains("`lora_dropout` is 1.5; expected a share of at most 1")), "{said:?}");
    }
}

#[test]
fn an_adapter_in_place_of_a_model_is_told_how_it_is_given() {
    let cases = json(&fixtures().join("dialect/cases.json"));
    let mut case = cases["cases"][0].clone();
    case["settings"]["base_model_name_or_path"] = "org/base".into();
    let case = Case::new(&case, "4,5");
    let recipe = format!("merge_method: passthrough\nmodels: [{{model: {}}}]\n", case.adapter);
    let (recipe, out) = (case.place.write("recipe.yaml", &recipe), case.place.path("out"));
    let words = [format!("--model org/base --adapter {}", case.adapter), format!("org/base+{}", case.adapter)];
    for said in [
        failure(&["logits", "--model", &case.adapter, "--tokens", "4,5", "--out", &out]),
        failure(&["merge", &recipe, "--out", &out]),
        failure(&["finetune", "--model", &case.adapter, "--data", &recipe, "--out", &out]),
    ] {
        assert!(words.iter().all(|words| said.contains(words)), "{said}");
    }
}

#[test]
fn tensors_that_are_not_selected_are_named() {
    let cases = json(&fixtures().join("dialect/cases.json"));
    let narrowed = cases["cases"].as_array().unwrap().iter().find(|case| case["name"] == "excluded").unwrap();
    let case = Case::new(narrowed, "4,5");
    let recipe = format!("merge_method: passthrough\nmodels: [{{model: {}+{}}}]\n", case.base, case.adapter);
    let (recipe, out) = (case.place.write("recipe.yaml", &recipe), case.place.path("out"));
    let logits = case.place.path("logits.safetensors");
    for command in [
        vec!["logits", "--model", &case.base, "--adapter", &case.adapter, "--tokens", "4", "--out", &logits],
        vec!["merge", &recipe, "--out", &out],
        vec!["merge-adapters", &case.adapter, "--weights", "1", "--out", &out, "--overwrite"],
    ] {
        let output = peft(&command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("`model.layers.0.self_attn.q_proj`, `model.layers.1.self_attn.q_proj` are left out"), "{command:?}: {said}");
    }
}

#[test]
fn settings_of_a_run_that_match_nothing_are_told() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let finetune = ["finetune", "--model", TINY, "--data", &data, "--max-steps", "1", "--out", &out, "--overwrite"];
    let said = failure(&[&finetune[..], &["--target-modules", "q_proj,v_prj"]].concat());
    assert!(said.contains("no module matches `v_prj`; the nearest names are `v_proj`"), "{said}");
    let said = failure(&[&finetune[..], &["--modules-to-save", "lm_haed"]].concat());
    assert!(said.contains("no module matches `lm_haed`"), "{said}");
    let patterns = "target_modules: [q_proj]\nalpha_pattern: {^q_proj: 800}\nrank_pattern: {v_prj: 2}\n";
    let config = place.write("run.yaml", patterns);
    for (arguments, words) in [
        (["--exclude-modules", "q_prj"], "exclude_modules: `q_prj` matches nothing in this model; the nearest are `q_proj`"),
        (["--layers-to-transform", "0,99"], "layers_to_transform: `99` matches nothing in this model"),
        (["--bias", "all"], "bias: `all` matches nothing"),
        (["--config", &config], "rank_pattern: `v_prj` matches nothing"),
        (["--config", &config], "alpha_pattern: `^q_proj` matches nothing"),
    ] {
        let output = peft(&[&finetune[..], &arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn a_head_that_is_trained_is_one_of_its_own() {
    let place = Place::new();
    let (data, out, merged) = (place.data(), place.path("out"), place.path("merged"));
    let base = fixtures().join("models/qwen2").to_string_lossy().into_owned();
    let model = place.checkpoint();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(&base).join(file), model.join(file)).unwrap();
    }
    let logits = |arguments: &[&str]| {
        let file = place.path("logits.safetensors");
        let output = peft(&[&["logits", "--tokens", "4,5,6", "--out", &file], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Checkpoint::open_file(Path::new(&file)).unwrap().f32s("logits").unwrap()
    };
    let model = model.to_string_lossy().into_owned();
    for method in [&["--target-modules", "q_proj,lm_head"][..], &["--modules-to-save", "lm_head"]] {
        let finetune = ["finetune", "--model", &model, "--data", &data, "--max-steps", "2", "--lr", "0.1", "--out", &out, "--overwrite"];
        let output = peft(&[&finetune[..], method].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(Checkpoint::open_file(&Path::new(&out).join(TENSOR_FILE)).unwrap().keys().any(|key| key.contains("lm_head")));
        let adapted = logits(&["--model", &model, "--adapter", &out]);
        assert!(adapted.iter().zip(logits(&["--model", &model])).any(|(a, b)| (a - b).abs() > 1e-3));
        let output = peft(&["merge-adapter", "--model", &model, "--adapter", &out, "--out", &merged, "--overwrite"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(json(&Path::new(&merged).join("config.json"))["tie_word_embeddings"], false);
        assert!(adapted.iter().zip(logits(&["--model", &merged])).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}
