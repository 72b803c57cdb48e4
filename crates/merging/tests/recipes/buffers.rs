//! Buffers, which some versions of transformers store and others do not. mergekit takes those that are there, as they are.

use crate::common::{floats, numbers, plan_in, write};
use peft_core::files::{Dtype, TensorSource, pytorch_metadata, write_safetensors};
use serde_json::json;
use std::borrow::Cow;
use std::path::Path;

const LINEAR: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.25, normalize: false}\n";

type Stored = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn integers(name: &'static str, values: &[i64]) -> Stored {
    (name, Dtype::I64, vec![1, values.len()], values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn real(name: &'static str, shape: &[usize], values: &[f32]) -> Stored {
    (name, Dtype::F32, shape.into(), values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn model(root: &Path, name: &str, tensors: Vec<Stored>) {
    let dir = root.join(name);
    write(&dir, "config.json", json!({ "model_type": "gpt2", "num_hidden_layers": 1 }));
    let weight = real("h.0.attn.c_attn.weight", &[2, 2], &numbers(4, 1));
    let source = |(name, dtype, shape, bytes): Stored| TensorSource::new(name, dtype, &shape, move || Ok(Cow::Owned(bytes)));
    let tensors = tensors.into_iter().chain([weight]).map(source);
    write_safetensors(&dir.join("model.safetensors"), tensors, &pytorch_metadata()).unwrap();
}

/// The bytes of a tensor of the merge of both.
fn merged(a: Vec<Stored>, b: Vec<Stored>, name: &str) -> Result<Vec<u8>, String> {
    merged_by(LINEAR, a, b, name)
}

fn merged_by(recipe: &str, a: Vec<Stored>, b: Vec<Stored>, name: &str) -> Result<Vec<u8>, String> {
    let place = tempfile::tempdir().unwrap();
    model(place.path(), "a", a);
    model(place.path(), "b", b);
    let plan = plan_in(place.path(), recipe).map_err(|e| e.to_string())?;
    let weight = plan.weights.iter().find(|weight| weight.name == name).ok_or("not in the result")?;
    plan.compute(weight).map(Cow::into_owned).map_err(|e| e.to_string())
}

#[test]
fn a_buffer_that_one_checkpoint_has_is_copied() {
    let positions = || integers("embeddings.position_ids", &[0, 1, 2]);
    let bytes = positions().3;
    assert_eq!(merged(vec![], vec![positions()], "embeddings.position_ids").unwrap(), bytes);
    assert_eq!(merged(vec![positions()], vec![], "embeddings.position_ids").unwrap(), bytes);
    let mask = || real("h.0.attn.bias", &[1, 1, 2, 2], &[1.0, 0.0, 1.0, 1.0]);
    assert_eq!(floats(&merged(vec![mask()], vec![], "h.0.attn.bias").unwrap()), [1.0, 0.0, 1.0, 1.0]);
    let unknown = || integers("head.table", &[7, 8]);
    assert_eq!(merged(vec![], vec![unknown()], "head.table").unwrap(), unknown().3, "integers that only one has");
}

#[test]
fn buffers_that_both_have_are_not_averaged() {
    let mask = |scale: f32| real("h.0.attn.bias", &[1, 1, 2, 2], &[scale, 0.0, scale, scale]);
    assert_eq!(floats(&merged(vec![mask(1.0)], vec![mask(3.0)], "h.0.attn.bias").unwrap()), [1.0, 0.0, 1.0, 1.0]);
    let masked = |value: f32| real("h.0.attn.masked_bias", &[1], &[value]);
    assert_eq!(floats(&merged(vec![masked(-1e4)], vec![masked(-1e9)], "h.0.attn.masked_bias").unwrap()), [-1e4]);
    let count = |value: i64| integers("norm.num_batches_tracked", &[value]);
    assert_eq!(merged(vec![count(5)], vec![count(9)], "norm.num_batches_tracked").unwrap(), count(5).3);
    let bias = |value: f32| real("h.0.mlp.attn.bias", &[2], &[value, value]);
    assert_eq!(
        floats(&merged(vec![bias(1.0)], vec![bias(3.0)], "h.0.mlp.attn.bias").unwrap()),
        [1.0, 1.0],
        "a bias proper is: 0.25 + 0.75"
    );
}

#[test]
fn buffers_are_copied_by_methods_that_tell_the_base_apart_and_in_slices() {
    let positions = || integers("embeddings.position_ids", &[0, 1, 2]);
    let mask = || real("h.0.attn.bias", &[1, 1, 2, 2], &[1.0, 0.0, 1.0, 1.0]);
    let ties = "merge_method: ties\nbase_model: a\nmodels: [{model: b}]\nparameters: {weight: 0.5, density: 0.5}\n";
    for (a, b) in [(vec![positions(), mask()], vec![]), (vec![], vec![positions(), mask()])] {
        assert_eq!(merged_by(ties, a.clone(), b.clone(), "embeddings.position_ids").unwrap(), positions().3);
        let slerp = "merge_method: slerp\nbase_model: a\nslices: [{sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]}]\nparameters: {t: 0.5}\n";
        assert_eq!(merged_by(slerp, a, b, "h.0.attn.bias").unwrap(), mask().3);
    }
}

#[test]
fn what_is_computed_anew_is_left_out_and_other_integers_must_agree() {
    let frequencies = || real("h.0.rotary_emb.inv_freq", &[2], &[1.0, 0.1]);
    assert_eq!(merged(vec![frequencies()], vec![frequencies()], "h.0.rotary_emb.inv_freq").unwrap_err(), "not in the result");
    let error = merged(vec![integers("head.table", &[1])], vec![integers("head.table", &[2])], "head.table").unwrap_err();
    assert!(error.contains("expected the same integers as in a"), "{error}");
    let error = merged(vec![real("extra.weight", &[1], &[1.0])], vec![], "extra.weight").unwrap_err();
    assert!(error.contains("b: tensor `extra.weight`: expected a tensor, as a has it"), "{error}");
}

#[test]
fn norms_by_their_old_names_are_merged_with_those_by_their_new_ones() {
    let old = || vec![real("bert.LayerNorm.gamma", &[1], &[4.0]), real("bert.LayerNorm.beta", &[1], &[8.0])];
    let new = || vec![real("bert.LayerNorm.weight", &[1], &[8.0]), real("bert.LayerNorm.bias", &[1], &[0.0])];
    // 0.25 of both models.
    assert_eq!(floats(&merged(old(), new(), "bert.LayerNorm.weight").unwrap()), [3.0]);
    assert_eq!(floats(&merged(new(), old(), "bert.LayerNorm.bias").unwrap()), [2.0]);
    assert_eq!(merged(old(), new(), "bert.LayerNorm.gamma").unwrap_err(), "not in the result");
}
