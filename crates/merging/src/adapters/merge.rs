//! What a merge of adapters will be, checked before a number is read.

use super::combination::{Of, Settings};
use super::lora::{Lora, Site};
use peft_core::{CONFIG_FILE, Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Adapters that become one.
#[derive(Debug)]
pub struct AdapterMerge {
    /// The adapters.
    pub adapters: Vec<Lora>,
    /// How they are combined.
    pub settings: Settings,
    /// The modules of the result, by name.
    pub modules: Vec<MergedModule>,
}

/// A module that at least one of the adapters adapts.
#[derive(Clone, Debug)]
pub struct MergedModule {
    /// Its path.
    pub name: String,
    /// The numbers of the adapters that adapt it; the others change nothing here.
    pub inputs: Vec<usize>,
    /// Its matrices in the result, with a scaling of 1.
    pub site: Site,
}

impl AdapterMerge {
    /// Checks adapters and settings. No number is read.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for settings that are missing, out of range or of another combination, and for ranks that differ where
    /// matrices are added up; [`Error::File`] for an adapter that is more than its matrices; [`Error::Tensor`] for a module that has
    /// another size in one adapter than in another.
    pub fn new(adapters: Vec<Lora>, settings: Settings) -> Result<Self> {
        if adapters.is_empty() {
            return Err(Error::InvalidConfig("no adapter is given".into()));
        }
        settings.check(adapters.len())?;
        adapters.iter().try_for_each(check_adapter)?;
        check_alike(&adapters)?;
        let names: BTreeSet<&String> = adapters.iter().flat_map(|adapter| adapter.sites.keys()).collect();
        let rank = settings.svd_rank.unwrap_or_else(|| {
            let ranks = adapters.iter().flat_map(|adapter| adapter.sites.values().map(|site| site.rank));
            ranks.max().unwrap_or(1)
        });
        let modules = names.into_iter().map(|name| module(&adapters, &settings, name, rank)).collect::<Result<_>>()?;
        Ok(Self { adapters, settings, modules })
    }

    /// The highest rank of a module of the result.
    pub fn rank(&self) -> usize {
        self.modules.iter().map(|module| module.site.rank).max().unwrap_or(0)
    }

    /// The number of modules that some of the adapters leave as they are.
    pub fn partial(&self) -> usize {
        self.modules.iter().filter(|module| module.inputs.len() < self.adapters.len()).count()
    }
}

/// Only matrices can be merged.
fn check_adapter(adapter: &Lora) -> Result<()> {
    let file = if adapter.path.is_dir() { adapter.path.join(CONFIG_FILE) } else { adapter.path.clone() };
    match adapter.config.beside_matrices() {
        Some(reason) => Err(Error::file(file, reason)),
        None => Ok(()),
    }
}

/// The adapters must be made for one base; unchanged copies of its tensors must agree.
fn check_alike(adapters: &[Lora]) -> Result<()> {
    let first = &adapters[0];
    for other in &adapters[1..] {
        if other.config.settings.fan_in_fan_out != first.config.settings.fan_in_fan_out {
            return Err(Error::InvalidConfig(format!("{} and {} differ in fan_in_fan_out", first.name, other.name)));
        }
        if let (Some(a), Some(b)) = (first.config.base(), other.config.base())
            && a != b
        {
            tracing::warn!("{} was made for {a}, {} for {b}: adapters of different models do not add up", first.name, other.name);
        }
    }
    let mut seen: BTreeMap<&str, &Lora> = BTreeMap::new();
    for adapter in adapters {
        for whole in &adapter.whole {
            let first = seen.entry(&whole.key).or_insert(adapter);
            if first.tensors.info(&whole.key) != adapter.tensors.info(&whole.key)
                || first.tensors.bytes(&whole.key)? != adapter.tensors.bytes(&whole.key)?
            {
                return Err(Error::Tensor {
                    file: adapter.tensors.path().into(),
                    key: whole.key.clone(),
                    expected: format!("the weight of the base as {} has it", first.name),
                    found: "another, which is no low-rank change".into(),
                });
            }
        }
    }
    Ok(())
}

fn module(adapters: &[Lora], settings: &Settings, name: &str, svd_rank: usize) -> Result<MergedModule> {
    let inputs: Vec<usize> = (0..adapters.len()).filter(|i| adapters[*i].sites.contains_key(name)).collect();
    let sites: Vec<&Site> = inputs.iter().map(|i| &adapters[*i].sites[name]).collect();
    let first = sites[0];
    for (i, site) in inputs.iter().zip(&sites) {
        let shape = |site: &Site| (site.embedding, site.rows, site.columns, site.kernel.clone());
        if shape(site) != shape(first) {
            return Err(Error::Tensor {
                file: adapters[*i].tensors.path().into(),
                key: name.into(),
                expected: format!("a change of {} by {} as in {}", first.rows, first.columns, adapters[inputs[0]].name),
                found: format!("{} by {}; the adapters were made for different models", site.rows, site.columns),
            });
        }
        if settings.combination.of == Of::Factors && site.rank != first.rank {
            return Err(Error::InvalidConfig(format!(
                "{} adds matrices number by number, which takes equal ranks: `{name}` has rank {} in {} and {} in {}; \
                 cat, svd, and what ends in _svd accept them",
                settings.combination.name, first.rank, adapters[inputs[0]].name, site.rank, adapters[*i].name
            )));
        }
    }
    let total: usize = sites.iter().map(|site| site.rank).sum();
    let smaller = svd_rank.min(first.rows).min(first.columns);
    let rank = match settings.combination.of {
        Of::Factors => first.rank,
        Of::Ranks => total,
        // A sum of products has no more components than these have together, unless numbers of it are dropped.
        Of::Changes if settings.combination.drops() => smaller,
        Of::Changes => smaller.min(total),
    };
    Ok(MergedModule { name: name.into(), site: Site { rank, scaling: 1.0, ..first.clone() }, inputs })
}
