//! Settings of a recipe that match nothing or cannot act are told.

use crate::common::{plan_in, tokenizer};
use crate::models;
use peft_merge::Recipe;

fn warnings(recipe: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    ["a", "b", "c"].iter().for_each(|name| tokenizer(&place.path().join(name), &["x", "y", "z", "pad"]));
    plan_in(place.path(), recipe).map_or_else(|e| format!("refused: {e}"), |plan| plan.warnings.join("\n"))
}

fn ties(a: &str, b: &str, all: &str) -> String {
    format!(
        "merge_method: ties\nbase_model: a\nmodels:\n- {{model: a, parameters: {a}}}\n- {{model: b, parameters: {b}}}\nparameters: {all}\n"
    )
}

#[test]
fn a_filter_that_fits_no_weight_is_told_with_the_nearest_names() {
    let found = warnings(&ties("{}", "{weight: [{filter: layrs, value: 1}, {value: 0.5}]}", "{}"));
    assert!(found.contains("b: weight: the filter `layrs` fits no weight; the nearest parts of names are `layers`"), "{found}");
    let found = warnings(&ties("{}", "{weight: [{filter: model.nrm, value: 1}, {value: 0.5}]}", "{}"));
    assert!(found.contains("`model.nrm` fits no weight; the nearest parts of names are `model.norm`"), "{found}");
    let shared = "{weight: 1, normalize: [{filter: nrm, value: true}, {value: false}]}";
    assert!(warnings(&ties("{}", "{}", shared)).contains("normalize: the filter `nrm` fits no weight"));
    assert_eq!(warnings(&ties("{}", "{weight: [{filter: norm, value: 1}, {filter: layers, value: [0, 1]}, {value: 0.5}]}", "{}")), "");
}

#[test]
fn a_setting_that_is_never_looked_at_is_told_with_the_reason() {
    let found = warnings(&ties("{weight: 1}", "{weight: 0.5, normalize: false}", "{weight: 2}"));
    for said in [
        "a: the parameter `weight` is not used: ties takes none for the base_model",
        "b: the parameter `normalize` is not used: all models share it; set `normalize` under `parameters` at the top",
        "the parameter `weight` is not used: each weight has one that is set closer to the model",
    ] {
        assert!(found.contains(said), "{found}");
    }
    let found = warnings(&ties("{}", "{weight: [{value: 1}, {filter: norm, value: 0.5}]}", "{}"));
    assert!(found.contains("b: weight: the filter `norm` is not used: an entry before it"), "{found}");
}

#[test]
fn a_setting_that_all_models_share_is_refused_at_one_of_them_where_it_must_be_set() {
    let found = warnings("merge_method: slerp\nbase_model: a\nmodels: [{model: b, parameters: {t: 0.5}}]\n");
    assert!(found.contains("refused") && found.contains("b: all models share `t`; set it under `parameters` at the top"), "{found}");
}

#[test]
fn a_model_that_has_no_effect_is_told() {
    let linear = |b: &str| {
        format!("merge_method: linear\nmodels: [{{model: a, parameters: {{weight: 1}}}}, {{model: b, parameters: {{weight: {b}}}}}]\n")
    };
    assert!(warnings(&linear("0")).contains("b has weight 0 everywhere: it has no effect"));
    assert_eq!(warnings(&linear("[0, 1]")), "");
}

#[test]
fn a_token_that_is_in_no_vocabulary_is_told_before_anything_is_computed() {
    let linear = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n";
    let found = warnings(&format!("{linear}tokenizer: {{source: union, tokens: {{padd: {{source: b}}}}}}\n"));
    assert!(found.starts_with("refused: ") && found.contains("`padd`: b has no such token; the nearest is `pad`"), "{found}");
    let found = warnings(&format!("{linear}tokenizer: {{source: union, pad_to_multiple_of: 0}}\n"));
    assert!(found.contains("pad_to_multiple_of: at least 1, not 0"), "{found}");
}

#[test]
fn numbers_that_are_not_finite_and_values_of_another_kind_are_refused_with_their_place() {
    let error = |line: &str| {
        let text = format!("merge_method: linear\nmodels:\n- model: a\n{line}\n");
        Recipe::parse(&text).unwrap_err().to_string()
    };
    for value in [".nan", "-.inf", "1e999", "[1, .inf]", "{value: .nan}", "[{filter: mlp, value: [0, 1e999]}]", "'nan'", "'1e999'", "null"]
    {
        let error = error(&format!("  parameters: {{weight: {value}}}"));
        assert!(error.contains("line 4") && error.lines().count() == 1, "{value}: {error}");
    }
    assert!(error("  parametrs: {}").contains("unknown field `parametrs`"));
    assert!(error("  parametrs: {}").contains("the nearest is `parameters`"));
    let model = |value: &str| Recipe::parse(&format!("merge_method: passthrough\nmodels:\n- model: {value}\n")).unwrap_err().to_string();
    assert!(model("{model: a, lroa: b}").contains("unknown field `lroa`, expected one of `model`, `lora`"));
    assert!(model("7").contains("model: 7 is neither a directory nor a hub id"));
    assert!(model("{model: {path: a, revision: 3}}").contains("revision: 3 is no branch, tag or commit"));
    let slice = |range: &str| {
        Recipe::parse(&format!("merge_method: passthrough\nslices:\n- sources:\n  - {{model: a, layer_range: {range}}}\n"))
            .unwrap_err()
            .to_string()
    };
    assert!(slice("[0, -2]").contains("a whole number from 0 on is asked for here"), "{}", slice("[0, -2]"));
    assert!(Recipe::parse("merge_method: lienar\nmodels: [{model: a}]\n").unwrap_err().to_string().contains("the nearest is `linear`"));
}
