//! `adapter_config.json`: any method's configuration in HF PEFT's form.

use crate::bitfit::BitFitConfig;
use crate::low_rank::{LoraConfig, VeraConfig};
use crate::scaling::Ia3Config;
use burn::module::Module;
use peft_core::files::Checkpoint;
use peft_core::hf::{AdapterConfig, Kind, check_settings, default_targets};
use peft_core::{
    CONFIG_FILE, Context, Error, Method, Names, Result, Summary, TENSOR_FILE, Targets, adapt, is_inside, load_tensors_from,
    resize_vocabulary,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The configuration of one adapter, of any method.
#[derive(Clone, Debug, Serialize)]
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

/// Refuse settings of HF PEFT that this library keeps but does not implement, if `config` has them set.
///
/// # Errors
/// [`Error::InvalidConfig`] naming the first of them.
pub(crate) fn check(kind: Kind, config: &impl Serialize) -> Result<()> {
    match serde_json::to_value(config) {
        Ok(Value::Object(settings)) => check_settings(kind, &settings).map_err(Error::InvalidConfig),
        Ok(_) => Ok(()),
        Err(error) => Err(Error::InvalidConfig(error.to_string())),
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
    /// [`Error::Io`] if there is none; [`Error::File`] naming the setting if one is malformed or not supported.
    pub fn read(dir: &Path) -> Result<Self> {
        Self::of(&AdapterConfig::read(dir)?)
    }

    /// Take the configuration from the content of a file; `path` is what errors call it.
    ///
    /// # Errors
    /// [`Error::File`] naming the setting if one is malformed or not supported.
    pub fn from_value(value: Value, path: &Path) -> Result<Self> {
        Self::of(&AdapterConfig::new(value, path)?)
    }

    fn of(config: &AdapterConfig) -> Result<Self> {
        Ok(match config.kind {
            Kind::Lora => Self::Lora(config.settings()?),
            Kind::Ia3 => Self::Ia3(config.settings()?),
            Kind::Vera => Self::Vera(config.settings()?),
            Kind::BitFit => Self::BitFit(config.settings()?),
        })
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Lora(_) => Kind::Lora,
            Self::Ia3(_) => Kind::Ia3,
            Self::Vera(_) => Kind::Vera,
            Self::BitFit(_) => Kind::BitFit,
        }
    }

    fn targets_mut(&mut self) -> Option<&mut Targets> {
        match self {
            Self::Lora(config) => Some(&mut config.targets),
            Self::Ia3(config) => Some(&mut config.targets),
            Self::Vera(config) => Some(&mut config.targets),
            Self::BitFit(_) => None,
        }
    }

    /// Modules of which a full copy is trained and saved.
    pub fn modules_to_save(&self) -> &[String] {
        let modules = match self {
            Self::Lora(config) => &config.modules_to_save,
            Self::Ia3(config) => &config.modules_to_save,
            Self::Vera(config) => &config.modules_to_save,
            Self::BitFit(config) => &config.modules_to_save,
        };
        modules.as_deref().unwrap_or_default()
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
        let foreign: &[&str] = match self {
            Self::Ia3(_) => &["layers_to_transform", "layers_pattern"],
            Self::Vera(_) => &["exclude_modules"],
            Self::Lora(_) | Self::BitFit(_) => &[],
        };
        if let Value::Object(map) = &mut value {
            map.retain(|key, value| !foreign.contains(&key.as_str()) || !value.is_null());
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
/// Parameters of the base that the file holds (a trained or a longer embedding) go into the base, as in HF PEFT.
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
    check_projection(config, tensors)?;
    let model = resize_vocabulary(model, tensors)?;
    let config = with_default_targets(config, tensors)?;
    let context = Context { name: name.into(), from_file: true, ..Context::default() };
    let (model, summary) = adapt(model, config.method(), &context)?;
    Ok((load_tensors_from(model, name, tensors)?, summary))
}

/// Whether the configuration has the module at this path, a linear projection, adapted or trained as a whole.
///
/// # Errors
/// [`Error::InvalidConfig`] for an expression that is none.
pub fn selects(config: &PeftConfig, module: &str) -> Result<bool> {
    let saved = config.modules_to_save().iter().any(|entry| is_inside(module, entry));
    let targets = match config.method().targets() {
        Some(targets) if targets.target_modules.is_some() => targets.selection()?.includes(module, true)?,
        _ => false,
    };
    Ok(saved || targets)
}

/// Whether a loaded adapter changes the module at this path: its configuration selects the module, and where that is to get an adapter
/// the file has tensors of it.
///
/// # Errors
/// As [`selects`]; [`Error::Tensor`] for a key that is not an adapter's.
pub fn changes(config: &PeftConfig, tensors: &Checkpoint, module: &str) -> Result<bool> {
    let saved = config.modules_to_save().iter().any(|entry| is_inside(module, entry));
    Ok(saved || (peft_core::hf::modules(tensors)?.contains(module) && selects(&with_default_targets(config, tensors)?, module)?))
}

/// Where a file does not say its modules, those that HF PEFT takes by default, as far as the file has tensors of them; the same for the
/// modules whose inputs (IA)³ scales.
fn with_default_targets(config: &PeftConfig, tensors: &Checkpoint) -> Result<PeftConfig> {
    let (mut config, kind) = (config.clone(), config.kind());
    let untargeted = config.targets_mut().is_some_and(|targets| targets.target_modules.is_none());
    if !untargeted && !matches!(&config, PeftConfig::Ia3(ia3) if ia3.feedforward_modules.is_none()) {
        return Ok(config);
    }
    let adapted = peft_core::hf::modules(tensors)?;
    if let Some(targets) = config.targets_mut().filter(|_| untargeted) {
        targets.target_modules = Some(Names::List(default_targets(kind, &adapted)));
    }
    if let PeftConfig::Ia3(ia3) = &mut config
        && ia3.feedforward_modules.is_none()
    {
        // A scale of inputs is stored as one row.
        let is_row = |module: &&String| {
            tensors.keys().any(|key| key.contains(module.as_str()) && tensors.info(key).is_some_and(|i| i.shape[0] == 1))
        };
        ia3.feedforward_modules = Some(Names::list(adapted.iter().filter(is_row)));
    }
    Ok(config)
}

/// Refuse a file of HF PEFT that leaves out VeRA's projections: they come from a generator that only torch has.
fn check_projection(config: &PeftConfig, tensors: &Checkpoint) -> Result<()> {
    let PeftConfig::Vera(vera) = config else { return Ok(()) };
    let made_elsewhere = ["peft_version", "auto_mapping"].iter().any(|name| vera.common.unknown.contains_key(*name));
    match made_elsewhere && !vera.save_projection && !tensors.keys().any(|key| key.contains("vera_A")) {
        true => Err(Error::file(
            tensors.path(),
            "has no projections (save_projection is false), which HF PEFT draws from torch's generator; save the adapter there with save_projection",
        )),
        false => Ok(()),
    }
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
