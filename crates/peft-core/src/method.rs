//! From a method's configuration to an adapted model.

use crate::adapter::AnyAdapter;
use crate::replacement::Replacement;
use crate::site::{Site, sites};
use crate::slot::{Slot, matricise};
use crate::slots::{Edit, attach_slots, edit_model, unmerge_first};
use crate::summary::Summary;
use crate::tap::{Needs, Statistics};
use crate::targets::{Miss, Targets};
use crate::{Error, Result};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use std::collections::HashMap;

/// A way to adapt a model: a configuration that validates itself and builds adapters for sites.
pub trait Method {
    /// The method's short name, for example `lora`.
    fn name(&self) -> &'static str;

    /// Check the configuration by itself.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    fn validate(&self) -> Result<()>;

    /// Which weights get an adapter; `None` for a method that has none on weights.
    fn targets(&self) -> Option<&Targets>;

    /// Whether the method can adapt this weight.
    fn accepts(&self, site: &Site) -> bool {
        site.is_linear()
    }

    /// The statistics that [`builder`](Self::builder) reads.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Parameters that are trained as a whole beside the adapters.
    fn extras(&self) -> Extras {
        Extras::default()
    }

    /// What builds the adapter of each selected site, given the site and its weight `[d_in, d_out]`.
    ///
    /// # Errors
    /// [`Error::RankTooLarge`] and others that concern the sites.
    fn builder<'a>(&'a self, sites: &[&Site], context: &'a Context) -> Result<Builder<'a>>;
}

/// Builds the adapter of one site from the site and its weight `[d_in, d_out]`.
pub type Builder<'a> = Box<dyn FnMut(&Site, Tensor<2>) -> Result<AnyAdapter> + 'a>;

/// Parameters to train as a whole.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Ends of the paths of modules of which a full copy is trained and saved.
    pub modules_to_save: Vec<String>,
    /// Biases to train.
    pub bias: Biases,
}

/// Which biases of the base are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Biases {
    /// None.
    #[default]
    None,
    /// Those of adapted layers.
    Adapted,
    /// All.
    All,
}

/// What adapters are built under.
#[derive(Clone, Debug)]
pub struct Context {
    /// Name of the new adapter in each slot.
    pub name: String,
    /// Determines the initial numbers together with each site's path.
    pub seed: u64,
    /// What a statistics pass gathered, for methods that need one.
    pub statistics: Statistics,
    /// Whether the adapters' tensors come from a file afterwards: what the file has is taken, even where a new adapter would be refused.
    pub from_file: bool,
}

impl Default for Context {
    fn default() -> Self {
        Self { name: "default".into(), seed: 0, statistics: Statistics::default(), from_file: false }
    }
}

impl Context {
    /// A context with this seed.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }
}

/// Freeze the model, attach the method's adapters under `context.name` and make them the active ones. Merged adapters are taken out of
/// the weights first.
///
/// # Errors
/// Those of [`Method::validate`], [`Targets::select`] and [`Method::builder`]. The model is dropped then: pass a clone (cheap, the
/// tensors are shared) to keep it.
pub fn adapt<M: Module>(model: M, method: &dyn Method, context: &Context) -> Result<(M, Summary)> {
    method.validate()?;
    let model = unmerge_first(model);
    let all = sites(&model);
    let extras = method.extras();
    let saved = saved_parameters(&all, &extras.modules_to_save, context.from_file)?;
    // As in HF PEFT, a module that is trained as a whole gets no adapter even if it matches.
    let is_saved = |site: &Site| saved.iter().any(|s| s.id == site.id);
    let selected = match method.targets() {
        Some(targets) => {
            let selected = targets.select(&all, |site| method.accepts(site) && !is_saved(site))?;
            let candidates: Vec<&str> =
                all.iter().filter(|site| site.is_weight() && method.accepts(site)).map(|site| site.module.as_str()).collect();
            tell_misses(targets.misses(&candidates)?, context.from_file)?;
            selected
        }
        None => Vec::new(),
    };
    let replaced = replaced_parameters(&all, &selected, saved, extras.bias);
    if selected.is_empty() && replaced.is_empty() {
        return Err(Error::InvalidConfig(format!("{} finds nothing to train in this model", method.name())));
    }
    if extras.bias == Biases::All && !context.from_file && !all.iter().any(|site| site.field == "bias") {
        tracing::warn!("bias: `all` matches nothing: this model has no biases");
    }
    let builder = method.builder(&selected, context)?;
    let by_path = |sites: &[&Site]| sites.iter().map(|site| (site.path(), (*site).clone())).collect::<HashMap<_, _>>();
    let attach = Attach {
        name: &context.name,
        adapted: by_path(&selected),
        replaced: replaced.iter().map(|(site, name)| (site.path(), ((*site).clone(), name.clone()))).collect(),
        builder,
        built: HashMap::new(),
        error: None,
    };
    let paths = attach.adapted.keys().chain(attach.replaced.keys()).cloned().collect();
    let model = attach_slots(model.no_grad(), paths);
    let (model, attach) = edit_model(model, attach);
    if let Some(error) = attach.error {
        return Err(error);
    }
    let summary = Summary::of(&model);
    Ok((model, summary))
}

/// A name that was asked for and is not there is an error; settings that narrow the selection, and files, are only warned of.
fn tell_misses(misses: Vec<Miss>, from_file: bool) -> Result<()> {
    for miss in misses {
        if miss.setting == "target_modules" && !from_file {
            return Err(Error::NoTargetFound { patterns: vec![miss.entry], nearest: miss.nearest });
        }
        tracing::warn!("{miss}");
    }
    Ok(())
}

struct Attach<'a> {
    name: &'a str,
    adapted: HashMap<String, Site>,
    replaced: HashMap<String, (Site, String)>,
    builder: Builder<'a>,
    built: HashMap<String, AnyAdapter>,
    error: Option<Error>,
}

impl Edit for Attach<'_> {
    fn param<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        if let Some((site, name)) = self.replaced.get(path) {
            let copy = Replacement::new(site, matricise(param.val()), name);
            self.built.insert(path.into(), AnyAdapter::new(copy));
            return param;
        }
        let Some(site) = self.adapted.get(path) else { return param };
        match (self.builder)(site, matricise(param.val())) {
            Ok(adapter) => {
                self.built.insert(path.into(), adapter);
            }
            Err(error) => self.error = Some(error),
        }
        param
    }

    fn slot(&mut self, path: &str, slot: &mut Slot) {
        if let Some(adapter) = self.built.remove(path) {
            slot.insert(self.name, adapter);
        }
        slot.activate(&[(self.name, 1.0)]);
    }
}

/// The parameters of the modules whose paths end with one of `entries`, in the model's order. An entry of a file may match nothing.
fn saved_parameters<'a>(all: &'a [Site], entries: &[String], from_file: bool) -> Result<Vec<&'a Site>> {
    for entry in entries.iter().filter(|entry| !all.iter().any(|site| is_inside(&site.module, entry))) {
        let miss = Miss::new("modules_to_save", entry, all.iter().map(|site| site.module.as_str()));
        if !from_file {
            return Err(Error::NoTargetFound { patterns: vec![miss.entry], nearest: miss.nearest });
        }
        // HF PEFT names both in the file of every classifier of texts.
        if !matches!(entry.as_str(), "classifier" | "score") {
            tracing::warn!("{miss}");
        }
    }
    Ok(all.iter().filter(|site| entries.iter().any(|entry| is_inside(&site.module, entry))).collect())
}

/// The parameters that are trained as a whole, with the name they are stored under behind their module's path.
fn replaced_parameters<'a>(all: &'a [Site], selected: &[&Site], saved: Vec<&'a Site>, bias: Biases) -> Vec<(&'a Site, String)> {
    let mut replaced: Vec<(&Site, String)> = saved.into_iter().map(|site| (site, site.field.clone())).collect();
    let is_adapted = |site: &Site| selected.iter().any(|s| s.module == site.module);
    for site in all.iter().filter(|site| site.field == "bias") {
        let wanted = match bias {
            Biases::None => false,
            Biases::Adapted => is_adapted(site),
            Biases::All => true,
        };
        if wanted && !replaced.iter().any(|(r, _)| r.id == site.id) {
            let name = if is_adapted(site) { "base_layer.bias" } else { "bias" };
            replaced.push((site, name.into()));
        }
    }
    replaced
}

/// Whether the path of `module`, or of a module that it lies in, ends with `entry`: whether `modules_to_save` names it.
pub fn is_inside(module: &str, entry: &str) -> bool {
    let ends = module.match_indices('.').map(|(i, _)| i).chain([module.len()]);
    ends.into_iter().any(|end| module[..end].ends_with(entry))
}
