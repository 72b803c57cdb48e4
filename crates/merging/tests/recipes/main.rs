//! Recipes that are understood, and those that are not.

#[path = "../common/mod.rs"]
mod common;

mod buffers;
mod compatibility;
mod in_vain;
mod special_ids;

use common::{checkpoint, computed, numbers, plan_in, tokenizer};
use peft_merge::{METHODS, Recipe, Workshop};
use serde_json::{Value, json};
use std::path::Path;

/// Two models of two layers with an embedding of four rows.
fn models(root: &Path) {
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        // Squares, where a method looks for Fisher information.
        let squares = |len, seed| numbers(len, seed).iter().map(|x| x * x).collect::<Vec<f32>>();
        checkpoint(
            &root.join(name),
            &[
                ("model.embed_tokens.weight", &[4, 3], squares(12, seed)),
                ("model.layers.0.w.weight", &[3, 3], squares(9, seed + 10)),
                ("model.layers.1.w.weight", &[3, 3], squares(9, seed + 20)),
                ("model.norm.weight", &[3], squares(3, seed + 30)),
            ],
        );
        std::fs::rename(root.join(name).join("model.safetensors"), root.join(name).join("fisher.safetensors")).unwrap();
        checkpoint(
            &root.join(name),
            &[
                ("model.embed_tokens.weight", &[4, 3], numbers(12, seed)),
                ("model.layers.0.w.weight", &[3, 3], numbers(9, seed + 10)),
                ("model.layers.1.w.weight", &[3, 3], numbers(9, seed + 20)),
                ("model.norm.weight", &[3], numbers(3, seed + 30)),
            ],
        );
    }
}

const LINEAR: &str = "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 1}}\n  - {model: b, parameters: {weight: 1}}\n";

fn error(recipe: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    plan_in(place.path(), recipe).unwrap_err().to_string()
}

/// The error of the linear recipe, of models that `change` has damaged.
fn error_of_damaged(recipe: &str, change: impl FnOnce(&Path)) -> String {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    change(place.path());
    match plan_in(place.path(), recipe) {
        Err(error) => error.to_string(),
        Ok(plan) => {
            std::fs::create_dir(place.path().join("out")).unwrap();
            plan.write(&place.path().join("out"), 1, &|_| ()).unwrap_err().to_string()
        }
    }
}

#[test]
fn every_method_has_a_recipe_that_is_understood() {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    for method in METHODS {
        let models = match method.models {
            (1, 1) => "[{model: b}]",
            _ => "[{model: b}, {model: c}]",
        };
        let base = if method.base == peft_merge::BaseUse::Ordinary { "" } else { "base_model: a\n" };
        let recipe = format!("merge_method: {}\n{base}models: {models}\nparameters: {{weight: 0.5, t: 0.5, density: 0.5}}\n", method.name);
        let plan = plan_in(place.path(), &recipe).unwrap_or_else(|e| panic!("{}: {e}", method.name));
        for weight in &plan.weights {
            plan.compute(weight).unwrap_or_else(|e| panic!("{}: {e}", method.name));
        }
    }
}

#[test]
fn slices_stack_layers_of_several_models() {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    let recipe = "merge_method: passthrough\nslices:\n  - sources: [{model: a, layer_range: [0, 2]}]\n  - sources: [{model: b, layer_range: [1, 2]}]\n";
    let plan = plan_in(place.path(), recipe).unwrap();
    let of = |model: &str, key: &str| peft_core::files::Checkpoint::open(&place.path().join(model)).unwrap().f32s(key).unwrap();
    for (name, model, key) in [
        ("model.layers.1.w.weight", "a", "model.layers.1.w.weight"),
        ("model.layers.2.w.weight", "b", "model.layers.1.w.weight"),
        ("model.embed_tokens.weight", "a", "model.embed_tokens.weight"),
        ("model.norm.weight", "b", "model.norm.weight"),
    ] {
        assert_eq!(computed(&plan, name), of(model, key), "{name}");
    }
    assert_eq!((plan.weights.len(), plan.layers()), (5, Some(3)));
}

#[test]
fn a_head_that_shares_the_embedding_is_merged_with_one_that_does_not() {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    let head = |seed| ("lm_head.weight", [4usize, 3], numbers(12, seed));
    let (name, shape, values) = head(9);
    checkpoint(&place.path().join("b"), &[("model.embed_tokens.weight", &[4, 3], numbers(12, 2)), (name, &shape, values.clone())]);
    checkpoint(&place.path().join("a"), &[("model.embed_tokens.weight", &[4, 3], numbers(12, 1))]);
    let plan = plan_in(place.path(), LINEAR).unwrap();
    let expected: Vec<f32> = numbers(12, 1).iter().zip(&values).map(|(a, b)| (a + b) / 2.0).collect();
    assert_eq!(computed(&plan, "lm_head.weight"), expected);
}

/// A model: its name, its configuration, and the seeds of its weights.
type Tied<'a> = (&'a str, Value, &'a [(&'a str, u32)]);

/// What transformers 5.23 takes for one weight is one here: the keys of the result, and whether its configuration ties them.
fn tied_result(recipe: &str, models: &[Tied<'_>]) -> (Vec<String>, Value) {
    let place = tempfile::tempdir().unwrap();
    for (name, config, tables) in models {
        let mut weights: Vec<(&str, &[usize], Vec<f32>)> =
            vec![("model.layers.0.w.weight", &[3], numbers(3, 5)), ("model.norm.weight", &[3], numbers(3, 6))];
        weights.extend(tables.iter().map(|(key, seed)| (*key, &[4usize, 3][..], numbers(12, *seed))));
        checkpoint(&place.path().join(name), &weights);
        std::fs::write(place.path().join(name).join("config.json"), config.to_string()).unwrap();
    }
    let plan = plan_in(place.path(), recipe).unwrap();
    let out = place.path().join("out");
    Workshop::open(&plan, &out, false, 1 << 30).unwrap().run(&|_| ()).unwrap();
    let file = peft_core::files::Checkpoint::open(&out).unwrap();
    let keys = file.keys().filter(|key| !key.contains("layers") && !key.contains("norm")).map(String::from).collect();
    (keys, peft_core::files::read_json(&out.join("config.json")).unwrap())
}

#[test]
fn the_result_says_the_truth_about_its_head() {
    const BOTH: [&str; 2] = ["lm_head.weight", "model.embed_tokens.weight"];
    let (tied, untied) =
        (json!({ "num_hidden_layers": 1, "tie_word_embeddings": true }), json!({ "num_hidden_layers": 1, "tie_word_embeddings": false }));
    let one = "merge_method: passthrough\nmodels: [{model: a}]\n";
    let (embedding, copy, head) = ((BOTH[1], 1), (BOTH[0], 1), (BOTH[0], 9));

    let (keys, config) = tied_result(one, &[("a", tied.clone(), &[embedding, head])]);
    assert_eq!((keys.as_slice(), &config["tie_word_embeddings"]), (&BOTH.map(String::from)[..], &json!(false)), "another head is stored");
    let (keys, config) = tied_result(one, &[("a", tied.clone(), &[embedding, copy])]);
    assert_eq!((keys.as_slice(), &config["tie_word_embeddings"]), (&[BOTH[1].to_string()][..], &json!(true)), "a copy is one weight");
    let (keys, config) = tied_result(one, &[("a", tied.clone(), &[head])]);
    assert_eq!((keys.as_slice(), &config["tie_word_embeddings"]), (&[BOTH[0].to_string()][..], &json!(true)), "the head alone is both");
    let (keys, config) = tied_result(one, &[("a", untied.clone(), &[embedding, copy])]);
    assert_eq!((keys.len(), &config["tie_word_embeddings"]), (2, &json!(false)), "nobody ties them");

    let nested = json!({ "tie_word_embeddings": true, "text_config": { "num_hidden_layers": 1, "tie_word_embeddings": true } });
    let (keys, config) = tied_result(one, &[("a", nested, &[embedding, head])]);
    assert_eq!(
        (keys.len(), &config["tie_word_embeddings"], &config["text_config"]["tie_word_embeddings"]),
        (2, &json!(false), &json!(false))
    );

    let (keys, config) = tied_result(LINEAR, &[("a", tied.clone(), &[embedding]), ("b", tied.clone(), &[embedding, copy])]);
    assert_eq!((keys.len(), &config["tie_word_embeddings"]), (1, &json!(true)), "a copy beside one that is not stored");
    let (keys, config) = tied_result(LINEAR, &[("a", tied.clone(), &[embedding]), ("b", tied.clone(), &[head])]);
    assert_eq!((keys.len(), &config["tie_word_embeddings"]), (2, &json!(false)), "each has another key");
    let (keys, config) = tied_result(LINEAR, &[("a", tied, &[embedding]), ("b", untied, &[embedding, head])]);
    assert_eq!((keys.len(), &config["tie_word_embeddings"]), (2, &json!(false)));
}

#[test]
fn the_last_slice_brings_its_head_also_where_that_is_its_embedding() {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    for name in ["a", "b"] {
        let config = json!({ "num_hidden_layers": 2, "tie_word_embeddings": true });
        std::fs::write(place.path().join(name).join("config.json"), config.to_string()).unwrap();
    }
    let slices = |last: &str| {
        format!(
            "merge_method: passthrough\nslices:\n  - sources: [{{model: a, layer_range: [0, 2]}}]\n  - sources: [{{model: {last}, layer_range: [1, 2]}}]\n"
        )
    };
    let plan = plan_in(place.path(), &slices("b")).unwrap();
    assert_eq!(computed(&plan, "lm_head.weight"), numbers(12, 2));
    assert_eq!(computed(&plan, "model.embed_tokens.weight"), numbers(12, 1));
    let plan = plan_in(place.path(), &slices("a")).unwrap();
    assert!(plan.weights.iter().all(|weight| weight.name != "lm_head.weight"), "one model has one weight");
}

#[test]
fn an_unknown_method_is_answered_with_the_known_ones() {
    let error = error("merge_method: lineal\nmodels: [{model: a}]\n");
    assert!(error.contains("`lineal`") && METHODS.iter().all(|method| error.contains(method.name)), "{error}");
}

#[test]
fn an_unknown_field_is_named_wherever_it_is() {
    for recipe in [
        format!("{LINEAR}dtipe: float16\n"),
        LINEAR.replace("model: b,", "model: b, wieght: 3,"),
        "merge_method: passthrough\nslices:\n  - sources: [{model: a, layer_range: [0, 1], layers: 3}]\n".into(),
    ] {
        let error = Recipe::parse(&recipe).unwrap_err().to_string();
        assert!(["dtipe", "wieght", "layers"].iter().any(|field| error.contains(&format!("`{field}`"))), "{error}");
    }
}

#[test]
fn an_unknown_parameter_is_answered_with_the_known_ones() {
    let error = error(&LINEAR.replace("weight: 1", "wieght: 1"));
    assert!(error.contains("`wieght`") && error.contains("weight, normalize"), "{error}");
}

#[test]
fn a_missing_parameter_is_told_with_model_and_weight() {
    let error = error(&LINEAR.replace("{model: b, parameters: {weight: 1}}", "{model: b}"));
    assert!(error.contains("b: `model.embed_tokens.weight`: linear needs the parameter weight"), "{error}");
}

#[test]
fn values_out_of_range_are_refused() {
    let recipe = |parameters: &str, method: &str| {
        format!("merge_method: {method}\nbase_model: a\nmodels: [{{model: b}}, {{model: c}}]\nparameters: {{weight: 1, {parameters}}}\n")
    };
    assert!(error(&recipe("density: 1.5", "ties")).contains("density: between 0 and 1, not 1.5"));
    assert!(error(&recipe("density: 0.9, epsilon: 0.2", "della")).contains("0.9 ± 0.2"));
    assert!(error(&recipe("select_topk: 2", "sce")).contains("select_topk: between 0 and 1"));
    assert!(error(&recipe("alpha: -1", "ramplus_tl")).contains("alpha: at least 0"));
    assert!(error(&recipe("normalize: 3", "ties")).contains("normalize is true or false"));
    assert!(error(&recipe("density: half", "ties")).contains("`half` is no number"));
    let zero = LINEAR.replacen("weight: 1", "weight: -1", 1);
    assert!(error(&zero).contains("sum to zero"), "{}", error(&zero));
}

#[test]
fn the_number_of_models_and_the_base_are_checked() {
    let with = |method: &str, base: &str, models: &str| {
        format!("merge_method: {method}\n{base}models: {models}\nparameters: {{weight: 1, t: 0.5}}\n")
    };
    let base = "base_model: a\n";
    assert!(error(&with("slerp", base, "[{model: b}, {model: c}]")).contains("slerp takes 1 model beside the base_model, not 2"));
    assert!(error(&with("model_stock", base, "[{model: b}]")).contains("takes at least 2 models beside the base_model, not 1"));
    assert!(error(&with("passthrough", "", "[{model: a}, {model: b}]")).contains("passthrough takes 1 model, not 2"));
    assert!(error(&with("ties", "", "[{model: a}, {model: b}]")).contains("ties needs a base_model"));
    assert!(error(&with("linear", "", "[{model: a}, {model: a}]")).contains("a is listed twice"));
    assert!(error("merge_method: linear\n").contains("exactly one of models, slices and modules"));
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let sliced = |a: &str, b: &str| {
        format!(
            "merge_method: linear\nparameters: {{weight: 1}}\nslices: [{{sources: [{{model: a, layer_range: {a}}}, {{model: b, layer_range: {b}}}]}}]\n"
        )
    };
    assert!(error(&sliced("[0, 2]", "[0, 1]")).contains("equal length: a 0..2, b 0..1"));
    assert!(error(&sliced("[0, 3]", "[0, 3]")).contains("a has 2 layers, the slice ends at 3"));
    assert!(error(&sliced("[1, 1]", "[1, 1]")).contains("layer_range [1, 1] holds no layer"));
}

#[test]
fn a_missing_weight_is_named_with_the_model_that_lacks_it() {
    let error = error_of_damaged(LINEAR, |root| {
        checkpoint(&root.join("b"), &[("model.embed_tokens.weight", &[4, 3], numbers(12, 2)), ("model.norm.weight", &[3], numbers(3, 1))]);
    });
    assert!(error.contains("b: tensor `model.layers.0.w.weight`: expected a tensor, as a has it"), "{error}");
}

#[test]
fn a_weight_of_another_shape_is_named_with_both_shapes() {
    let error = error_of_damaged(LINEAR, |root| {
        checkpoint(&root.join("a"), &[("model.norm.weight", &[3], numbers(3, 1))]);
        checkpoint(&root.join("b"), &[("model.norm.weight", &[4], numbers(4, 1))]);
    });
    assert!(error.contains("`model.norm.weight`: expected shape [3] as in a, found shape [4]"), "{error}");
}

#[test]
fn embeddings_of_other_sizes_are_answered_with_the_way_out() {
    let error = error_of_damaged(LINEAR, |root| {
        checkpoint(&root.join("a"), &[("model.embed_tokens.weight", &[4, 3], numbers(12, 1))]);
        checkpoint(&root.join("b"), &[("model.embed_tokens.weight", &[5, 3], numbers(15, 1))]);
    });
    assert!(error.contains("found shape [5, 3]") && error.contains("tokenizer_source"), "{error}");
}

#[test]
fn not_a_number_is_told_with_model_and_weight() {
    for bad in [f32::NAN, f32::INFINITY] {
        for recipe in [LINEAR.to_owned(), "merge_method: passthrough\nmodels: [{model: b}]\n".into()] {
            let error = error_of_damaged(&recipe, |root| {
                let mut values = numbers(3, 1);
                values[1] = bad;
                checkpoint(&root.join("a"), &[("model.norm.weight", &[3], numbers(3, 1))]);
                checkpoint(&root.join("b"), &[("model.norm.weight", &[3], values)]);
            });
            assert!(error.contains("b: tensor `model.norm.weight`") && error.contains("not a finite number"), "{error}");
        }
    }
}

#[test]
fn different_vocabularies_need_a_word_about_them() {
    let with_tokens = |root: &Path| {
        tokenizer(&root.join("a"), &["x", "y", "z", "pad"]);
        tokenizer(&root.join("b"), &["x", "z", "y", "pad"]);
    };
    let error = error_of_damaged(LINEAR, with_tokens);
    assert!(error.contains("the tokenizers of a and b differ: number 1 is `y` in one and `z` in the other"), "{error}");
    assert!(error.contains("tokenizer_source"), "{error}");

    let place = tempfile::tempdir().unwrap();
    models(place.path());
    with_tokens(place.path());
    let plan = plan_in(place.path(), &format!("{LINEAR}tokenizer_source: base\n")).unwrap();
    let (a, b) = (numbers(12, 1), numbers(12, 2));
    // `y` is row 1 of a and row 2 of b.
    assert_eq!(computed(&plan, "model.embed_tokens.weight")[3..6], [3, 4, 5].map(|i| (a[i] + b[i + 3]) / 2.0));
}

#[test]
fn a_vocabulary_without_a_file_is_an_error() {
    let error = error(&format!("{LINEAR}tokenizer_source: union\n"));
    assert!(error.contains("tokenizer.json") && error.contains("not found"), "{error}");
}

#[test]
fn mistakes_in_the_tokenizer_section_are_named() {
    let with = |section: &str| {
        error_of_damaged(&format!("{LINEAR}{section}"), |root| {
            ["a", "b"].iter().for_each(|m| tokenizer(&root.join(m), &["x", "y", "z", "pad"]))
        })
    };
    assert!(with("tokenizer: {source: union, tokens: {new: {source: a}}}\n").contains("a has no such token"));
    assert!(with("tokenizer: {source: union, tokens: {new: {source: c}}}\n").contains("c is not among the models"));
    assert!(with("tokenizer: {source: union, tokens: {new: {}}}\n").contains("`new` needs a source"));
    assert!(
        with("tokenizer: {source: union, tokens: {new: {source: {kind: model_token, model: a, token_id: 99}}}}\n").contains("no row 99")
    );
    assert!(with("tokenizer_source: base\ntokenizer: {source: base}\n").contains("exclude each other"));
}

#[test]
fn recipes_as_people_write_them_are_understood() {
    for text in [
        "models:\n  - model: org/a\n  - model: org/b@main\n    parameters:\n      weight:\n        - filter: mlp\n          value: [0, 0.5, 1e-1]\n        - value: 0\n\
         merge_method: task_arithmetic\nbase_model:\n  model:\n    path: org/base\n    revision: v1\nparameters: {weight: 1, normalize: true, int8_mask: true}\ndtype: torch.bfloat16\nout_dtype: float16\n",
        "modules:\n  default:\n    slices:\n      - sources:\n        - model: org/a\n          layer_range: [0, 24]\n        - {model: org/b+org/lora, layer_range: [8, 32]}\n\
         merge_method: slerp\nbase_model: org/a\nparameters:\n  t:\n    - filter: self_attn\n      value: [0, 0.5, 0.3, 0.7, 1]\n    - value: 0.5\ntokenizer:\n  source: union\n  tokens:\n    <|im_start|>:\n      source: org/a\n    <|x|>:\n      source: {kind: zero}\n      force: true\n  pad_to_multiple_of: null\nchat_template: auto\n",
    ] {
        Recipe::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
}
