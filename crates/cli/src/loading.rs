//! From command-line arguments to a model with its tokenizer and adapter.

use crate::hub::{self, Kind};
use burn::module::Module;
use burn::tensor::{DType, Device};
use clap::{Args, ValueEnum};
use peft_adapters::PeftConfig;
use peft_core::files::{Checkpoint, Inputs, TextFiles};
use peft_core::{CONFIG_FILE, Error, Result, TENSOR_FILE, device, resize_vocabulary};
use peft_merge::compeft::{self, Expert};
use peft_models::CausalLm;
use peft_train::data::{ChatTemplate, TextTokenizer};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of the adapter that a command works with.
pub const ADAPTER: &str = "default";

/// Type of the weights in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit.
    #[default]
    F32,
    /// 16-bit brain float.
    Bf16,
    /// 16-bit IEEE float.
    F16,
}

impl Precision {
    /// The same as a tensor type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

/// A number of things of which there is at least one.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        number => number.map_err(|e| format!("{e}")),
    }
}

/// A model to run.
#[derive(Args)]
pub struct ModelArgs {
    /// Hugging Face checkpoint: a directory (config.json, *.safetensors, tokenizer.json) or a hub id, org/name[@revision].
    #[arg(long, value_name = "DIR|ID")]
    pub model: PathBuf,
    /// Adapter: a directory (adapter_config.json, adapter_model.safetensors), a hub id, or a file of peft compress.
    #[arg(long, value_name = "DIR|ID")]
    pub adapter: Option<PathBuf>,
    /// Where to compute: cpu, vulkan[:n] or cuda[:n].
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Type of the weights in memory; results are computed in f32.
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Precision,
}

impl ModelArgs {
    /// Put local directories in place of hub ids, downloading what is missing.
    pub fn resolve(&mut self) -> Result<()> {
        self.model = hub::resolve(&self.model, Kind::Model)?.dir;
        if let Some(adapter) = &mut self.adapter {
            *adapter = hub::resolve(adapter, Kind::Adapter)?.dir;
        }
        Ok(())
    }

    /// What no output may harm.
    pub fn inputs(&self) -> Inputs {
        Inputs::none().and("the model", &self.model).and_maybe("the adapter", self.adapter.as_ref())
    }

    /// The model with its adapter active, for inference.
    pub fn load(&self) -> Result<CausalLm> {
        let device = device::parse(&self.device)?;
        load_adapted(&self.model, self.adapter.as_deref(), &device, Some(self.dtype.dtype()))
    }
}

/// The model in `dir`, with the adapter in `adapter` active.
pub fn load_adapted(dir: &Path, adapter: Option<&Path>, device: &Device, dtype: Option<DType>) -> Result<CausalLm> {
    let model = CausalLm::load(dir, device, dtype)?;
    match adapter {
        Some(adapter) => {
            let (config, tensors) = open_adapter(adapter)?;
            attach_to_decoder(model, &config, &tensors)
        }
        None => Ok(model),
    }
}

/// The decoder with the adapter active. A head that the adapter changes is one of its own, where it was the embedding before.
pub fn attach_to_decoder(model: CausalLm, config: &PeftConfig, tensors: &Checkpoint) -> Result<CausalLm> {
    // The adapter is for the vocabulary that the file brings, if it brings one.
    let model = resize_vocabulary(model, tensors)?;
    let model = if peft_adapters::changes(config, tensors, "lm_head")? { model.untie() } else { model };
    Ok(peft_adapters::load_from(model, config, tensors, ADAPTER)?.0)
}

/// The model with the adapter in the directory or compressed file `adapter` active.
pub fn attach<M: Module>(model: M, adapter: &Path) -> Result<M> {
    let (config, tensors) = open_adapter(adapter)?;
    Ok(peft_adapters::load_from(model, &config, &tensors, ADAPTER)?.0)
}

/// Configuration and tensors of the adapter in the directory or compressed file `adapter`.
fn open_adapter(adapter: &Path) -> Result<(PeftConfig, Checkpoint)> {
    if !adapter.is_file() {
        return Ok((PeftConfig::read(adapter)?, Checkpoint::open_file(&adapter.join(TENSOR_FILE))?));
    }
    let expert = Expert::read(adapter)?;
    if expert.kind != compeft::Kind::Adapter {
        return Err(Error::file(adapter, "is a compressed checkpoint and no adapter; make a checkpoint of it with peft decompress"));
    }
    let config = expert.files.get(CONFIG_FILE).cloned().ok_or_else(|| Error::file(adapter, format!("has no {CONFIG_FILE}")))?;
    Ok((PeftConfig::from_value(config, adapter)?, expert.tensors(None, adapter)?))
}

/// What turns text into tokens and back.
pub struct Text {
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// The chat template, if the checkpoint has one.
    pub template: Option<ChatTemplate>,
}

impl Text {
    /// The tokenizer and chat template of the checkpoint in `dir`.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::load_adapted(dir, None)
    }

    /// Those of a model with its adapter.
    pub fn of(model: &ModelArgs) -> Result<Self> {
        Self::load_adapted(&model.model, model.adapter.as_deref())
    }

    /// Those of the checkpoint in `dir`, in place of which the adapter's own count where it has some.
    pub fn load_adapted(dir: &Path, adapter: Option<&Path>) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::file(
                dir,
                "no such directory; a checkpoint is a directory with config.json, *.safetensors and tokenizer.json",
            ));
        }
        let files = TextFiles::of(dir, adapter);
        Ok(Self { tokenizer: TextTokenizer::load_from(files)?, template: ChatTemplate::load_from(files)? })
    }

    /// For a model whose embedding has so many tokens.
    pub fn with_rows(self, rows: usize) -> Self {
        Self { tokenizer: self.tokenizer.with_rows(rows), ..self }
    }
}
