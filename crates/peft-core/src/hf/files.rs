//! The two files of an adapter, opened.

use super::config::{AdapterConfig, Kind};
use super::keys::{Key, Part};
use crate::files::Checkpoint;
use crate::targets::ends_with_component;
use crate::{Error, Result, TENSOR_FILE};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The configuration of an adapter and its tensors, under the keys that HF PEFT writes.
#[derive(Debug)]
pub struct AdapterFiles {
    /// The configuration.
    pub config: AdapterConfig,
    /// The tensors.
    pub tensors: Checkpoint,
}

impl AdapterFiles {
    /// Opens the adapter in the directory `dir`.
    ///
    /// # Errors
    /// Those of [`AdapterConfig::read`], [`Checkpoint::open_file`] and [`new`](Self::new).
    pub fn open(dir: &Path) -> Result<Self> {
        Self::new(AdapterConfig::read(dir)?, &Checkpoint::open_file(&dir.join(TENSOR_FILE))?)
    }

    /// Takes a configuration and tensors, from wherever they come.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a key that has not the form of HF PEFT's; [`Error::File`] for a file with several adapters.
    pub fn new(config: AdapterConfig, tensors: &Checkpoint) -> Result<Self> {
        Ok(Self { config, tensors: canonical(tensors)? })
    }

    /// The modules that have tensors of adapters, by path.
    pub fn modules(&self) -> BTreeSet<String> {
        adapted(&self.tensors)
    }
}

/// The modules that have tensors of adapters in a file, by path.
///
/// # Errors
/// As [`AdapterFiles::new`].
pub fn modules(file: &Checkpoint) -> Result<BTreeSet<String>> {
    Ok(adapted(&canonical(file)?))
}

fn adapted(file: &Checkpoint) -> BTreeSet<String> {
    let module = |key: &str| Key::parse(key).filter(|key| matches!(key.part, Part::Adapter(_))).map(|key| key.module);
    file.keys().filter_map(module).collect()
}

/// The tensors under the keys that HF PEFT writes: without names of adapters and of copies. Parameters that stand beside the trained
/// copy of their module are left out, as no loaded adapter uses them.
///
/// # Errors
/// As [`AdapterFiles::new`].
pub(crate) fn canonical(file: &Checkpoint) -> Result<Checkpoint> {
    let mut keys: BTreeMap<&str, Key> = BTreeMap::new();
    for key in file.keys() {
        let parsed = Key::parse(key).ok_or_else(|| Error::Tensor {
            file: file.path().into(),
            key: key.into(),
            expected: "a key of an adapter, such as base_model.model.….lora_A.weight".into(),
            found: "another".into(),
        })?;
        keys.insert(key, parsed);
    }
    let names: BTreeSet<&str> = keys.values().filter_map(|key| key.adapter.as_deref()).collect();
    let chosen = match names.len() {
        0 | 1 => names.first().copied(),
        _ if names.contains("default") => {
            tracing::warn!("{}: holds several adapters ({}); `default` is read", file.path().display(), listed(names.iter().copied()));
            Some("default")
        }
        _ => return Err(Error::file(file.path(), format!("holds several adapters: {}", listed(names.iter().copied())))),
    };
    Ok(file.renamed(|key| {
        let parsed = keys.get(key)?;
        let wanted = parsed.part != Part::Original && (parsed.adapter.is_none() || parsed.adapter.as_deref() == chosen);
        let name = parsed.canonical();
        // Beside the key that HF PEFT writes, another of the same tensor counts for nothing.
        (wanted && (name == key || !file.contains(&name))).then_some(name)
    }))
}

/// Modules whose tensors are not used, because the configuration does not select them.
#[derive(Debug, Default)]
pub struct LeftOut(BTreeSet<String>);

impl LeftOut {
    /// Notes a module.
    pub fn add(&mut self, module: &str) {
        self.0.insert(module.into());
    }

    /// The modules.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Warns of them, once for all.
    pub fn warn(&self, file: &Path) {
        const SHOWN: usize = 3;
        let more = match self.0.len().saturating_sub(SHOWN) {
            _ if self.0.is_empty() => return,
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let shown = listed(self.0.iter().take(SHOWN).map(String::as_str));
        tracing::warn!(
            "{}: the tensors of {shown}{more} are left out, as HF PEFT leaves them out: the configuration does not select these modules",
            file.display()
        );
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// What the projections of a kind of architecture are called, and which of them HF PEFT adapts where `target_modules` is not set.
const DEFAULTS: [(&[&str], &[&str]); 2] = [
    (&["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], &["q_proj", "v_proj"]),
    (&["query", "key", "value", "dense"], &["query", "value"]),
];

/// The paths that stand for `target_modules` where a file does not set it: those of the modules `adapted`, which have tensors, that HF
/// PEFT adapts by default. All of them in a model of which nothing is known here, and for (IA)³, whose defaults differ.
pub fn default_targets(kind: Kind, adapted: &BTreeSet<String>) -> Vec<String> {
    let is_in = |names: &[&str], module: &str| names.iter().any(|name| ends_with_component(module, name));
    let known = DEFAULTS.iter().find(|(names, _)| kind != Kind::Ia3 && adapted.iter().any(|module| is_in(names, module)));
    adapted.iter().filter(|module| known.is_none_or(|(_, defaults)| is_in(defaults, module))).cloned().collect()
}
