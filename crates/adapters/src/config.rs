//! `adapter_config.json`: any method's configuration in HF PEFT's form.

use crate::bitfit::BitFitConfig;
use crate::low_rank::{LoraConfig, VeraConfig};
use crate::scaling::Ia3Config;
use burn::module::Module;
use peft_core::files::{Checkpoint, read_json};
use peft_core::{CONFIG_FILE, Context, Error, Method, Result, Summary, TENSOR_FILE, adapt, load_tensors_from};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The configuration of one adapter, of any method.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "peft_type")]
#[allow(clippy::large_enum_variant)]
pub enum PeftConfig {
    /// LoRA with its variants rsLoRA, DoRA and PiSSA.
    #[serde(rename = "LORA")]
    Lora(LoraConfig),
    /// (IA)³.
    #[serde(rename = "IA3")]
    Ia3(Ia3Config),
    /// VeRA.
    #[serde(rename = "VERA")]
    Vera(VeraConfig),
    /// BitFit. HF PEFT has no such type; the files are the same two.
    #[serde(rename = "BITFIT")]
    BitFit(BitFitConfig),
}

/// Settings that every `adapter_config.json` has, and those this library does not know, which are kept and written back.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Common {
    /// Name or path of the model the adapter was made for.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// For example `CAUSAL_LM`.
    #[serde(default)]
    pub task_type: Option<String>,
    /// Whether the adapter is loaded for inference; files are written with `true`.
    #[serde(default)]
    pub inference_mode: bool,
    /// All other settings of the file.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Common {
    /// Refuse settings of HF PEFT that this library keeps but does not implement, if they are set.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for the first of `fields` that is not null, false, empty or `\"none\"`.
    pub(crate) fn refuse(&self, fields: &[&str]) -> Result<()> {
        let is_set = |field: &str| match self.unknown.get(field) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !matches!(text.as_str(), "" | "none"),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(entries)) => !entries.is_empty(),
            Some(Value::Bool(true) | Value::Number(_)) => true,
        };
        match fields.iter().find(|field| is_set(field)) {
            Some(field) => Err(Error::InvalidConfig(format!("`{field}` is not supported"))),
            None => Ok(()),
        }
    }
}

/// Write a whole number without a decimal point, as HF PEFT writes it.
pub(crate) fn number(value: f64) -> serde_json::Number {
    let whole = value as i64;
    match whole as f64 == value {
        true => whole.into(),
        false => serde_json::Number::from_f64(value).unwrap_or_else(|| 0.into()),
    }
}

impl PeftConfig {
    /// Read the configuration in the directory `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none; [`Error::File`] if it is malformed or its `peft_type` is not supported.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let value: Value = read_json(&path)?;
        Self::from_value(value, &path)
    }

    /// Take the configuration from the content of a file; `path` is what errors call it.
    ///
    /// # Errors
    /// [`Error::File`] if it is malformed or its `peft_type` is not supported.
    pub fn from_value(value: Value, path: &Path) -> Result<Self> {
        let kind = value.get("peft_type").and_then(Value::as_str).unwrap_or("nothing").to_string();
        if !matches!(kind.as_str(), "LORA" | "IA3" | "VERA" | "BITFIT") {
            return Err(Error::file(path, format!("peft_type is `{kind}`; supported: LORA, IA3, VERA, BITFIT")));
        }
        serde_json::from_value(value).map_err(|e| Error::file(path, e))
    }

    /// The method behind it.
    pub fn method(&self) -> &dyn Method {
        match self {
            Self::Lora(config) => config,
            Self::Ia3(config) => config,
            Self::Vera(config) => config,
            Self::BitFit(config) => config,
        }
    }

    /// The highest rank of any module; 0 for a method without ranks.
    fn highest_rank(&self) -> usize {
        match self {
            Self::Lora(config) => config.rank_pattern.values().copied().fold(config.r, usize::max),
            Self::Vera(config) => config.r,
            Self::Ia3(_) | Self::BitFit(_) => 0,
        }
    }

    /// Settings of all methods.
    pub fn common_mut(&mut self) -> &mut Common {
        match self {
            Self::Lora(config) => &mut config.common,
            Self::Ia3(config) => &mut config.common,
            Self::Vera(config) => &mut config.common,
            Self::BitFit(config) => &mut config.common,
        }
    }

    /// The content of `adapter_config.json` for an adapter saved from a model of `layers` that this configuration adapted, with the name of its base model.
    ///
    /// PiSSA is written as the plain LoRA on the original base that its tensors are exported as.
    pub fn for_file(&self, base_model: &str, task_type: &str) -> Value {
        let mut config = match self {
            Self::Lora(lora) => Self::Lora(lora.exported()),
            other => other.clone(),
        };
        let common = config.common_mut();
        common.base_model_name_or_path = Some(base_model.into());
        common.task_type = Some(task_type.into());
        common.inference_mode = true;
        let mut value = serde_json::to_value(&config).expect("configurations are plain data");
        // HF PEFT warns of settings that its configuration of the method does not have.
        let foreign = match self {
            Self::Ia3(_) => "layers_to_transform",
            Self::Vera(_) => "exclude_modules",
            Self::Lora(_) | Self::BitFit(_) => "",
        };
        if let Value::Object(map) = &mut value {
            map.retain(|key, value| key != foreign || !value.is_null());
        }
        sorted(value)
    }
}

/// Keys in alphabetical order, as HF PEFT writes them.
fn sorted(value: Value) -> Value {
    let Value::Object(map) = value else { return value };
    let mut entries: Vec<_> = map.into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(entries.into_iter().collect())
}

/// Attach the adapter in directory `dir` under `name` and make it the active one.
///
/// # Errors
/// Those of [`PeftConfig::read`], [`adapt`] and [`load_tensors_from`]. The model is dropped then: pass a clone to keep it.
pub fn load<M: Module>(model: M, dir: &Path, name: &str) -> Result<(M, PeftConfig, Summary)> {
    let config = PeftConfig::read(dir)?;
    let (model, summary) = load_from(model, &config, &Checkpoint::open_file(&dir.join(TENSOR_FILE))?, name)?;
    Ok((model, config, summary))
}

/// The same with a configuration and tensors that were read before, from wherever they come.
///
/// # Errors
/// Those of [`adapt`] and [`load_tensors_from`]. The model is dropped then: pass a clone to keep it.
pub fn load_from<M: Module>(model: M, config: &PeftConfig, tensors: &Checkpoint, name: &str) -> Result<(M, Summary)> {
    check_rank(config, tensors)?;
    let context = Context { name: name.into(), from_file: true, ..Context::default() };
    let (model, summary) = adapt(model, config.method(), &context)?;
    Ok((load_tensors_from(model, name, tensors)?, summary))
}

/// Refuse a rank that the tensor file cannot have, before memory is taken for it.
fn check_rank(config: &PeftConfig, file: &Checkpoint) -> Result<()> {
    let filled = file.keys().filter_map(|key| file.info(key)).filter(|info| info.num_bytes() > Some(0));
    let longest = filled.flat_map(|info| info.shape.iter().copied()).max().unwrap_or(0);
    match config.highest_rank() {
        rank if rank > longest => {
            Err(Error::file(file.path(), format!("{CONFIG_FILE} says a rank of {rank}, where no tensor is longer than {longest}")))
        }
        _ => Ok(()),
    }
}

/// Attach a new adapter under the name `default`; the same as [`adapt`] for any configuration.
///
/// # Errors
/// Those of [`adapt`].
pub fn attach<M: Module>(model: M, config: &PeftConfig, seed: u64) -> Result<(M, Summary)> {
    adapt(model, config.method(), &Context::seeded(seed))
}
