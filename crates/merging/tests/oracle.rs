//! What mergekit makes of the same recipes: `xtask/parity/merge.py` wrote the fixtures.

mod common;

use common::{computed, difference, expected, fixture_plan, fixtures, floats};
use peft_core::files::Checkpoint;
use peft_merge::rules::{Sparse, Sparsity, TaskVectors, merge};
use peft_merge::{Plan, Weight};
use serde_json::Value;
use std::collections::BTreeMap;

const TOLERANCE: f32 = 1e-6;

const DETERMINISTIC: [&str; 29] = [
    "linear",
    "linear_plain",
    "linear_gradient",
    "slerp",
    "slerp_near",
    "nuslerp",
    "nuslerp_base",
    "nuslerp_last_axis",
    "nuslerp_first_axis",
    "multislerp",
    "multislerp_base",
    "karcher",
    "task_arithmetic",
    "task_arithmetic_normalized",
    "ties",
    "ties_rescaled",
    "breadcrumbs",
    "breadcrumbs_ties",
    "model_stock",
    "model_stock_rows",
    "sce",
    "sce_selected",
    "nearswap",
    "ram",
    "ramplus_tl",
    "with_adapters",
    "adapter_alone",
    "passthrough",
    "stacked_ties",
];

#[test]
fn every_deterministic_method_gives_what_mergekit_gives() {
    let mut failed = Vec::new();
    for name in DETERMINISTIC {
        let (plan, expected) = (fixture_plan(name), expected(name));
        let names: Vec<&str> = plan.weights.iter().map(|weight| weight.name.as_str()).collect();
        assert_eq!(names.len(), expected.keys().count(), "{name}");
        for key in expected.keys() {
            let found = difference(&computed(&plan, key), &expected.f32s(key).unwrap());
            if found.is_nan() || found > TOLERANCE {
                failed.push(format!("{name}: {key}: {found:e}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The inputs of a weight as numbers: the base last.
fn inputs(plan: &Plan, weight: &Weight) -> Vec<Vec<f32>> {
    weight.inputs.iter().map(|input| plan.models[input.model].checkpoint.f32s(&input.key).unwrap()).collect()
}

fn with_masks_of_mergekit(name: &str, rule: &TaskVectors) {
    let (plan, expected) = (fixture_plan(name), expected(name));
    let masks = Checkpoint::open_file(&fixtures().join(format!("expected/{name}.masks.safetensors"))).unwrap();
    for weight in &plan.weights {
        let numbers = inputs(&plan, weight);
        let (base, others) = numbers.split_last().unwrap();
        let others: Vec<&[f32]> = others.iter().map(Vec::as_slice).collect();
        let kept = |i: usize| masks.bytes(&format!("{}/{i}", weight.name)).unwrap().iter().map(|kept| *kept != 0).collect();
        let rule = TaskVectors { masks: Some((0..others.len()).map(kept).collect()), ..rule.clone() };
        let found = merge(&rule, &weight.name, &weight.info.shape, Some(base), &others).unwrap();
        let found = difference(&found, &expected.f32s(&weight.name).unwrap());
        assert!(found <= TOLERANCE, "{name}: {}: {found:e}", weight.name);
    }
}

fn rule(sparsity: Sparsity, consensus: bool, normalize: bool, rescale: bool, lambda: f64) -> TaskVectors {
    let model = |weight| Sparse { weight, density: 0.5, gamma: 0.0, epsilon: 0.15 };
    let models = [0.5, 0.3, -0.2].map(model).to_vec();
    TaskVectors { sparsity, consensus, models, normalize, rescale, lambda, seed: 0, masks: None }
}

#[test]
fn methods_that_draw_give_what_mergekit_gives_with_the_same_masks() {
    with_masks_of_mergekit("dare_linear", &rule(Sparsity::Random, false, false, true, 1.0));
    with_masks_of_mergekit("dare_ties", &rule(Sparsity::Random, true, true, false, 1.0));
    with_masks_of_mergekit("della", &rule(Sparsity::Della, true, true, true, 1.0));
    with_masks_of_mergekit("della_linear", &rule(Sparsity::Della, false, false, true, 0.8));
}

#[test]
fn recipes_of_methods_that_draw_stand_for_the_rules_compared_above() {
    for (name, rule) in [
        ("dare_linear", rule(Sparsity::Random, false, false, true, 1.0)),
        ("dare_ties", rule(Sparsity::Random, true, true, false, 1.0)),
        ("della_linear", rule(Sparsity::Della, false, false, true, 0.8)),
    ] {
        let plan = fixture_plan(name);
        let weight = &plan.weights[0];
        let numbers = inputs(&plan, weight);
        let (base, others) = numbers.split_last().unwrap();
        let others: Vec<&[f32]> = others.iter().map(Vec::as_slice).collect();
        let of_rule = merge(&rule, &weight.name, &weight.info.shape, Some(base), &others).unwrap();
        assert_eq!(floats(&plan.compute(weight).unwrap()), of_rule, "{name}");
    }
}

#[test]
fn embeddings_of_different_vocabularies_are_aligned_as_mergekit_aligns_them() {
    for name in ["tokens_union", "tokens_base"] {
        let (plan, expected) = (fixture_plan(name), expected(name));
        let text = std::fs::read_to_string(fixtures().join(format!("expected/{name}.tokens.json"))).unwrap();
        let theirs: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
        let ours = &plan.alignment.as_ref().unwrap().tokenizer.ids;
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for key in expected.keys() {
            let (found, wanted) = (computed(&plan, key), expected.f32s(key).unwrap());
            if !key.ends_with("embed_tokens.weight") && !key.ends_with("lm_head.weight") {
                assert!(difference(&found, &wanted) <= TOLERANCE, "{name}: {key}");
                continue;
            }
            assert_eq!(found.len(), wanted.len(), "{name}: {key}");
            let width = expected.info(key).unwrap().shape[1];
            for (token, id) in &theirs {
                // A union's tokens have no fixed numbers in mergekit.
                let (ours, theirs) = (ours[token] * width, id.as_u64().unwrap() as usize * width);
                let found = difference(&found[ours..ours + width], &wanted[theirs..theirs + width]);
                assert!(found <= TOLERANCE, "{name}: {key}: `{token}`: {found:e}");
            }
            let padding = theirs.len() * width;
            if padding < wanted.len() {
                assert!(difference(&found[padding..], &wanted[padding..]) <= TOLERANCE, "{name}: {key}: padding");
            }
        }
    }
}
