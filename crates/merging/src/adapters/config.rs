//! The configuration of a plain LoRA, as far as merging looks at it.

use peft_core::hf::{AdapterConfig, Kind, LoraSettings, StartOf, default_targets, start};
use peft_core::{Error, Names, Result, Selection};
use serde_json::Value;
use std::collections::BTreeSet;

/// What can be done with an adapter whose matrices alone are not all of it.
const WAY_OUT: &str = "put it into its model with `peft merge-adapter`, and merge models with `peft merge`";

/// The configuration of a plain LoRA.
#[derive(Debug)]
pub(crate) struct Config {
    /// The file.
    pub file: AdapterConfig,
    /// Its settings. The modules are those of the file where it does not set them.
    pub settings: LoraSettings,
}

impl Config {
    /// Takes the configuration of an adapter with tensors of the modules `adapted`.
    ///
    /// # Errors
    /// [`Error::File`] if it is of another type than LoRA, or has a setting under which the matrices are not the whole change.
    pub fn new(file: AdapterConfig, adapted: &BTreeSet<String>) -> Result<Self> {
        let wrong = |reason: String| Error::file(file.file(), reason);
        if file.kind != Kind::Lora {
            let kind = file.kind.name();
            return Err(wrong(format!("peft_type is `{kind}`; only adapters of type LORA can be merged; {WAY_OUT}")));
        }
        let mut settings: LoraSettings = file.settings()?;
        if let Some((setting, _)) = [("use_dora", settings.use_dora), ("lora_bias", settings.lora_bias)].iter().find(|(_, set)| *set) {
            return Err(wrong(format!("an adapter with {setting} is more than its two matrices; {WAY_OUT}")));
        }
        if let Some(name) = settings.init_lora_weights.as_str() {
            let reason = match start(name) {
                StartOf::Plain => None,
                StartOf::Pissa | StartOf::Olora => Some(format!(
                    "the base was changed too, so that the matrices are not the change; {WAY_OUT}, or convert the adapter to a plain LoRA first"
                )),
                StartOf::Lost(reason) => Some(format!("{reason}; convert the adapter to a plain LoRA first")),
                StartOf::Unknown => Some("HF PEFT 0.21 has no such start".into()),
            };
            if let Some(reason) = reason {
                return Err(wrong(format!("init_lora_weights is `{name}`: {reason}")));
            }
        }
        if settings.targets.target_modules.is_none() {
            settings.targets.target_modules = Some(Names::List(default_targets(Kind::Lora, adapted)));
        }
        Ok(Self { file, settings })
    }

    /// All of the file.
    pub fn value(&self) -> &Value {
        &self.file.value
    }

    /// Which modules are adapted.
    ///
    /// # Errors
    /// [`Error::File`] for an expression that is none.
    pub fn selection(&self) -> Result<Selection<'_>> {
        self.settings.targets.selection().map_err(|e| Error::file(self.file.file(), e))
    }

    /// The entry of `modules_to_save` that names a module.
    pub fn saved(&self, module: &str) -> Option<&str> {
        let entries = self.settings.modules_to_save.iter().flatten();
        entries.map(String::as_str).find(|entry| peft_core::is_inside(module, entry))
    }

    /// The rank at a module.
    ///
    /// # Errors
    /// [`Error::File`] if a pattern is no regular expression, or the rank is 0.
    pub fn rank_at(&self, module: &str) -> Result<usize> {
        self.settings.rank_at(module).map_err(|e| Error::file(self.file.file(), e))
    }

    /// The factor of the change at a module.
    ///
    /// # Errors
    /// As [`rank_at`](Self::rank_at).
    pub fn scaling_at(&self, module: &str) -> Result<f64> {
        self.settings.scaling_at(module).map_err(|e| Error::file(self.file.file(), e))
    }

    /// Which modules it adapts, as the file says it.
    pub fn target_modules(&self) -> Option<&Names> {
        self.settings.targets.target_modules.as_ref()
    }

    /// Which model it was made for.
    pub fn base(&self) -> Option<&str> {
        self.file.base()
    }

    /// What the adapter has beside matrices, if anything: tensors that take the place of the base's.
    pub fn beside_matrices(&self) -> Option<String> {
        let saved = self.settings.modules_to_save.as_deref().unwrap_or_default();
        match (self.settings.bias.as_str(), saved) {
            ("none", []) => None,
            (_, [_, ..]) => Some(format!("modules_to_save ({}) are whole weights and no low-rank change", saved.join(", "))),
            (bias, []) => Some(format!("bias: {bias} trains biases, which are no low-rank change")),
        }
        .map(|what| format!("{what}; {WAY_OUT}"))
    }
}
