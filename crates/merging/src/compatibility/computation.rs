//! The settings of a configuration that change what a forward pass computes, by names and defaults that all versions share.

use super::Scope;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Settings that change what is computed from the same weights. Sizes are not among them: weights have other shapes then.
const COMPUTED: &str = "\
    model_type architectures \
    num_attention_heads num_key_value_heads head_dim v_head_dim qk_nope_head_dim qk_rope_head_dim multi_query attn_scale \
    attention_multiplier query_pre_attn_scalar attn_logit_softcapping scale_attn_weights scale_attn_by_inverse_layer_idx attention_bias \
    attention_out_bias qkv_bias use_qk_norm qk_norm qk_layernorm clip_qkv is_decoder use_bidirectional_attention attn_temperature_tuning \
    sliding_window use_sliding_window max_window_layers sliding_window_pattern attention_chunk_size layer_types no_rope_layers \
    no_rope_layer_interval rope_theta rope_local_base_freq rope_interleaved partial_rotary_factor rotary_dim rotary position_embedding_type \
    alibi relative_attention relative_attention_num_buckets relative_attention_max_distance max_relative_positions position_buckets \
    pos_att_type share_att_key position_biased_input norm_rel_ebd sinusoidal_pos_embds original_max_position_embeddings \
    hidden_act hidden_activation feed_forward_proj is_gated_act mlp_bias layer_norm_eps rms_norm_eps norm_type post_norm normalize_before \
    do_layer_norm_before parallel_attn use_parallel_residual new_decoder_architecture num_kv_shared_layers \
    apply_residual_connection_post_layernorm \
    residual_multiplier embedding_multiplier logits_scaling logit_scale final_logit_softcapping scale_emb scale_depth dim_model_base \
    scale_embedding normalize_embedding embed_scale mup_width_scale \
    num_experts_per_tok norm_topk_prob routed_scaling_factor scoring_func topk_method n_group topk_group decoder_sparse_step mlp_only_layers \
    first_k_dense_replace state_size time_step_rank time_step_min time_step_max time_step_limit conv_kernel residual_in_fp32 \
    summary_type summary_activation";
/// Settings that change nothing in a forward pass, or that are compared otherwise: sizes by the shapes of weights, tokens by vocabularies.
const HARMLESS: &str = "\
    architectures auto_map dtype torch_dtype transformers_version name_or_path model_name use_cache vocab_size num_hidden_layers hidden_size \
    intermediate_size n_inner max_position_embeddings n_ctx type_vocab_size initializer_range initializer_factor pretraining_tp \
    tie_word_embeddings return_dict torchscript task_specific_params finetuning_task problem_type id2label label2id num_labels \
    gradient_checkpointing tokenizer_class prefix quantization_config attn_implementation router_aux_loss_coef chunk_size_feed_forward \
    pruned_heads use_bfloat16 max_length min_length do_sample early_stopping num_beams num_beam_groups temperature top_k top_p typical_p \
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids suppress_tokens \
    begin_suppress_tokens num_return_sequences diversity_penalty remove_invalid_values exponential_decay_length_penalty \
    cross_attention_hidden_size add_cross_attention is_encoder_decoder";
/// Settings whose null says that something is off; that of others says as little as their absence.
const SWITCHED_OFF: &str =
    "sliding_window attention_chunk_size attn_logit_softcapping final_logit_softcapping clip_qkv rotary_dim sliding_window_pattern";
/// Model types that count positions from the padding on.
const COUNT_FROM_PADDING: [&str; 5] = ["roberta", "camembert", "mpnet", "longformer", "esm"];
/// What other names a setting has.
const ALIASES: &[(&str, &str)] = &[
    ("n_head", "num_attention_heads"),
    ("num_heads", "num_attention_heads"),
    ("n_heads", "num_attention_heads"),
    ("num_kv_heads", "num_key_value_heads"),
    ("n_layer", "num_hidden_layers"),
    ("n_layers", "num_hidden_layers"),
    ("num_layers", "num_hidden_layers"),
    ("n_embd", "hidden_size"),
    ("n_positions", "max_position_embeddings"),
    ("layer_norm_epsilon", "layer_norm_eps"),
    ("norm_epsilon", "layer_norm_eps"),
    ("norm_eps", "rms_norm_eps"),
    ("activation_function", "hidden_act"),
    ("activation", "hidden_act"),
    ("rotary_emb_base", "rope_theta"),
    ("rotary_pct", "partial_rotary_factor"),
    ("ffn_hidden_size", "intermediate_size"),
];
/// What holds where a configuration does not say, in those of transformers that may leave it out.
const DEFAULTS: &[(&str, &str)] = &[
    ("rope_theta", "10000.0"),
    ("rope_scaling.rope_type", "\"default\""),
    ("rms_norm_eps", "1e-6"),
    ("partial_rotary_factor", "1.0"),
    ("position_embedding_type", "\"absolute\""),
    ("scale_attn_weights", "true"),
];
/// Parts of a configuration that are configurations.
const PARTS: [&str; 6] = ["text_config", "vision_config", "audio_config", "encoder", "decoder", "llm_config"];

/// The settings of one model.
#[derive(Debug)]
pub struct Computation {
    /// Those that change what is computed.
    computed: BTreeMap<String, Value>,
    /// Those of which it is not known.
    unknown: BTreeMap<String, Value>,
}

/// A setting that two models do not share.
#[derive(Debug, PartialEq)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// Its value in the first model.
    pub ours: Option<Value>,
    /// Its value in the other.
    pub theirs: Option<Value>,
}

impl Computation {
    /// Sorts the settings of a configuration, as far as `scope` compares them.
    pub fn of(config: &Value, scope: Scope) -> Self {
        let mut found = Self { computed: BTreeMap::new(), unknown: BTreeMap::new() };
        if let Value::Object(config) = config {
            found.add(config, "", scope);
        }
        if !scope.heads {
            found.computed.remove("architectures");
        }
        found
    }

    /// Settings that both say, or whose default is known, and that differ.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let differences = differing(&self.computed, &other.computed);
        differences.into_iter().filter(|difference| difference.ours.is_some() && difference.theirs.is_some()).collect()
    }

    /// Settings of which it is not known whether they change what is computed, or what holds where they are not said.
    pub fn unknown_differences(&self, other: &Self) -> Vec<Difference> {
        let unsaid = differing(&self.computed, &other.computed).into_iter();
        let unsaid = unsaid.filter(|difference| difference.ours.is_none() || difference.theirs.is_none());
        unsaid.chain(differing(&self.unknown, &other.unknown)).collect()
    }

    fn add(&mut self, config: &Map<String, Value>, prefix: &str, scope: Scope) {
        let mut settings = BTreeMap::new();
        for (name, value) in config.iter().filter(|(name, value)| !value.is_null() || has(SWITCHED_OFF, name)) {
            let name = ALIASES.iter().find(|(alias, _)| alias == name).map_or(name.as_str(), |(_, name)| name);
            match value {
                Value::Object(part) if PARTS.contains(&name) => self.add(part, &format!("{prefix}{name}."), scope),
                _ => {
                    settings.entry(name.to_owned()).or_insert_with(|| canonical(value));
                }
            }
        }
        derive(&mut settings, scope.layers);
        let kind = settings.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let padding = COUNT_FROM_PADDING.iter().any(|name| kind.contains(name));
        for (name, value) in settings {
            if has(COMPUTED, &name) || name.starts_with("rope_scaling.") || (padding && name == "pad_token_id") {
                self.computed.insert(format!("{prefix}{name}"), value);
            } else if !is_harmless(&name) {
                self.unknown.insert(format!("{prefix}{name}"), value);
            }
        }
    }
}

/// Whether a list has a name.
fn has(list: &str, name: &str) -> bool {
    list.split_ascii_whitespace().any(|listed| listed == name)
}

fn is_harmless(name: &str) -> bool {
    let tokens = ["_token_id", "_token_ids", "_token_index"].iter().any(|end| name.ends_with(end));
    let loose = name.contains("drop") || ["_", "output_", "forced_", "unsloth"].iter().any(|start| name.starts_with(start));
    tokens || loose || has(HARMLESS, name) || PARTS.contains(&name)
}

/// The settings that are not the same in both, with the defaults that are known.
fn differing(ours: &BTreeMap<String, Value>, theirs: &BTreeMap<String, Value>) -> Vec<Difference> {
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let of = |settings: &BTreeMap<String, Value>, name: &String| {
        let plain = PARTS.iter().fold(name.as_str(), |name, part| name.strip_prefix(&format!("{part}.")).unwrap_or(name));
        let default = DEFAULTS.iter().find(|(known, _)| *known == plain);
        settings.get(name).cloned().or_else(|| default.and_then(|(_, value)| serde_json::from_str(value).ok()))
    };
    // Neither says it, or says it is off.
    let off = |value: &Option<Value>| matches!(value, None | Some(Value::Bool(false) | Value::Null));
    let difference = |name: &String| Difference { name: name.clone(), ours: of(ours, name), theirs: of(theirs, name) };
    names.into_iter().map(difference).filter(|d| d.ours != d.theirs && !(off(&d.ours) && off(&d.theirs))).collect()
}

/// Numbers as floating-point numbers, and other names of the same function.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or_else(|| value.clone(), |number| json!(number)),
        Value::String(name) => match name.as_str() {
            "swish" => "silu".into(),
            "gelu_python" => "gelu".into(),
            "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => "gelu_new".into(),
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(canonical).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), canonical(value))).collect::<Map<_, _>>().into(),
        _ => value.clone(),
    }
}

/// Settings that follow from others.
fn derive(settings: &mut BTreeMap<String, Value>, layers: bool) {
    rope(settings);
    let number = |settings: &BTreeMap<String, Value>, name: &str| settings.get(name).and_then(Value::as_f64);
    if let Some(heads) = number(settings, "num_attention_heads") {
        settings.entry("num_key_value_heads".into()).or_insert_with(|| json!(heads));
        if let Some(hidden) = number(settings, "hidden_size") {
            settings.entry("head_dim".into()).or_insert_with(|| json!((hidden / heads).floor()));
        }
    }
    // A window that is switched off.
    if settings.get("use_sliding_window") == Some(&Value::Bool(false)) {
        settings.retain(|name, _| !has("use_sliding_window sliding_window max_window_layers", name));
    }
    let full = |types: &Value| types.as_array().is_some_and(|types| types.iter().all(|kind| kind == "full_attention"));
    if settings.get("layer_types").is_some_and(full) {
        settings.remove("layer_types");
    }
    if !layers {
        settings.retain(|name, _| !has("layer_types no_rope_layers max_window_layers mlp_only_layers", name));
    }
}

/// Rotary embeddings as transformers 5 and those before it write them.
fn rope(settings: &mut BTreeMap<String, Value>) {
    let older = settings.remove("rope_scaling");
    let scaling = settings.remove("rope_parameters").or(older);
    let Some(Value::Object(mut scaling)) = scaling else { return };
    if let (Some(kind), None) = (scaling.remove("type"), scaling.get("rope_type")) {
        scaling.insert("rope_type".into(), kind);
    }
    if scaling.get("rope_type").is_some_and(|kind| ["dynamic", "longrope", "yarn"].iter().any(|name| kind == name))
        && let Some(length) = settings.get("max_position_embeddings")
    {
        scaling.insert("max_position_embeddings".into(), length.clone());
    }
    for (name, value) in scaling.into_iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "rope_theta" | "partial_rotary_factor" => settings.insert(name, value),
            _ => settings.insert(format!("rope_scaling.{name}"), value),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Scope = Scope { heads: true, layers: true, vocabularies: true };

    fn differences(ours: Value, theirs: Value) -> Vec<String> {
        let names = |d: Vec<Difference>| d.into_iter().map(|d| d.name).collect();
        names(Computation::of(&ours, ALL).differences(&Computation::of(&theirs, ALL)))
    }

    fn llama() -> Value {
        json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "num_attention_heads": 4,
            "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000, "rope_scaling": null, "torch_dtype": "float16"
        })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut config = llama();
        config[name] = value;
        config
    }

    #[test]
    fn what_changes_the_forward_pass_is_a_difference() {
        for (name, value) in [
            ("rope_theta", json!(500000.0)),
            ("num_attention_heads", json!(2)),
            ("head_dim", json!(16)),
            ("hidden_act", json!("gelu")),
            ("rms_norm_eps", json!(1e-5)),
            ("model_type", json!("mistral")),
            ("architectures", json!(["MistralForCausalLM"])),
        ] {
            assert!(differences(llama(), with(name, value)).contains(&name.to_owned()), "{name}");
        }
        assert_eq!(differences(llama(), with("num_key_value_heads", json!(2))), ["num_key_value_heads"], "all heads where it is not said");
        let scaled = with("rope_scaling", json!({ "type": "linear", "factor": 2.0 }));
        assert_eq!(differences(llama(), scaled), ["rope_scaling.rope_type"]);
        let window = |size: Value| with("sliding_window", size);
        assert_eq!(differences(window(json!(4096)), window(json!(8))), ["sliding_window"]);
        assert_eq!(differences(window(json!(4096)), window(json!(null))), ["sliding_window"], "null is no window");
        let roberta = |padding: u32| json!({ "model_type": "roberta", "pad_token_id": padding });
        assert_eq!(differences(roberta(1), roberta(0)), ["pad_token_id"], "positions are counted from it");
    }

    #[test]
    fn what_is_only_written_otherwise_is_none() {
        let none: [String; 0] = [];
        let mut newer = llama();
        newer["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 10000.0 });
        newer.as_object_mut().unwrap().retain(|name, _| name != "rope_theta" && name != "rope_scaling");
        assert_eq!(differences(llama(), newer), none, "as transformers 5 writes it");
        for (name, value) in [
            ("hidden_act", json!("swish")),
            ("head_dim", json!(8)),
            ("num_key_value_heads", json!(4)),
            ("attention_bias", json!(false)),
            ("layer_types", json!(["full_attention", "full_attention"])),
            ("torch_dtype", json!("bfloat16")),
            ("max_position_embeddings", json!(4096)),
            ("eos_token_id", json!([2, 3])),
            ("use_cache", json!(false)),
            ("attention_dropout", json!(0.1)),
        ] {
            let other = with(name, value);
            assert_eq!(differences(llama(), other.clone()), none, "{name}");
            let unknown = Computation::of(&llama(), ALL).unknown_differences(&Computation::of(&other, ALL));
            assert_eq!(unknown, [], "{name}");
        }
        let window = json!({ "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 20 });
        assert_eq!(differences(window, json!({ "use_sliding_window": false, "sliding_window": null })), none);
    }

    #[test]
    fn what_is_unknown_is_told_apart() {
        let unknown = |value: Value| {
            let found = Computation::of(&llama(), ALL).unknown_differences(&Computation::of(&value, ALL));
            found.into_iter().map(|d| d.name).collect::<Vec<_>>()
        };
        assert_eq!(unknown(with("a_new_setting", json!(3))), ["a_new_setting"]);
        assert_eq!(unknown(with("sliding_window", json!(4096))), ["sliding_window"], "what holds without it is not known");
    }

    #[test]
    fn parts_are_compared_by_their_own_settings() {
        let of =
            |theta: f64| json!({ "model_type": "x", "text_config": { "rope_theta": theta }, "vision_config": { "hidden_act": "gelu" } });
        assert_eq!(differences(of(1e4), of(1e6)), ["text_config.rope_theta"]);
        assert_eq!(differences(of(1e4), json!({ "model_type": "x", "text_config": {} })), [""; 0]);
    }
}
