//! `config.json` of a decoder, checked before anything is allocated.

use super::activation::Activation;
use super::family::Family;
use super::rope::{Rope, RopeContext, RopeEntry};
use crate::bounds::{MAX_LAYERS, MAX_PARAMS, at_most, dtype, fraction, positive, size};
use crate::fields::Fields;
use burn::tensor::DType;
use peft_core::{Error, Result, files};
use std::path::Path;

/// The shape of a decoder and what tells the architectures apart.
///
/// Made by [`read`](Self::read) or [`parse`](Self::parse), which check every number.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The branch of the family.
    pub family: Family,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// The context the model was trained for. Longer inputs run, with results of lower quality.
    pub max_position_embeddings: usize,
    /// The non-linearity of the feed-forward block.
    pub activation: Activation,
    /// The `ε` of the normalisation.
    pub rms_norm_eps: f64,
    /// Standard deviation of random weights.
    pub initializer_range: f64,
    /// Whether the head is the transposed embedding.
    pub tie_word_embeddings: bool,
    /// Rotary positions.
    pub rope: Rope,
    /// How far back windowed layers attend: each token to itself and the `sliding_window - 1` before it.
    pub sliding_window: Option<usize>,
    /// Which layers are windowed, one entry per layer.
    pub windowed: Vec<bool>,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// The type in which the weights were saved, if the file says.
    pub dtype: Option<DType>,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
}

impl DecoderConfig {
    /// Read and check `config.json` in a checkpoint directory.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let file = dir.as_ref().join("config.json");
        Self::check(&files::read_text(&file)?).map_err(|reason| Error::file(&file, reason))
    }

    /// Check the text of a `config.json`.
    pub fn parse(json: &str) -> Result<Self> {
        Self::check(json).map_err(Error::InvalidConfig)
    }

    /// Number of parameters; a tied head counts once.
    pub fn num_params(&self) -> u64 {
        self.count_params() as u64
    }

    fn check(json: &str) -> Result<Self, String> {
        let json = Fields::parse(json)?;
        let family = Family::detect(&json.texts("architectures")?.unwrap_or_default(), json.text("model_type")?.as_deref())?;
        if let Some(method) = json.object("quantization_config")? {
            let method = method.text("quant_method")?.unwrap_or_else(|| "unknown method".into());
            return Err(format!("the checkpoint is quantised ({method}); convert it to a floating-point one first"));
        }
        let defaults = family.defaults();
        let hidden_size = size("hidden_size", json.size("hidden_size")?.unwrap_or(4096))?;
        let num_hidden_layers = at_most("num_hidden_layers", json.size("num_hidden_layers")?.unwrap_or(32), MAX_LAYERS)?;
        let num_attention_heads = size("num_attention_heads", json.size("num_attention_heads")?.unwrap_or(32))?;
        // Null is not the default of the architecture, but one for each query head.
        let absent = if json.has("num_key_value_heads") { None } else { defaults.num_key_value_heads };
        let num_key_value_heads = json.size("num_key_value_heads")?.or(absent).unwrap_or(num_attention_heads);
        let num_key_value_heads = size("num_key_value_heads", num_key_value_heads)?;
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(format!(
                "num_attention_heads {num_attention_heads} must be a multiple of num_key_value_heads {num_key_value_heads}"
            ));
        }
        let max_position_embeddings =
            size("max_position_embeddings", json.size("max_position_embeddings")?.unwrap_or(defaults.max_position_embeddings))?;
        let context = RopeContext {
            rope_theta: json.number("rope_theta")?,
            partial_rotary_factor: json.number("partial_rotary_factor")?,
            original_max_position_embeddings: json.size("original_max_position_embeddings")?,
            max_position_embeddings,
        };
        let (sliding_window, windowed) = windows(&json, family, num_hidden_layers)?;
        let attention_bias = json.flag("attention_bias")?.unwrap_or(false);
        let mlp_bias = json.flag("mlp_bias")?.unwrap_or(false);
        let stored_as = json.text("dtype")?.map_or_else(|| json.text("torch_dtype"), |name| Ok(Some(name)))?;
        let config = Self {
            family,
            vocab_size: size("vocab_size", json.size("vocab_size")?.unwrap_or(defaults.vocab_size))?,
            hidden_size,
            intermediate_size: size("intermediate_size", json.size("intermediate_size")?.unwrap_or(defaults.intermediate_size))?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim: head_dim(json.size("head_dim")?.or(defaults.head_dim), hidden_size, num_attention_heads)?,
            max_position_embeddings,
            activation: Activation::from_name(json.text("hidden_act")?.as_deref().unwrap_or("silu"))?,
            rms_norm_eps: positive("rms_norm_eps", json.number("rms_norm_eps")?.unwrap_or(1e-6))?,
            initializer_range: fraction("initializer_range", json.number("initializer_range")?.unwrap_or(0.02))?,
            tie_word_embeddings: json.flag("tie_word_embeddings")?.unwrap_or(false),
            rope: Rope::from_config(RopeEntry::read(&json)?, context)?,
            sliding_window,
            windowed,
            qkv_bias: match family {
                Family::Llama | Family::Qwen3 => attention_bias,
                Family::Mistral => false,
                Family::Qwen2 => true,
            },
            output_bias: matches!(family, Family::Llama | Family::Qwen3) && attention_bias,
            mlp_bias: family == Family::Llama && mlp_bias,
            qk_norm: family == Family::Qwen3,
            dtype: stored_as.map(|name| dtype(&name)).transpose()?,
            bos_token_id: json.ids("bos_token_id")?.first().copied(),
            eos_token_ids: json.ids("eos_token_id")?,
        };
        match config.count_params() {
            count if count > MAX_PARAMS => Err(format!("describes {count} parameters, more than the limit of {MAX_PARAMS}")),
            _ => Ok(config),
        }
    }

    // Every size is below 2^31 and there are at most 10 000 layers, so that 128 bits cannot overflow.
    fn count_params(&self) -> u128 {
        let [vocab, d, inner, hd] = [self.vocab_size, self.hidden_size, self.intermediate_size, self.head_dim].map(|n| n as u128);
        let [q, kv] = [self.num_attention_heads, self.num_key_value_heads].map(|heads| heads as u128 * hd);
        let when = |condition: bool, count: u128| if condition { count } else { 0 };
        let attention = d * (2 * q + 2 * kv) + when(self.qkv_bias, q + 2 * kv) + when(self.output_bias, d);
        let mlp = 3 * d * inner + when(self.mlp_bias, 2 * inner + d);
        let norms = 2 * d + when(self.qk_norm, 2 * hd);
        let ends = vocab * d * (2 - self.tie_word_embeddings as u128) + d;
        self.num_hidden_layers as u128 * (attention + mlp + norms) + ends
    }
}

fn head_dim(given: Option<usize>, hidden_size: usize, heads: usize) -> Result<usize, String> {
    let head_dim = match given {
        Some(given) => size("head_dim", given)?,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => return Err(format!("hidden_size {hidden_size} must be a multiple of num_attention_heads {heads}")),
    };
    if !head_dim.is_multiple_of(2) {
        return Err(format!("head_dim must be even, found {head_dim}: rotary positions turn pairs"));
    }
    Ok(head_dim)
}

/// The window, and for each layer whether it applies.
fn windows(json: &Fields, family: Family, layers: usize) -> Result<(Option<usize>, Vec<bool>), String> {
    let used = match family {
        Family::Llama => false,
        Family::Mistral => true,
        Family::Qwen2 | Family::Qwen3 => json.flag("use_sliding_window")?.unwrap_or(false),
    };
    // Null is not the default, but no window.
    let absent = (!json.has("sliding_window")).then_some(4096);
    let window = json.size("sliding_window")?.or(absent).filter(|_| used);
    let window = window.map(|window| size("sliding_window", window)).transpose()?;
    let windowed = match (family, json.texts("layer_types")?) {
        (Family::Qwen2 | Family::Qwen3, Some(types)) => by_type(&types, window, layers)?,
        (Family::Qwen2 | Family::Qwen3, None) => {
            let first = json.size("max_window_layers")?.unwrap_or(28);
            (0..layers).map(|layer| window.is_some() && layer >= first).collect()
        }
        (Family::Llama | Family::Mistral, _) => vec![window.is_some(); layers],
    };
    Ok((window.filter(|_| windowed.contains(&true)), windowed))
}

fn by_type(types: &[String], window: Option<usize>, layers: usize) -> Result<Vec<bool>, String> {
    if types.len() != layers {
        return Err(format!("layer_types has {} entries for {layers} layers", types.len()));
    }
    let windowed = |name: &String| match name.as_str() {
        "full_attention" => Ok(false),
        "sliding_attention" if window.is_some() => Ok(true),
        "sliding_attention" => Err("layer_types asks for `sliding_attention`, but no sliding window is in use".into()),
        _ => Err(format!("layer type `{name}` is not supported; supported: `full_attention`, `sliding_attention`")),
    };
    types.iter().map(windowed).collect()
}
