//! Parameters of the base in an adapter's file: what HF PEFT loads into the base, and what it leaves out.

use crate::adapter::Adapter;
use crate::adapter_file::key;
use crate::files::Checkpoint;
use crate::hf::{Key, LeftOut, Part, canonical};
use crate::replacement::Replacement;
use crate::site::{Site, sites};
use crate::slot::{matricise, unmatricise};
use crate::slots::{Edit, edit_model, set};
use crate::targets::is_output_head;
use crate::{Error, Result};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};
use std::collections::{HashMap, HashSet};

/// Judges the tensors of `file` that no adapter has used: those of modules without an adapter are left out, parameters of the base take
/// the place of the model's own, and others are errors.
pub(crate) fn settle<M: Module>(model: M, file: &Checkpoint, used: &HashSet<String>) -> Result<M> {
    let sites = sites(&model);
    let modules: HashSet<&str> = sites.iter().map(|site| site.module.as_str()).collect();
    let parsed = |key: &str| Key::parse(key).filter(|key| matches!(key.part, Part::Adapter(_)));
    let adapted: HashSet<String> = used.iter().filter_map(|key| parsed(key)).map(|key| key.module).collect();
    let foreign = |key: &str, expected: &str, other_base: bool| {
        let (file, key, expected) = (file.path().into(), key.to_owned(), expected.to_owned());
        let found = "a tensor of it".to_owned();
        if other_base { Error::AdapterFile { file, key, expected, found } } else { Error::Tensor { file, key, expected, found } }
    };
    let mut left_out = LeftOut::default();
    let mut replaced = HashMap::new();
    for key in file.keys().filter(|key| !used.contains(*key)) {
        let Some(Key { module, part, .. }) = Key::parse(key) else { continue };
        // What lies in a head that the model does not have is not needed, unless it would change that head.
        let head = match part {
            Part::Adapter(_) => module.rsplit('.').next().unwrap_or_default(),
            _ => &module,
        };
        let exists = modules.contains(module.as_str()) || is_output_head(head);
        match part {
            Part::Adapter(_) | Part::Whole { .. } if !exists => {
                return Err(foreign(key, "no such tensor: this model has no such module", true));
            }
            Part::Adapter(_) if adapted.contains(&module) => {
                return Err(foreign(key, "no such tensor: the configuration of the adapter has no use for it", false));
            }
            Part::Adapter(_) => left_out.add(&module),
            Part::Whole { adapted: said, .. } if said != adapted.contains(&module) => left_out.add(&module),
            Part::Whole { field, .. } => match sites.iter().find(|site| site.module == module && site.field == field) {
                Some(site) => drop(replaced.insert(site.path(), (site.clone(), key.to_owned()))),
                None if is_copy_of_embedding(file, key, &sites) => {}
                None => return Err(foreign(key, "no such tensor: this model has no such parameter", true)),
            },
            Part::Shared(_) | Part::Foreign(_) | Part::Original => {
                return Err(foreign(key, "no such tensor: adapters of this kind are not read", false));
            }
        }
    }
    left_out.warn(file.path());
    if replaced.is_empty() {
        return Ok(model);
    }
    let (model, replace) = edit_model(model, Replace { file, replaced, changed: Vec::new(), error: None });
    if let Some(error) = replace.error {
        return Err(error);
    }
    if !replace.changed.is_empty() {
        let changed = replace.changed.join(", ");
        tracing::warn!("{}: the base gets the values that the file has for {changed}, as in HF PEFT", file.path().display());
    }
    Ok(model)
}

/// Whether a tensor of a head that this model ties to its embedding is the embedding that the file holds, or that the model has.
fn is_copy_of_embedding(file: &Checkpoint, head: &str, sites: &[Site]) -> bool {
    let Some(site) = sites.iter().find(|site| is_vocabulary(site) && site.is_embedding()) else { return false };
    ["weight", "base_layer.weight"].iter().any(|name| {
        let embedding = key(&site.path(), name);
        file.info(&embedding) == file.info(head) && file.bytes(&embedding).ok() == file.bytes(head).ok()
    })
}

/// Puts parameters of a file in the place of a model's own.
struct Replace<'a> {
    file: &'a Checkpoint,
    /// By the parameters' paths, with the keys in the file.
    replaced: HashMap<String, (Site, String)>,
    changed: Vec<String>,
    error: Option<Error>,
}

impl Edit for Replace<'_> {
    fn param<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((site, key)) = self.replaced.remove(path).filter(|_| self.error.is_none()) else { return param };
        match self.value(&site, &key, matricise(param.base())) {
            Ok(None) => param,
            Ok(Some(value)) => {
                self.changed.push(format!("`{path}`"));
                let dims = param.base().dims();
                set(param, unmatricise(value, dims))
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }

    fn slot(&mut self, _: &str, _: &mut crate::slot::Slot) {}
}

impl Replace<'_> {
    /// The value of the file in the form and type of `weight`; nothing where it is the same.
    fn value(&self, site: &Site, key: &str, weight: Tensor<2>) -> Result<Option<Tensor<2>>> {
        let stored_as = weight.dtype();
        if matches!(stored_as, DType::QFloat(_)) {
            return Err(Error::NeedsFloatBase { site: site.module.clone(), method: format!("`{key}` in the adapter's file") });
        }
        let mut copy = Replacement::new(site, weight.clone(), "");
        copy.import(&mut |_, shape| {
            let found = self.file.info(key).map(|info| info.shape.clone()).unwrap_or_default();
            if found != shape {
                let (expected, found) = (format!("{shape:?}"), format!("{found:?}"));
                return Err(Error::AdapterFile { file: self.file.path().into(), key: key.into(), expected, found });
            }
            let values = self.file.f32s(key)?;
            let count = values.len();
            Ok(Tensor::from_data(TensorData::new(values, [count]), &weight.device()))
        })?;
        let value = copy.weight(weight.clone());
        let difference = (value.clone().cast(DType::F32) - weight.cast(DType::F32)).abs().max().into_scalar::<f32>();
        match difference {
            difference if difference <= 1e-6 => Ok(None),
            difference if difference.is_finite() => Ok(Some(value)),
            _ => Err(Error::NonFinite { what: format!("{}: tensor `{key}` as {}", self.file.path().display(), stored_as.name()) }),
        }
    }
}

/// Whether a site has a row or column for each token.
fn is_vocabulary(site: &Site) -> bool {
    let name = site.module.rsplit('.').next().unwrap_or_default();
    site.field == "weight"
        && match site.is_embedding() {
            true => matches!(name, "embed_tokens" | "word_embeddings" | "wte"),
            false => site.is_linear() && name == "lm_head",
        }
}

/// The model with the vocabulary of the adapter's file, if that holds embedding and head of another length: the file of an adapter whose
/// base was given more tokens before training. To be called before the adapter is attached.
///
/// # Errors
/// [`Error::AdapterFile`] if embedding and head would differ in length; [`Error::NonFinite`].
pub fn resize_vocabulary<M: Module>(model: M, file: &Checkpoint) -> Result<M> {
    let file = &canonical(file)?;
    let mut lengths = HashMap::new();
    let mut resized = HashMap::new();
    for site in sites(&model).into_iter().filter(is_vocabulary) {
        let [rows, width] = if site.is_linear() { [site.shape[1], site.shape[0]] } else { [site.shape[0], site.shape[1]] };
        let keys = ["weight", "base_layer.weight"].map(|name| key(&site.path(), name));
        let found = keys.into_iter().find_map(|key| file.info(&key).map(|info| (key.clone(), info.shape.clone())));
        let rows = match found {
            Some((key, shape)) if shape.len() == 2 && shape[1] == width && shape[0] != rows => {
                resized.insert(site.path(), (site.is_linear(), shape[0], key));
                shape[0]
            }
            _ => rows,
        };
        lengths.insert(rows, site.path());
    }
    if resized.is_empty() {
        return Ok(model);
    }
    if lengths.len() > 1 {
        let said: Vec<String> = lengths.iter().map(|(rows, path)| format!("`{path}` of {rows} tokens")).collect();
        return Err(Error::file(file.path(), format!("would leave the model with {}: it lacks one of them", said.join(" and "))));
    }
    let (model, resize) = edit_model(model, Resize { file, resized, error: None });
    match resize.error {
        Some(error) => Err(error),
        None => {
            let rows = lengths.into_keys().next().unwrap_or_default();
            tracing::warn!("{}: the model gets the vocabulary of the file, {rows} tokens", file.path().display());
            Ok(model)
        }
    }
}

struct Resize<'a> {
    file: &'a Checkpoint,
    /// By path: whether it is a linear map, the new length, and the key in the file.
    resized: HashMap<String, (bool, usize, String)>,
    error: Option<Error>,
}

impl Edit for Resize<'_> {
    fn param<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((linear, rows, key)) = self.resized.remove(path).filter(|_| D == 2) else { return param };
        let base = param.base();
        let values = match self.file.f32s(&key) {
            Ok(values) => values,
            Err(error) => {
                self.error.get_or_insert(error);
                return param;
            }
        };
        let width = values.len() / rows.max(1);
        let value = Tensor::<2>::from_data(TensorData::new(values, [rows, width]), &base.device()).cast(base.dtype());
        let value = if linear { value.transpose() } else { value };
        let dims: [usize; D] = std::array::from_fn(|axis| value.dims()[axis]);
        set(param, value.reshape(dims))
    }

    fn slot(&mut self, _: &str, _: &mut crate::slot::Slot) {}
}
