//! What an adapter makes of the weights of its base, for models that recipes name as `model+adapter`.

use crate::adapters::{Lora, LowRank, Site};
use crate::source::{Numbers, Stored};
use peft_core::files::{Checkpoint, Dtype};
use peft_core::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An adapter, and which weights of a checkpoint it changes.
#[derive(Debug)]
pub struct Changes {
    adapter: Lora,
    /// By the checkpoint's keys.
    weights: BTreeMap<String, Change>,
}

/// What happens to one weight.
#[derive(Debug, Default)]
struct Change {
    /// The key of the adapter's tensor that takes its place.
    whole: Option<String>,
    /// The module whose low-rank change is added.
    module: Option<String>,
}

impl Changes {
    /// Finds the weights that an adapter changes in its base, whose configuration is `config`.
    ///
    /// # Errors
    /// [`Error::AdapterFile`] for a weight that the base lacks or has in another shape; [`Error::InvalidConfig`] for an embedding that
    /// shares its weight with the head, which the adapter would change too.
    pub fn new(adapter: Lora, base: &Checkpoint, config: &Value) -> Result<Self> {
        let mut weights: BTreeMap<String, Change> = BTreeMap::new();
        for whole in &adapter.whole {
            let key = find(&adapter, base, &whole.replaces)?;
            let shape = |file: &Checkpoint, key: &str| file.info(key).map(|info| info.shape.clone()).unwrap_or_default();
            check_shape(&adapter, &whole.key, &shape(base, &key), &shape(&adapter.tensors, &whole.key))?;
            weights.entry(key).or_default().whole = Some(whole.key.clone());
        }
        for (module, site) in &adapter.sites {
            let key = find(&adapter, base, &format!("{module}.weight"))?;
            let expected = product_shape(site, adapter.config.fan_in_fan_out());
            let found = base.info(&key).map(|info| info.shape.clone()).unwrap_or_default();
            check_shape(&adapter, module, &found, &expected)?;
            weights.entry(key).or_default().module = Some(module.clone());
        }
        let tied = config["tie_word_embeddings"] == true;
        if let Some(key) = weights.keys().find(|key| tied && crate::models::is_by_token(key)) {
            return Err(Error::InvalidConfig(format!(
                "{}: the adapter changes `{key}`, which embedding and head of the model share: merged, both would change",
                adapter.name
            )));
        }
        Ok(Self { adapter, weights })
    }

    /// The directory or compressed file of the adapter.
    pub fn path(&self) -> &std::path::Path {
        &self.adapter.path
    }

    /// Whether a low-rank change is added to a weight.
    pub fn adds_to(&self, key: &str) -> bool {
        self.weights.get(key).is_some_and(|change| change.module.is_some())
    }

    /// The bytes that the change of a weight takes while it is computed.
    pub fn bytes(&self, key: &str) -> u64 {
        let site = self.weights.get(key).and_then(|change| change.module.as_ref()).map(|module| &self.adapter.sites[module]);
        site.map_or(0, |site| 2 * 4 * (site.rank * (site.rows + site.columns)) as u64)
    }

    /// A weight of the base, `stored`, as the adapter has it.
    ///
    /// # Errors
    /// [`Error::NonFinite`] and [`Error::Tensor`] for tensors of the adapter that hold no numbers.
    pub fn apply<'a>(&'a self, key: &str, stored: Stored<'a>) -> Result<Numbers<'a>> {
        let Some(Change { whole, module }) = self.weights.get(key) else { return Ok(Numbers::Stored(stored)) };
        let tensors = &self.adapter.tensors;
        let stored = match whole {
            Some(key) => Stored { dtype: tensors.info(key).map_or(stored.dtype, |info| info.dtype), bytes: tensors.bytes(key)? },
            None => stored,
        };
        let Some(module) = module else { return Ok(Numbers::Stored(stored)) };
        let site = &self.adapter.sites[module];
        let transposed = site.embedding || self.adapter.config.fan_in_fan_out();
        Ok(Numbers::LowRank(Arc::new(LowRank::added(stored, self.adapter.factors(module)?, site, transposed))))
    }
}

/// The shape of the weight that a module's product is added to.
fn product_shape(site: &Site, fan_in_fan_out: bool) -> Vec<usize> {
    let inputs = site.columns / site.kernel.iter().product::<usize>().max(1);
    match site.embedding || fan_in_fan_out {
        true => vec![inputs, site.rows],
        false => [vec![site.rows, inputs], site.kernel.clone()].concat(),
    }
}

/// The key of a weight of the base. Checkpoints of models without a head lack the name of the model before it, or have it where the
/// adapter lacks it.
fn find(adapter: &Lora, base: &Checkpoint, wanted: &str) -> Result<String> {
    let mut near = base.keys().filter(|key| ends(key, wanted) || ends(wanted, key));
    let found = match base.contains(wanted) {
        true => Some(wanted),
        false => near.next().filter(|_| near.next().is_none()),
    };
    let floating = |key: &&str| base.info(key).is_some_and(|info| matches!(info.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16));
    match found {
        Some(key) if floating(&key) => Ok(key.into()),
        _ => Err(Error::AdapterFile {
            file: adapter.tensors.path().into(),
            key: wanted.into(),
            expected: format!("a weight of floating-point numbers of {}", base.path().display()),
            found: found.map_or("nothing of this name".into(), |_| "other numbers".into()),
        }),
    }
}

/// Whether a path ends with another, and has something before it.
fn ends(long: &str, short: &str) -> bool {
    long.strip_suffix(short).is_some_and(|rest| rest.ends_with('.'))
}

fn check_shape(adapter: &Lora, key: &str, base: &[usize], found: &[usize]) -> Result<()> {
    match base == found {
        true => Ok(()),
        false => Err(Error::AdapterFile {
            file: adapter.tensors.path().into(),
            key: key.into(),
            expected: format!("a change of shape {base:?}"),
            found: format!("{found:?}"),
        }),
    }
}
