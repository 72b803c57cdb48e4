//! `adapter_config.json` of LoRA, as far as merging looks at it.

use peft_core::{Error, Names, Result, pattern_value};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What can be done with an adapter whose matrices alone are not all of it.
const WAY_OUT: &str = "put it into its model with `peft merge-adapter`, and merge models with `peft merge`";

/// Settings of HF PEFT under which an adapter is more than its two matrices.
const SPECIAL: [&str; 14] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "lora_ga_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

/// Starts that leave the base as it is, so that the matrices are the change.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The configuration of a plain LoRA.
#[derive(Debug)]
pub(crate) struct Config {
    /// All of the file.
    pub value: Value,
    file: PathBuf,
    fields: Fields,
}

#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(default = "default_rank")]
    r: usize,
    #[serde(default = "default_alpha")]
    lora_alpha: f64,
    #[serde(default, deserialize_with = "or_default")]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default, deserialize_with = "or_default")]
    alpha_pattern: BTreeMap<String, f64>,
    #[serde(default, deserialize_with = "or_default")]
    use_rslora: bool,
    #[serde(default, deserialize_with = "or_default")]
    fan_in_fan_out: bool,
    #[serde(default, deserialize_with = "or_default")]
    bias: String,
    #[serde(default, deserialize_with = "or_default")]
    modules_to_save: Vec<String>,
    target_modules: Option<Names>,
}

fn default_rank() -> usize {
    8
}

fn default_alpha() -> f64 {
    8.0
}

/// HF PEFT writes `null` for what is not set.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Config {
    /// Takes the content of `file`.
    ///
    /// # Errors
    /// [`Error::File`] if it is malformed, of another type than LoRA, or has a setting under which the matrices are not the whole
    /// change.
    pub fn new(value: Value, file: &Path) -> Result<Self> {
        let kind = value.get("peft_type").and_then(Value::as_str).unwrap_or("nothing");
        if kind != "LORA" {
            return Err(Error::file(file, format!("peft_type is `{kind}`; only adapters of type LORA can be merged; {WAY_OUT}")));
        }
        if let Some(setting) = SPECIAL.into_iter().find(|setting| is_set(&value[*setting])) {
            return Err(Error::file(file, format!("an adapter with {setting} is more than its two matrices; {WAY_OUT}")));
        }
        if let Some(start) = value["init_lora_weights"].as_str().filter(|start| !PLAIN_STARTS.contains(start)) {
            let reason = format!("with init_lora_weights `{start}` the base was changed too, so that the matrices are not the change");
            return Err(Error::file(file, format!("{reason}; convert the adapter to a plain LoRA first")));
        }
        let fields: Fields = serde_json::from_value(value.clone()).map_err(|e| Error::file(file, e))?;
        if !fields.lora_alpha.is_finite() || fields.alpha_pattern.values().any(|alpha| !alpha.is_finite()) {
            return Err(Error::file(file, "lora_alpha must be a finite number"));
        }
        Ok(Self { value, file: file.into(), fields })
    }

    /// The rank at a module.
    ///
    /// # Errors
    /// [`Error::File`] if a pattern is no regular expression.
    pub fn rank_at(&self, module: &str) -> Result<usize> {
        self.at(&self.fields.rank_pattern, module, self.fields.r)
    }

    /// The factor of the change at a module.
    ///
    /// # Errors
    /// As [`rank_at`](Self::rank_at).
    pub fn scaling_at(&self, module: &str) -> Result<f64> {
        let rank = self.rank_at(module)? as f64;
        let alpha = self.at(&self.fields.alpha_pattern, module, self.fields.lora_alpha)?;
        Ok(if self.fields.use_rslora { alpha / rank.sqrt() } else { alpha / rank })
    }

    fn at<T: Copy>(&self, patterns: &BTreeMap<String, T>, module: &str, otherwise: T) -> Result<T> {
        let found = pattern_value(patterns, module).map_err(|e| Error::file(&self.file, e))?;
        Ok(found.copied().unwrap_or(otherwise))
    }

    /// Whether the base stores weights as `[in, out]`.
    pub fn fan_in_fan_out(&self) -> bool {
        self.fields.fan_in_fan_out
    }

    /// Which modules it adapts, as the file says it.
    pub fn target_modules(&self) -> Option<&Names> {
        self.fields.target_modules.as_ref()
    }

    /// Which model it was made for.
    pub fn base(&self) -> Option<&str> {
        self.value["base_model_name_or_path"].as_str()
    }

    /// What the adapter has beside matrices, if anything: tensors that take the place of the base's.
    pub fn beside_matrices(&self) -> Option<String> {
        let Fields { bias, modules_to_save, .. } = &self.fields;
        match (bias.as_str(), modules_to_save.as_slice()) {
            ("" | "none", []) => None,
            (_, [_, ..]) => Some(format!("modules_to_save ({}) are whole weights and no low-rank change", modules_to_save.join(", "))),
            (bias, []) => Some(format!("bias: {bias} trains biases, which are no low-rank change")),
        }
        .map(|what| format!("{what}; {WAY_OUT}"))
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        _ => true,
    }
}
