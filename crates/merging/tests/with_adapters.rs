//! Models with adapters in recipes: which fit, and which do not.

mod common;

use common::{checkpoint, computed, difference, fixtures, numbers, plan_in, write_file};
use peft_core::files::{Checkpoint, Dtype, TensorSource, float_bytes};
use peft_core::{CONFIG_FILE, TENSOR_FILE};
use peft_merge::Workshop;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;

const RECIPE: &str = "merge_method: passthrough\nmodels: [{model: base+lora}]\n";

type Tensor = (&'static str, Vec<usize>, Vec<f32>);

fn adapter(dir: &Path, config: Value, tensors: Vec<Tensor>) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join(CONFIG_FILE), config.to_string()).unwrap();
    let source = |(module, shape, values): Tensor| {
        let bytes = move || Ok(Cow::Owned(float_bytes(&values, Dtype::F32).unwrap()));
        TensorSource::new(format!("base_model.model.{module}"), Dtype::F32, &shape, bytes)
    };
    write_file(&dir.join(TENSOR_FILE), tensors.into_iter().map(source));
}

fn base(root: &Path) {
    checkpoint(
        &root.join("base"),
        &[
            ("model.embed_tokens.weight", &[4, 3], numbers(12, 1)),
            ("model.layers.0.w.weight", &[2, 3], numbers(6, 2)),
            ("model.layers.0.w.bias", &[2], numbers(2, 3)),
        ],
    );
}

fn config() -> Value {
    json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 2 })
}

fn matrices(module: [&'static str; 2]) -> Vec<Tensor> {
    vec![(module[0], vec![1, 3], vec![1.0, 2.0, 3.0]), (module[1], vec![2, 1], vec![10.0, 20.0])]
}

const W: [&str; 2] = ["model.layers.0.w.lora_A.weight", "model.layers.0.w.lora_B.weight"];

fn error(config: Value, tensors: Vec<Tensor>, recipe: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    base(place.path());
    adapter(&place.path().join("lora"), config, tensors);
    match plan_in(place.path(), recipe) {
        Err(error) => error.to_string(),
        Ok(plan) => plan.weights.iter().find_map(|weight| plan.compute(weight).err()).expect("one weight cannot be computed").to_string(),
    }
}

#[test]
fn the_change_is_added_and_whole_tensors_take_their_place() {
    let place = tempfile::tempdir().unwrap();
    base(place.path());
    let whole = ("model.layers.0.w.base_layer.bias", vec![2], vec![5.0, 6.0]);
    adapter(&place.path().join("lora"), config(), [matrices(W), vec![whole]].concat());
    let plan = plan_in(place.path(), RECIPE).unwrap();
    let added = [20.0, 40.0, 60.0, 40.0, 80.0, 120.0];
    let expected: Vec<f32> = numbers(6, 2).iter().zip(added).map(|(x, y)| x + y).collect();
    assert!(difference(&computed(&plan, "model.layers.0.w.weight"), &expected) < 1e-6);
    assert_eq!(computed(&plan, "model.layers.0.w.bias"), [5.0, 6.0]);
    assert_eq!(computed(&plan, "model.embed_tokens.weight"), numbers(12, 1));
    assert!(plan.memory(1 << 30).unwrap() > 0);
}

#[test]
fn a_name_before_the_model_may_be_missing_on_either_side() {
    let place = tempfile::tempdir().unwrap();
    base(place.path());
    for [a, b] in [
        ["layers.0.w.lora_A.weight", "layers.0.w.lora_B.weight"],
        ["outer.model.layers.0.w.lora_A.weight", "outer.model.layers.0.w.lora_B.weight"],
    ] {
        adapter(&place.path().join("lora"), config(), matrices([a, b]));
        let plan = plan_in(place.path(), RECIPE).unwrap();
        assert!(computed(&plan, "model.layers.0.w.weight")[5] > 119.0, "{a}");
    }
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let said = error(config(), matrices(["model.layers.7.w.lora_A.weight", "model.layers.7.w.lora_B.weight"]), RECIPE);
    assert!(said.contains("`model.layers.7.w.weight`") && said.contains("another base model"), "{said}");
    let foreign = matrices(["model.layers.7.x.lora_A.weight", "model.layers.7.x.lora_B.weight"]);
    let said = error(config_of(&["w"]), [matrices(W), foreign].concat(), RECIPE);
    assert!(said.contains("`model.layers.7.x.weight`") && said.contains("another base model"), "{said}");
    let wide = vec![(W[0], vec![1, 5], vec![1.0; 5]), (W[1], vec![2, 1], vec![1.0; 2])];
    let said = error(config(), wide, RECIPE);
    assert!(said.contains("expected a change of shape [2, 3], found [2, 5]"), "{said}");
    let said = error(json!({ "peft_type": "LORA", "r": 1, "use_dora": true }), matrices(W), RECIPE);
    assert!(said.contains("use_dora") && said.contains("peft merge-adapter"), "{said}");
}

#[test]
fn the_layer_decides_whether_inputs_come_first_and_not_the_file() {
    let place = tempfile::tempdir().unwrap();
    checkpoint(&place.path().join("base"), &[("model.layers.0.w.weight", &[2, 2], vec![0.0; 4])]);
    let changed = |kind: &str, said: bool| {
        let config = json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 1, "fan_in_fan_out": said });
        adapter(&place.path().join("lora"), config, vec![(W[0], vec![1, 2], vec![1.0, 2.0]), (W[1], vec![2, 1], vec![1.0, 3.0])]);
        std::fs::write(place.path().join("base/config.json"), json!({ "model_type": kind }).to_string()).unwrap();
        computed(&plan_in(place.path(), RECIPE).unwrap(), "model.layers.0.w.weight")
    };
    // HF PEFT's `lora.Linear` on `torch.nn.Linear` and on transformers' `Conv1D`, which stores the transposed weight.
    for said in [false, true] {
        assert_eq!(changed("llama", said), [1.0, 2.0, 3.0, 6.0]);
        assert_eq!(changed("gpt2", said), [1.0, 3.0, 2.0, 6.0]);
    }
}

#[test]
fn modules_that_the_file_should_have_and_lacks_are_named() {
    let config = json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["w", "embed_tokens"] });
    let said = error(config, matrices(W), RECIPE);
    assert!(said.contains("`model.embed_tokens.weight`: expected a change") && said.contains("found nothing"), "{said}");
    let config = json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["w"], "modules_to_save": ["embed_tokens"] });
    let said = error(config, matrices(W), RECIPE);
    assert!(said.contains("modules_to_save names `embed_tokens`") && !said.contains("another base model"), "{said}");
    let longer = ("model.embed_tokens.weight", vec![5, 3], vec![1.0; 15]);
    let said = error(config_of(&["w"]), [matrices(W), vec![longer]].concat(), RECIPE);
    assert!(said.contains("vocabulary of 5 tokens") && said.contains("peft merge-adapter"), "{said}");
}

fn config_of(targets: &[&str]) -> Value {
    json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": targets })
}

#[test]
fn what_is_no_number_is_told_with_the_tensor() {
    let mut tensors = matrices(W);
    tensors[1].2[1] = f32::NAN;
    let said = error(config(), tensors, RECIPE);
    assert!(said.contains("model.layers.0.w.lora_B.weight") && said.contains("not a finite number"), "{said}");
}

#[test]
fn a_shared_embedding_cannot_be_changed() {
    let place = tempfile::tempdir().unwrap();
    base(place.path());
    std::fs::write(place.path().join("base/config.json"), json!({ "tie_word_embeddings": true }).to_string()).unwrap();
    let tensors = vec![
        ("model.embed_tokens.lora_embedding_A", vec![1, 4], vec![1.0; 4]),
        ("model.embed_tokens.lora_embedding_B", vec![3, 1], vec![1.0; 3]),
    ];
    adapter(&place.path().join("lora"), config(), tensors.clone());
    let said = plan_in(place.path(), RECIPE).unwrap_err().to_string();
    assert!(said.contains("model.embed_tokens.weight") && said.contains("share"), "{said}");

    // A head that is stored and differs is a weight of its own, and so is none where the model labels texts.
    let rows = |seed| numbers(12, seed);
    let (embedding, head) = (("model.embed_tokens.weight", &[4usize, 3][..], rows(1)), ("lm_head.weight", &[4usize, 3][..], rows(2)));
    for (weights, config) in [
        (vec![embedding.clone(), head], json!({ "tie_word_embeddings": true })),
        (vec![embedding], json!({ "tie_word_embeddings": true, "architectures": ["BertForSequenceClassification"] })),
    ] {
        checkpoint(&place.path().join("base"), &weights);
        std::fs::write(place.path().join("base/config.json"), config.to_string()).unwrap();
        let plan = plan_in(place.path(), RECIPE).unwrap();
        assert!(difference(&computed(&plan, "model.embed_tokens.weight"), &rows(1)) > 0.1, "{config}");
    }
    base(place.path());

    // And one that is not shared is not brought to another vocabulary on the way.
    std::fs::write(place.path().join("base/config.json"), "{}").unwrap();
    common::tokenizer(&place.path().join("base"), &["x", "y", "z", "pad"]);
    let said = plan_in(place.path(), &format!("{RECIPE}tokenizer_source: union\n")).unwrap_err().to_string();
    assert!(said.contains("base+lora") && said.contains("another vocabulary"), "{said}");
}

#[test]
fn a_changed_adapter_starts_a_merge_anew() {
    let place = tempfile::tempdir().unwrap();
    base(place.path());
    let write = |alpha: i32| {
        let config = json!({ "peft_type": "LORA", "r": 1, "lora_alpha": alpha });
        adapter(&place.path().join("lora"), config, matrices(W));
        plan_in(place.path(), RECIPE).unwrap()
    };
    let (plan, out) = (write(2), place.path().join("out"));
    assert_eq!(Workshop::open(&plan, &out, false, 20).unwrap().compute(&|_| ()).unwrap(), 0);
    let plan = write(40);
    assert_eq!(Workshop::open(&plan, &out, false, 20).unwrap().run(&|_| ()).unwrap().kept, 0);
    assert!(Checkpoint::open(&out).unwrap().f32s("model.layers.0.w.weight").unwrap()[5] > 2399.0);
}

#[test]
fn layers_may_come_from_models_with_adapters() {
    let recipe = "merge_method: passthrough\nslices:\n  - sources: [{model: a+lora, layer_range: [1, 2]}]\n  - sources: [{model: a, layer_range: [1, 2]}]\n";
    let plan = plan_in(&fixtures().join("models"), recipe).unwrap();
    let name = |layer: usize, part: &str| format!("model.layers.{layer}.{part}.weight");
    assert_ne!(computed(&plan, &name(0, "self_attn.q_proj")), computed(&plan, &name(1, "self_attn.q_proj")));
    assert_eq!(computed(&plan, &name(0, "self_attn.k_proj")), computed(&plan, &name(1, "self_attn.k_proj")));
}
