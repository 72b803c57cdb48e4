//! Configurations and checkpoints that cannot be used, each with the message that says why.

use burn::tensor::Device;
use peft_core::device;
use peft_core::files::{Dtype, TensorSource, pytorch_metadata, write_safetensors};
use peft_models::{CausalLm, DecoderConfig, EncoderConfig};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fs;
use std::path::Path;

fn small() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 10,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    })
}

/// What is said about the small configuration with some keys changed.
fn message(changes: Value) -> String {
    let mut config = small();
    let object = config.as_object_mut().unwrap();
    object.extend(changes.as_object().unwrap().clone());
    let error = DecoderConfig::parse(&config.to_string()).unwrap_err().to_string();
    error.strip_prefix("invalid configuration: ").unwrap().to_string()
}

#[test]
fn an_unknown_architecture_lists_the_supported_ones() {
    assert_eq!(
        message(json!({"architectures": ["GPT2LMHeadModel"], "model_type": null})),
        "architecture `GPT2LMHeadModel` is not supported; supported: \
         `LlamaForCausalLM`, `MistralForCausalLM`, `Qwen2ForCausalLM`, `Qwen3ForCausalLM`"
    );
    assert_eq!(
        message(json!({"architectures": null, "model_type": "gpt2"})),
        "model_type `gpt2` is not supported; supported: `llama`, `mistral`, `qwen2`, `qwen3`"
    );
    assert!(message(json!({"architectures": [], "model_type": null})).starts_with("names neither"));
    assert_eq!(message(json!({"model_type": "qwen2"})), "architecture `LlamaForCausalLM` and model_type `qwen2` contradict each other");
}

#[test]
fn absurd_sizes_are_errors() {
    assert_eq!(message(json!({"vocab_size": 0})), "vocab_size must be between 1 and 2147483647, found 0");
    assert_eq!(message(json!({"hidden_size": 0})), "hidden_size must be between 1 and 2147483647, found 0");
    assert_eq!(message(json!({"num_hidden_layers": 0})), "num_hidden_layers must be between 1 and 10000, found 0");
    assert_eq!(message(json!({"num_hidden_layers": 20_000})), "num_hidden_layers must be between 1 and 10000, found 20000");
    assert_eq!(
        message(json!({"intermediate_size": u64::MAX})),
        format!("intermediate_size must be between 1 and 2147483647, found {}", u64::MAX)
    );
    assert_eq!(message(json!({"hidden_size": -8})), "hidden_size must be a whole number from 0 on, found -8");
    let huge = json!({"hidden_size": 1 << 24, "intermediate_size": 1 << 26, "num_hidden_layers": 9999});
    assert!(message(huge).ends_with("parameters, more than the limit of 10000000000000"));
}

#[test]
fn heads_that_do_not_fit_are_errors() {
    assert_eq!(message(json!({"num_key_value_heads": 3})), "num_attention_heads 4 must be a multiple of num_key_value_heads 3");
    assert_eq!(message(json!({"hidden_size": 10})), "hidden_size 10 must be a multiple of num_attention_heads 4");
    assert_eq!(message(json!({"head_dim": 3})), "head_dim must be even, found 3: rotary positions turn pairs");
    assert_eq!(message(json!({"hidden_size": 4})), "head_dim must be even, found 1: rotary positions turn pairs");
}

#[test]
fn numbers_that_make_no_sense_are_errors() {
    assert_eq!(message(json!({"rms_norm_eps": 0.0})), "rms_norm_eps must be a positive number, found 0");
    assert_eq!(message(json!({"rope_theta": -1.0})), "rope_theta must be a positive number, found -1");
    assert_eq!(message(json!({"initializer_range": 2.0})), "initializer_range must be between 0 and 1, found 2");
}

#[test]
fn an_unknown_activation_lists_the_supported_ones() {
    assert_eq!(
        message(json!({"hidden_act": "mish"})),
        "hidden_act `mish` is not supported; supported: `silu`, `gelu`, `gelu_pytorch_tanh`, `gelu_new`, `relu`"
    );
}

#[test]
fn rope_that_cannot_be_computed_is_an_error() {
    assert_eq!(
        message(json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}})),
        "rope type `yarn` is not supported; supported: `default`, `linear`, `llama3`"
    );
    assert_eq!(message(json!({"rope_scaling": {"type": "linear"}})), "rope type `linear` needs `factor`");
    assert_eq!(
        message(json!({"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 0.0}})),
        "factor must be a positive number, found 0"
    );
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0});
    assert_eq!(message(json!({"rope_scaling": llama3})), "high_freq_factor 1 must be above low_freq_factor 4");
    assert_eq!(message(json!({"partial_rotary_factor": 0.5})), "partial_rotary_factor 0.5 is not supported; it must be 1");
    assert_eq!(
        message(json!({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}})),
        "rope_parameters differ by layer type, which is not supported"
    );
}

#[test]
fn windows_that_contradict_are_errors() {
    let qwen2 = |changes: Value| {
        let mut all = json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        message(all)
    };
    assert_eq!(qwen2(json!({"layer_types": ["full_attention"]})), "layer_types has 1 entries for 2 layers");
    assert_eq!(
        qwen2(json!({"layer_types": ["full_attention", "sliding_attention"]})),
        "layer_types asks for `sliding_attention`, but no sliding window is in use"
    );
    assert_eq!(
        qwen2(json!({"layer_types": ["full_attention", "linear_attention"]})),
        "layer type `linear_attention` is not supported; supported: `full_attention`, `sliding_attention`"
    );
    assert_eq!(qwen2(json!({"use_sliding_window": true, "sliding_window": 0})), "sliding_window must be between 1 and 2147483647, found 0");
}

#[test]
fn a_quantised_checkpoint_is_refused() {
    assert_eq!(
        message(json!({"quantization_config": {"quant_method": "gptq"}})),
        "the checkpoint is quantised (gptq); convert it to a floating-point one first"
    );
}

#[test]
fn a_malformed_file_is_named_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{\n  \"vocab_size\": }").unwrap();
    let error = CausalLm::load(dir.path(), &device::host(), None).unwrap_err().to_string();
    assert!(error.ends_with("config.json: expected value at line 2 column 17"), "{error}");
}

#[test]
fn a_missing_directory_is_an_error() {
    let error = CausalLm::load("no/such/model", &device::host(), None).unwrap_err().to_string();
    assert!(error.starts_with("no/such/model/config.json: "), "{error}");
}

/// A checkpoint with a configuration and these tensors.
fn checkpoint(dir: &Path, config: &Value, tensors: &[(&str, Vec<usize>, Dtype)]) {
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let source = |(key, shape, dtype): &(&str, Vec<usize>, Dtype)| {
        let bytes = vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8];
        TensorSource::new(*key, *dtype, shape, move || Ok(Cow::Owned(bytes)))
    };
    write_safetensors(&dir.join("model.safetensors"), tensors.iter().map(source), &pytorch_metadata()).unwrap();
}

fn load_error(config: &Value, tensors: &[(&str, Vec<usize>, Dtype)], device: &Device) -> String {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(dir.path(), config, tensors);
    let error = CausalLm::load(dir.path(), device, None).unwrap_err().to_string();
    error.replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn a_missing_tensor_is_named_with_its_neighbours() {
    let error = load_error(&small(), &[("model.embed_token.weight", vec![10, 8], Dtype::F32)], &device::host());
    assert!(error.contains("tensor `model.embed_tokens.weight`"), "{error}");
    assert!(error.contains("`model.embed_token.weight`"), "{error}");
}

#[test]
fn a_tensor_of_another_shape_is_an_error() {
    let error = load_error(&small(), &[("model.embed_tokens.weight", vec![9, 8], Dtype::F32)], &device::host());
    assert!(error.ends_with("tensor `model.embed_tokens.weight`: expected shape [10, 8], found shape [9, 8]"), "{error}");
}

#[test]
fn a_tensor_of_whole_numbers_is_an_error() {
    let error = load_error(&small(), &[("model.embed_tokens.weight", vec![10, 8], Dtype::I64)], &device::host());
    assert!(error.contains("tensor `model.embed_tokens.weight`: expected"), "{error}");
}

/// 8 trillion parameters: if anything were allocated before the check, this would not return.
#[test]
fn nothing_is_allocated_before_shapes_are_checked() {
    let mut config = small();
    config["hidden_size"] = json!(1 << 17);
    config["intermediate_size"] = json!(1 << 17);
    config["num_hidden_layers"] = json!(70);
    let error = load_error(&config, &[("model.embed_tokens.weight", vec![10, 8], Dtype::F32)], &device::host());
    assert!(error.ends_with("expected shape [10, 131072], found shape [10, 8]"), "{error}");
}

/// Values that transformers 5.23 takes, whose meaning is that of no value or of another spelling.
#[test]
fn values_that_transformers_takes_are_taken() {
    let config = |changes: Value| {
        let mut config = small();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        DecoderConfig::parse(&config.to_string()).unwrap()
    };
    let usual = config(json!({}));
    for same in [
        json!({"eos_token_id": -1}),
        json!({"eos_token_id": []}),
        json!({"eos_token_id": [-1]}),
        json!({"bos_token_id": -1, "eos_token_id": null, "pad_token_id": -1}),
        json!({"architectures": "LlamaForCausalLM"}),
        json!({"architectures": null}),
        json!({"hidden_act": "swish"}),
        json!({"head_dim": null, "rope_scaling": null, "rope_parameters": null, "sliding_window": null, "partial_rotary_factor": null}),
        json!({"rope_scaling": {}}),
        json!({"rope_theta": 10000}),
        json!({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        json!({"dtype": null, "torch_dtype": null}),
    ] {
        assert_eq!(config(same.clone()), usual, "{same}");
    }
    assert_eq!(config(json!({"eos_token_id": [2, -1, 3], "bos_token_id": [1]})).eos_token_ids, [2, 3]);
    assert_eq!(config(json!({"bos_token_id": [1]})).bos_token_id, Some(1));
    assert_eq!(config(json!({"num_key_value_heads": null})).num_key_value_heads, 4);
    for dtype in ["float16", "torch.float16", "half"] {
        assert_eq!(config(json!({"torch_dtype": dtype})).dtype, Some(burn::tensor::DType::F16));
    }
    // An empty `rope_scaling` is none.
    let both = json!({"rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 500}});
    assert_eq!(config(both).rope, config(json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 500.0})).rope);
}

#[test]
fn a_value_of_another_kind_is_named_with_its_key() {
    for (key, value, wanted) in [
        ("rope_theta", json!("10000"), "a number, found \"10000\""),
        ("num_hidden_layers", json!(2.0), "a whole number from 0 on, found 2.0"),
        ("num_hidden_layers", json!("2"), "a whole number from 0 on, found \"2\""),
        ("head_dim", json!(true), "a whole number from 0 on, found true"),
        ("rms_norm_eps", json!("1e-6"), "a number, found \"1e-6\""),
        ("tie_word_embeddings", json!(1), "true or false, found 1"),
        ("attention_bias", json!("false"), "true or false, found \"false\""),
        ("hidden_act", json!(["silu"]), "a string, found [\"silu\"]"),
        ("architectures", json!([1]), "a list of strings, found [1]"),
        ("model_type", json!(7), "a string, found 7"),
        ("torch_dtype", json!(16), "a string, found 16"),
        ("eos_token_id", json!("2"), "the id of a token, or a list of such, found \"2\""),
        ("eos_token_id", json!(2.0), "the id of a token, or a list of such, found 2.0"),
        ("bos_token_id", json!([[1]]), "the id of a token, or a list of such, found [[1]]"),
        ("rope_scaling", json!("linear"), "an object, found \"linear\""),
        ("quantization_config", json!([]), "an object, found []"),
    ] {
        assert_eq!(message(json!({ key: value })), format!("{key} must be {wanted}"));
    }
    assert_eq!(message(json!({"rope_scaling": {"type": "linear", "factor": "2"}})), "rope_scaling.factor must be a number, found \"2\"");
    let long = message(json!({ "hidden_size": "x".repeat(1000) }));
    assert!(long.ends_with("xx…") && long.len() < 120, "{long}");
    assert_eq!(DecoderConfig::parse("[1]").unwrap_err().to_string(), "invalid configuration: must be a JSON object, found [1]");

    let encoder = |key: &str, value: Value| {
        let mut config = json!({"model_type": "bert"});
        config[key] = value;
        EncoderConfig::parse(&config.to_string())
    };
    for (key, value) in [
        ("layer_norm_eps", json!("1e-12")),
        ("hidden_size", json!(32.0)),
        ("pad_token_id", json!("0")),
        ("id2label", json!(["a", "b"])),
        ("is_decoder", json!("no")),
        ("classifier_dropout", json!("0.1")),
    ] {
        let error = encoder(key, value).unwrap_err().to_string();
        assert!(error.starts_with(&format!("invalid configuration: {key} must be ")), "{error}");
    }
    assert_eq!(encoder("pad_token_id", json!(-1)).unwrap().pad_token_id, 0);
    assert!(encoder("classifier_dropout", Value::Null).is_ok() && encoder("problem_type", Value::Null).is_ok());
}
