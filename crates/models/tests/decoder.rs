//! Properties of the decoder that need no reference implementation.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use peft_core::{ActivationAdapter, LanguageModel, Packed, device};
use peft_models::{CausalLm, DecoderConfig};
use serde_json::{Value, json};

fn config(model_type: &str, changes: Value) -> DecoderConfig {
    let mut config = json!({
        "model_type": model_type,
        "vocab_size": 11,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "initializer_range": 0.4,
    });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    DecoderConfig::parse(&config.to_string()).unwrap()
}

fn llama(device: &Device) -> CausalLm {
    CausalLm::init(config("llama", json!({})), device, 7)
}

fn ids<const S: usize>(rows: &[[i64; S]], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), S]), device)
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

/// Names and shapes of all parameters.
fn parameters<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    #[derive(Default)]
    struct List(Vec<String>, Vec<(String, Vec<usize>)>);
    impl ModuleVisitor for List {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push((self.0.join("."), param.lazy_shape().to_vec()));
        }
    }
    let mut list = List::default();
    module.visit(&mut list);
    list.1
}

#[test]
fn paths_are_checkpoint_keys() {
    let model = CausalLm::init(config("qwen3", json!({"num_hidden_layers": 1})), &device::host(), 0);
    let expected = [
        ("model.embed_tokens.weight", vec![11, 8]),
        ("model.layers.0.self_attn.q_proj.weight", vec![8, 24]),
        ("model.layers.0.self_attn.k_proj.weight", vec![8, 12]),
        ("model.layers.0.self_attn.v_proj.weight", vec![8, 12]),
        ("model.layers.0.self_attn.o_proj.weight", vec![24, 8]),
        ("model.layers.0.self_attn.q_norm.weight", vec![6]),
        ("model.layers.0.self_attn.k_norm.weight", vec![6]),
        ("model.layers.0.mlp.gate_proj.weight", vec![8, 12]),
        ("model.layers.0.mlp.up_proj.weight", vec![8, 12]),
        ("model.layers.0.mlp.down_proj.weight", vec![12, 8]),
        ("model.layers.0.input_layernorm.weight", vec![8]),
        ("model.layers.0.post_attention_layernorm.weight", vec![8]),
        ("model.norm.weight", vec![8]),
        ("lm_head.weight", vec![8, 11]),
    ];
    assert_eq!(parameters(&model), expected.map(|(name, shape)| (name.to_string(), shape)));
}

#[test]
fn the_configuration_counts_the_parameters() {
    for (model_type, changes) in [
        ("llama", json!({})),
        ("llama", json!({"tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true})),
        ("mistral", json!({})),
        ("qwen2", json!({"tie_word_embeddings": true})),
        ("qwen3", json!({"attention_bias": true})),
    ] {
        let config = config(model_type, changes);
        let count = config.num_params();
        assert_eq!(CausalLm::init(config, &device::host(), 0).num_params() as u64, count, "{model_type}");
    }
}

#[test]
fn a_seed_determines_random_weights() {
    let logits = |seed| {
        let device = device::host();
        let model = CausalLm::init(config("llama", json!({})), &device, seed);
        floats(model.logits(ids(&[[1, 2, 3]], &device)))
    };
    assert_eq!(logits(1), logits(1));
    assert_ne!(logits(1), logits(2));
}

#[test]
fn weights_drawn_on_the_device_are_frozen_and_of_the_type_asked_for() {
    let device = device::host().autodiff();
    let config = config("llama", json!({"vocab_size": 600, "attention_bias": true}));
    let half = device::host_half();
    let model = CausalLm::random(config, &device, half);
    let embedding = model.model.embed_tokens.weight.val();
    assert_eq!((embedding.dims(), embedding.dtype()), ([600, 8], half));
    let deviation = floats(embedding.cast(DType::F32).square().mean().sqrt())[0];
    assert!((deviation - 0.4).abs() < 0.05, "{deviation}");
    let layer = &model.model.layers[0];
    let (queries, bias) = (&layer.self_attn.q_proj.weight, layer.self_attn.q_proj.bias.as_ref().unwrap());
    assert_eq!((queries.dims(), queries.val().dtype(), queries.is_require_grad()), ([8, 24], half, false));
    assert!(floats(bias.val().cast(DType::F32)).iter().all(|value| *value == 0.0));
    assert!(floats(layer.input_layernorm.weight.val().cast(DType::F32)).iter().all(|value| *value == 1.0));
    assert!(floats(model.logits(ids(&[[1, 2, 3]], &device))).iter().all(|logit| logit.is_finite()));
}

#[test]
fn padding_on_the_right_changes_nothing_before_it() {
    let device = device::host();
    let model = llama(&device);
    let alone = floats(model.logits(ids(&[[5, 1, 9]], &device)));
    let padded = floats(model.logits(ids(&[[5, 1, 9, 0, 0], [1, 2, 3, 4, 5]], &device)));
    for (a, b) in alone.iter().zip(&padded) {
        assert!((a - b).abs() < 1e-5);
    }
}

#[test]
fn a_window_hides_what_lies_before_it() {
    let device = device::host();
    let changes = json!({"sliding_window": 2, "num_hidden_layers": 1});
    let model = CausalLm::init(config("mistral", changes), &device, 3);
    let last = |first: i64| {
        let logits = floats(model.logits(ids(&[[first, 4, 5, 6]], &device)));
        logits[logits.len() - 11..].to_vec()
    };
    assert_eq!(last(1), last(2));
}

/// Models whose layers see everything, a window, and each of both.
fn full_and_windowed(device: &Device) -> [CausalLm; 3] {
    let windowed = json!({"sliding_window": 3, "use_sliding_window": true, "max_window_layers": 1});
    [("llama", json!({})), ("mistral", json!({"sliding_window": 3})), ("qwen2", windowed)]
        .map(|(model_type, changes)| CausalLm::init(config(model_type, changes), device, 3))
}

#[test]
fn packed_sequences_have_the_hidden_states_and_gradients_that_they_have_alone() {
    let device = device::host().autodiff();
    for model in full_and_windowed(&device) {
        let packed = Packed::new(&[vec![4, 2], vec![5]], 7);
        let together = model.hidden_packed(ids(&[[5, 1, 9, 3, 8, 2, 0], [4, 7, 6, 6, 1, 0, 0]], &device), &packed);
        let part = |row: usize, tokens: std::ops::Range<usize>| together.clone().slice([row..row + 1, tokens]);
        let pairs = [
            (part(0, 0..4), model.hidden(ids(&[[5, 1, 9, 3]], &device))),
            (part(0, 4..6), model.hidden(ids(&[[8, 2]], &device))),
            (part(1, 0..5), model.hidden(ids(&[[4, 7, 6, 6, 1]], &device))),
        ];
        for (together, alone) in &pairs {
            let difference = (together.clone() - alone.clone()).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "{difference}");
        }
        let gradients = |of: fn(&(Tensor<3>, Tensor<3>)) -> Tensor<3>| {
            let loss = pairs.iter().map(of).map(|hidden| hidden.clone().sin().sum()).reduce(|a, b| a + b).unwrap();
            let gradients = loss.backward();
            let layer = &model.model.layers[0];
            let weights = [&layer.self_attn.q_proj.weight, &layer.self_attn.k_proj.weight, &layer.mlp.up_proj.weight];
            weights.map(|weight| floats(weight.val().grad(&gradients).unwrap())).concat()
        };
        for (together, alone) in gradients(|pair| pair.0.clone()).iter().zip(gradients(|pair| pair.1.clone())) {
            assert!((together - alone).abs() < 1e-5 * (1.0 + alone.abs()), "{together} and {alone}");
        }
    }
}

#[test]
fn a_packed_sequence_knows_nothing_of_its_neighbours() {
    let device = device::host();
    for model in full_and_windowed(&device) {
        let packed = Packed::new(&[vec![3, 3, 2]], 8);
        let middle = |first: i64, last: i64| {
            let hidden = model.hidden_packed(ids(&[[first, 2, first, 4, 5, 6, last, last]], &device), &packed);
            floats(hidden.slice_dim(1, 3..6))
        };
        assert_eq!(middle(1, 1), middle(9, 1), "what comes before");
        assert_eq!(middle(1, 1), middle(1, 7), "what comes after");
    }
}

#[test]
fn absent_keys_mean_what_they_mean_in_transformers() {
    let parse = |json: Value| DecoderConfig::parse(&json.to_string()).unwrap();
    let llama = parse(json!({"model_type": "llama"}));
    assert_eq!((llama.vocab_size, llama.hidden_size, llama.intermediate_size), (32_000, 4096, 11_008));
    assert_eq!((llama.num_hidden_layers, llama.num_attention_heads, llama.num_key_value_heads), (32, 32, 32));
    assert_eq!((llama.head_dim, llama.max_position_embeddings), (128, 2048));
    assert_eq!((llama.rms_norm_eps, llama.rope.theta), (1e-6, 10_000.0));
    assert_eq!((llama.sliding_window, llama.qkv_bias, llama.mlp_bias), (None, false, false));

    let mistral = parse(json!({"model_type": "mistral"}));
    assert_eq!((mistral.num_key_value_heads, mistral.sliding_window), (8, Some(4096)));
    assert!(mistral.windowed.iter().all(|windowed| *windowed));
    let mistral = parse(json!({"model_type": "mistral", "sliding_window": null, "num_key_value_heads": null}));
    assert_eq!((mistral.num_key_value_heads, mistral.sliding_window), (32, None));

    let qwen2 = parse(json!({"model_type": "qwen2", "sliding_window": 7}));
    assert_eq!((qwen2.sliding_window, qwen2.qkv_bias, qwen2.output_bias), (None, true, false));
    let qwen2 = parse(json!({"model_type": "qwen2", "use_sliding_window": true}));
    assert_eq!(qwen2.sliding_window, Some(4096));
    assert_eq!(qwen2.windowed.iter().position(|windowed| *windowed), Some(28));

    let qwen3 = parse(json!({"model_type": "qwen3"}));
    assert_eq!((qwen3.head_dim, qwen3.qk_norm, qwen3.qkv_bias), (128, true, false));
}

/// The backward pass against finite differences.
#[test]
fn gradients_are_right() {
    let device = device::host().autodiff();
    let tokens = ids(&[[1, 5, 3, 8, 2]], &device);
    let loss = |model: &CausalLm| {
        let logits = model.logits(tokens.clone());
        (logits.clone() * logits.sin()).mean()
    };
    let model = CausalLm::init(config("qwen3", json!({})), &device, 5);
    let gradients = loss(&model).backward();
    let weight = |model: &CausalLm| model.model.layers[0].self_attn.k_proj.weight.val();
    let gradient = floats(weight(&model).grad(&gradients).unwrap());
    let moved = |index: usize, by: f32| {
        let mut values = floats(weight(&model));
        values[index] += by;
        let mut model = model.clone();
        let changed = Tensor::from_data(TensorData::new(values, [8, 12]), &device);
        model.model.layers[0].self_attn.k_proj.weight = Param::from_tensor(changed);
        loss(&model).into_scalar::<f32>()
    };
    let scale = gradient.iter().fold(0f32, |scale, g| scale.max(g.abs()));
    for index in [0, 17, 40, 95] {
        let difference = (moved(index, 1e-2) - moved(index, -1e-2)) / 2e-2;
        assert!((difference - gradient[index]).abs() < 0.02 * scale, "{difference} {} of {scale}", gradient[index]);
    }
}

/// Adds a trainable vector.
#[derive(Module, Debug)]
struct Shift {
    by: Param<Tensor<1>>,
}

impl ActivationAdapter for Shift {
    const NAME: &'static str = "shift";
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        x + self.by.val().unsqueeze()
    }
}

#[test]
fn every_port_changes_the_output_under_its_name() {
    let device = device::host();
    let tokens = ids(&[[1, 2, 3]], &device);
    let plain = floats(llama(&device).logits(tokens.clone()));
    let shift = |width: usize| Shift { by: Param::from_tensor(Tensor::arange(0..width as i64, &device).float()) };
    type Edit = fn(&mut CausalLm, Shift);
    let ports: [(&str, usize, Edit); 5] = [
        ("model.embed_output", 8, |model, shift| model.model.embed_output.insert("a", shift)),
        ("model.layers.1.attn_heads", 24, |model, shift| model.model.layers[1].attn_heads.insert("a", shift)),
        ("model.layers.1.attn_output", 8, |model, shift| model.model.layers[1].attn_output.insert("a", shift)),
        ("model.layers.1.mlp_output", 8, |model, shift| model.model.layers[1].mlp_output.insert("a", shift)),
        ("model.layers.1.block_output", 8, |model, shift| model.model.layers[1].block_output.insert("a", shift)),
    ];
    for (path, width, insert) in ports {
        let mut model = llama(&device);
        insert(&mut model, shift(width));
        assert_ne!(floats(model.logits(tokens.clone())), plain, "{path}");
        assert!(parameters(&model).iter().any(|(name, _)| name.starts_with(path)), "{path}");
    }
}

#[test]
fn a_cache_knows_its_size() {
    let device = device::host();
    let model = llama(&device);
    let mut cache = model.cache(&[0, 0], 50);
    assert!(cache.is_empty());
    model.step(ids(&[[1, 2, 3], [4, 5, 6]], &device), &mut cache);
    assert_eq!((cache.padding(), cache.len(), cache.capacity()), ([0, 0].as_slice(), 3, 50));
}

/// What transformers 5.23 does with the head of a checkpoint whose configuration ties it (`tie_weights` in `modeling_utils.py`).
mod tying {
    use super::*;
    use peft_core::LanguageModel;
    use peft_core::files::{Checkpoint, TensorSource, pytorch_metadata, write_checkpoint};
    use std::path::Path;

    const EMBEDDING: &str = "model.embed_tokens.weight";
    const HEAD: &str = "lm_head.weight";

    /// The checkpoint of an untied model, whose configuration says `tied`, with its tensors as `edit` leaves them.
    fn write(dir: &Path, tied: bool, max_shard_bytes: u64, edit: impl Fn(&mut Vec<TensorSource>)) -> CausalLm {
        let model = llama(&device::host());
        let mut tensors = peft_models::weights(&model, |_| DType::F32).unwrap();
        edit(&mut tensors);
        write_checkpoint(dir, tensors, max_shard_bytes, &pytorch_metadata()).unwrap();
        let json = json!({"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "tie_word_embeddings": tied, "torch_dtype": "float32"});
        std::fs::write(dir.join("config.json"), json.to_string()).unwrap();
        model
    }

    fn position(tensors: &[TensorSource], name: &str) -> usize {
        tensors.iter().position(|tensor| tensor.name == name).unwrap()
    }

    /// The tensor of one name becomes a copy of the other's.
    fn copy(tensors: &mut [TensorSource], from: &str, to: &str) {
        let model = llama(&device::host());
        let copy = peft_models::weights(&model, |_| DType::F32).unwrap().into_iter().find(|tensor| tensor.name == from).unwrap();
        let place = position(tensors, to);
        let TensorSource { info, data, .. } = copy;
        let bytes = data().unwrap().into_owned();
        tensors[place] = TensorSource::new(to, info.dtype, &info.shape, move || Ok(bytes.into()));
    }

    fn logits(model: &CausalLm) -> Vec<f32> {
        floats(model.logits(ids(&[[1, 2, 3, 4]], &device::host())))
    }

    fn assert_same(found: &[f32], expected: &[f32]) {
        let distance = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(found.len() == expected.len() && distance < 1e-5, "differ by {distance}");
    }

    fn load(dir: &Path) -> CausalLm {
        CausalLm::load(dir, &device::host(), None).unwrap()
    }

    #[test]
    fn another_head_that_is_stored_is_the_head() {
        for max_shard_bytes in [u64::MAX, 500] {
            let dir = tempfile::tempdir().unwrap();
            let model = write(dir.path(), true, max_shard_bytes, |_| ());
            let loaded = load(dir.path());
            assert!(!loaded.is_tied() && !loaded.config().tie_word_embeddings);
            assert_same(&logits(&loaded), &logits(&model));
        }
    }

    #[test]
    fn a_copy_of_the_embedding_is_one_weight_with_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), true, u64::MAX, |tensors| copy(tensors, EMBEDDING, HEAD));
        let loaded = load(dir.path());
        assert!(loaded.is_tied() && loaded.config().tie_word_embeddings);
        let out = tempfile::tempdir().unwrap();
        loaded.save(out.path(), dir.path(), None, u64::MAX).unwrap();
        assert!(!Checkpoint::open(out.path()).unwrap().contains(HEAD));
    }

    #[test]
    fn where_one_of_the_two_is_stored_it_is_both() {
        for (stored, gone) in [(EMBEDDING, HEAD), (HEAD, EMBEDDING)] {
            let [dir, both, out] = [(); 3].map(|()| tempfile::tempdir().unwrap());
            write(dir.path(), true, u64::MAX, |tensors| drop(tensors.remove(position(tensors, gone))));
            write(both.path(), false, u64::MAX, |tensors| copy(tensors, stored, gone));
            let loaded = load(dir.path());
            assert!(loaded.is_tied());
            assert_same(&logits(&loaded), &logits(&load(both.path())));
            loaded.save(out.path(), dir.path(), None, u64::MAX).unwrap();
            assert!(load(out.path()).is_tied());
            assert_same(&logits(&load(out.path())), &logits(&loaded));
        }
    }

    /// Transformers draws a head at random then.
    #[test]
    fn a_head_that_is_neither_tied_nor_stored_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), false, u64::MAX, |tensors| drop(tensors.remove(position(tensors, HEAD))));
        let error = CausalLm::load(dir.path(), &device::host(), None).unwrap_err().to_string();
        assert!(error.contains("tensor `lm_head.weight`: expected shape [11, 8], found nothing"), "{error}");
    }

    #[test]
    fn a_stored_head_of_another_shape_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), true, u64::MAX, |tensors| copy(tensors, "model.layers.0.mlp.up_proj.weight", HEAD));
        let error = CausalLm::load(dir.path(), &device::host(), None).unwrap_err().to_string();
        assert!(error.contains("tensor `lm_head.weight`: expected shape [11, 8], found shape [12, 8]"), "{error}");
    }

    #[test]
    fn an_untied_head_is_saved_and_told() {
        let [dir, out] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        write(dir.path(), true, u64::MAX, |tensors| drop(tensors.remove(position(tensors, HEAD))));
        let tied = load(dir.path());
        let before = logits(&tied);
        let mut untied = tied.untie();
        assert_eq!(untied.head_weight().map(|weight| weight.dims()), Some([8, 11]));
        assert_same(&logits(&untied), &before);
        // Only the embedding changes.
        untied.model.embed_tokens.weight = untied.model.embed_tokens.weight.map(|table| table * 2.0);
        let changed = logits(&untied);
        assert!(changed.iter().zip(&before).any(|(a, b)| (a - b).abs() > 1e-3));
        untied.save(out.path(), dir.path(), Some(DType::BF16), u64::MAX).unwrap();
        let config: Value = serde_json::from_slice(&std::fs::read(out.path().join("config.json")).unwrap()).unwrap();
        assert_eq!((&config["tie_word_embeddings"], &config["torch_dtype"]), (&json!(false), &json!("bfloat16")));
        let checkpoint = Checkpoint::open(out.path()).unwrap();
        assert!([HEAD, EMBEDDING].iter().all(|key| checkpoint.info(key).unwrap().dtype == peft_core::files::Dtype::BF16));
        let again = CausalLm::load(out.path(), &device::host(), Some(DType::F32)).unwrap();
        assert!(again.config().dtype == Some(DType::BF16) && !again.is_tied());
        let distance = logits(&again).iter().zip(&changed).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(distance < 0.1, "rounded once: {distance}");
    }
}
