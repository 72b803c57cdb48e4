//! What an adapter makes of the weights of its base, for models that recipes name as `model+adapter`.

use crate::adapters::{Lora, LowRank, Site, Whole};
use crate::models::{is_by_token, is_embedding, is_head, is_tied};
use crate::source::{Numbers, Stored};
use peft_core::files::{Checkpoint, Dtype};
use peft_core::{Error, Result, is_output_head};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Whether the weight has the inputs first, so that the transposed product is added.
    transposed: bool,
}

impl Changes {
    /// Finds the weights that an adapter changes in its base, whose configuration is `config`.
    ///
    /// # Errors
    /// [`Error::AdapterFile`] for a weight that the base lacks or has in another shape, and for one that the adapter lacks;
    /// [`Error::InvalidConfig`] for an embedding that shares its weight with the head, which the adapter would change too, and for
    /// what needs more weights than the base has.
    pub fn new(adapter: Lora, base: &Checkpoint, config: &Value) -> Result<Self> {
        let tied = has_head(config) && is_tied(base, config)?;
        let mut weights: BTreeMap<String, Change> = BTreeMap::new();
        for whole in &adapter.whole {
            if tied && is_head(&whole.replaces) && !base.contains(&whole.replaces) && is_copy_of_embedding(&adapter, &whole.key) {
                continue;
            }
            check_head(&adapter, base, &whole.replaces, tied)?;
            let key = find(&adapter, base, &whole.replaces)?;
            let shape = |file: &Checkpoint, key: &str| file.info(key).map(|info| info.shape.clone()).unwrap_or_default();
            let (own, found) = (shape(base, &key), shape(&adapter.tensors, &whole.key));
            check_vocabulary(&adapter, &key, &own, &found)?;
            check_shape(&adapter, &whole.key, &own, &found)?;
            if base.info(&key) != adapter.tensors.info(&whole.key) || base.bytes(&key)? != adapter.tensors.bytes(&whole.key)? {
                weights.entry(key).or_default().whole = Some(whole.key.clone());
            }
        }
        for (module, site) in &adapter.sites {
            let name = format!("{module}.weight");
            check_head(&adapter, base, &name, tied)?;
            let key = find(&adapter, base, &name)?;
            let found = base.info(&key).map(|info| info.shape.clone()).unwrap_or_default();
            let transposed = is_transposed(&adapter, site, &found, config);
            check_shape(&adapter, module, &found, &product_shape(site, transposed))?;
            let change = weights.entry(key).or_default();
            (change.module, change.transposed) = (Some(module.clone()), transposed);
        }
        check_left_out(&adapter, base)?;
        check_complete(&adapter, base, &weights)?;
        // Loaded into the base, a whole embedding is the head too; one that an adapter holds beside the base is not.
        let apart = |key: &String, change: &Change| change.module.is_some() || adapter.config.saved(owner(key)).is_some();
        if let Some((key, _)) = weights.iter().find(|(key, change)| tied && is_by_token(key) && apart(key, change)) {
            return Err(Error::InvalidConfig(format!(
                "{}: the adapter changes `{key}`, which embedding and head of the model share: merged, both would change; put it \
                 into its model with `peft merge-adapter`, which stores both, and merge that",
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
        let Some(Change { whole, module, transposed }) = self.weights.get(key) else { return Ok(Numbers::Stored(stored)) };
        let tensors = &self.adapter.tensors;
        let stored = match whole {
            Some(key) => Stored { dtype: tensors.info(key).map_or(stored.dtype, |info| info.dtype), bytes: tensors.bytes(key)? },
            None => stored,
        };
        let Some(module) = module else { return Ok(Numbers::Stored(stored)) };
        let site = &self.adapter.sites[module];
        Ok(Numbers::LowRank(Arc::new(LowRank::added(stored, self.adapter.factors(module)?, site, *transposed))))
    }
}

/// The shape of the weight that a module's product is added to.
fn product_shape(site: &Site, transposed: bool) -> Vec<usize> {
    let inputs = site.columns / site.kernel.iter().product::<usize>().max(1);
    match transposed {
        true => vec![inputs, site.rows],
        false => [vec![site.rows, inputs], site.kernel.clone()].concat(),
    }
}

/// The models whose projections store their weights as `[in, out]`.
const INPUTS_FIRST: [&str; 5] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer", "ctrl"];

/// Whether the weight of shape `found` has the inputs first. The type of the layer decides, as in HF PEFT, which the shape shows
/// unless it is square; then the kind of model does, and where that is not said what the adapter's file says.
fn is_transposed(adapter: &Lora, site: &Site, found: &[usize], config: &Value) -> bool {
    if site.embedding {
        return true;
    }
    let fits = [false, true].map(|transposed| product_shape(site, transposed) == found);
    match (fits, config["model_type"].as_str()) {
        ([true, false], _) => false,
        ([false, true], _) => true,
        (_, Some(kind)) => INPUTS_FIRST.contains(&kind),
        (_, None) => adapter.config.settings.fan_in_fan_out,
    }
}

/// Whether a model has a head over tokens, to go by its architecture: encoders that label have none, whatever they say of tying.
fn has_head(config: &Value) -> bool {
    let name = config["architectures"][0].as_str();
    name.is_none_or(|name| ["LM", "ForPreTraining", "ForConditionalGeneration"].iter().any(|part| name.contains(part)))
}

/// The module that a weight belongs to.
fn owner(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(module, _)| module)
}

/// Whether the adapter's file holds the embedding too, and this head is a copy of it.
fn is_copy_of_embedding(adapter: &Lora, head: &str) -> bool {
    let tensors = &adapter.tensors;
    let is_same = |whole: &Whole| {
        whole.key != head && tensors.info(&whole.key) == tensors.info(head) && tensors.bytes(&whole.key).ok() == tensors.bytes(head).ok()
    };
    adapter.whole.iter().any(|whole| is_by_token(&whole.replaces) && !is_head(&whole.replaces) && is_same(whole))
}

/// A head of its own, where the model ties its head to the embedding, is a weight that the base does not have.
fn check_head(adapter: &Lora, base: &Checkpoint, key: &str, tied: bool) -> Result<()> {
    if tied && is_embedding(key) && !base.keys().any(is_embedding) {
        return Err(Error::InvalidConfig(format!(
            "{}: the adapter changes `{key}` alone, where the base stores one weight for it and its head; put it into its model with \
             `peft merge-adapter`, and merge that",
            adapter.name
        )));
    }
    match tied && is_head(key) && !base.contains(key) {
        true => Err(Error::InvalidConfig(format!(
            "{}: the adapter gives the model a head of its own, `{key}`, where the base ties its head to the embedding; put it into its \
             model with `peft merge-adapter`, and merge that",
            adapter.name
        ))),
        false => Ok(()),
    }
}

/// An embedding or head of another length is another vocabulary.
fn check_vocabulary(adapter: &Lora, key: &str, base: &[usize], found: &[usize]) -> Result<()> {
    match (base, found) {
        ([own, width], [tokens, other]) if is_by_token(key) && own != tokens && width == other => Err(Error::InvalidConfig(format!(
            "{}: the adapter has a vocabulary of {tokens} tokens, and the base one of {own}; put it into its model with `peft merge-adapter`, \
             and merge that",
            adapter.name
        ))),
        _ => Ok(()),
    }
}

/// What the configuration does not select must be of this base too; a head may be of a model that has one.
fn check_left_out(adapter: &Lora, base: &Checkpoint) -> Result<()> {
    for module in adapter.left_out.modules().filter(|module| !is_output_head(module)) {
        find(adapter, base, &format!("{module}.weight"))?;
    }
    Ok(())
}

/// Every module that the configuration selects, or says is saved as a whole, must be in the adapter's file.
fn check_complete(adapter: &Lora, base: &Checkpoint, weights: &BTreeMap<String, Change>) -> Result<()> {
    let Some((module, _)) = adapter.sites.iter().next() else { return Ok(()) };
    let wanted = format!("{module}.weight");
    let known = find(adapter, base, &wanted)?;
    // What either side has before the names that both have.
    let (ours, theirs) = match known.strip_suffix(&wanted) {
        Some(before) => (before, ""),
        None => ("", wanted.strip_suffix(&known).unwrap_or_default()),
    };
    let selection = adapter.config.selection()?;
    // HF PEFT writes the names of modules in place of `all-linear`, and of other models nothing tells what is linear.
    let listed = adapter.config.target_modules().is_some_and(|names| !names.is_all_linear());
    let in_file: BTreeSet<&str> = adapter.whole.iter().map(|whole| whole.replaces.as_str()).collect();
    for key in base.keys().filter(|key| is_floating(base, key)) {
        let Some(name) = key.strip_prefix(ours).map(|rest| format!("{theirs}{rest}")) else { continue };
        let module = owner(&name);
        let changed = weights.get(key).is_some_and(|change| change.module.is_some());
        let is_matrix = name.ends_with(".weight") && base.info(key).is_some_and(|info| info.shape.len() == 2);
        let (file, found) = (adapter.tensors.path().into(), "nothing".into());
        match adapter.config.saved(module) {
            Some(entry) if !in_file.contains(name.as_str()) => {
                let expected = format!("a tensor, as modules_to_save names `{entry}`");
                return Err(Error::Tensor { file, key: name, expected, found });
            }
            None if listed && is_matrix && !changed && selection.includes(module, true)? => {
                let expected = "a change, as the configuration selects the module".into();
                return Err(Error::AdapterFile { file, key: name, expected, found });
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_floating(base: &Checkpoint, key: &str) -> bool {
    base.info(key).is_some_and(|info| matches!(info.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16))
}

/// The key of a weight of the base. Checkpoints of models without a head lack the name of the model before it, or have it where the
/// adapter lacks it.
fn find(adapter: &Lora, base: &Checkpoint, wanted: &str) -> Result<String> {
    let mut near = base.keys().filter(|key| ends(key, wanted) || ends(wanted, key));
    let found = match base.contains(wanted) {
        true => Some(wanted),
        false => near.next().filter(|_| near.next().is_none()),
    };
    match found {
        Some(key) if is_floating(base, key) => Ok(key.into()),
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
