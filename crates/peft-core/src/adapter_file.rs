//! Adapters on disk, as HF PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`.

use crate::adapter::{Adapter, Stored};
use crate::files::{Checkpoint, TensorSource, pytorch_metadata, tensor_bytes, write_atomic, write_safetensors};
use crate::replacement::Replacement;
use crate::site::{Site, sites};
use crate::slot::matricise;
use crate::slots::{adapters_named, edit_slots};
use crate::{Error, Result};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Tensor, TensorData};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the tensor file.
pub const TENSOR_FILE: &str = "adapter_model.safetensors";

/// What HF PEFT writes before a module's path.
const PREFIX: &str = "base_model.model.";
/// What it writes before the name of a tensor that all sites share.
const SHARED_PREFIX: &str = "base_model.";

/// The key in the file for what a parameter's adapter stores under `name`.
fn key(parameter: &str, name: &str) -> String {
    match name.strip_prefix('/') {
        Some(shared) => format!("{SHARED_PREFIX}{shared}"),
        None => {
            let module = parameter.rsplit_once('.').map_or("", |(module, _)| module);
            format!("{PREFIX}{module}.{name}")
        }
    }
}

/// Write the adapter called `name` and its configuration into the directory `dir`, which must exist.
///
/// # Errors
/// [`Error::UnknownAdapter`]; [`Error::NonFinite`] if a tensor is not finite; [`Error::Io`].
pub fn save_adapter<M: Module>(model: &M, name: &str, config: &Value, dir: &Path) -> Result<()> {
    let adapters = adapters_named(model, name);
    if adapters.is_empty() {
        return Err(Error::UnknownAdapter { name: name.into(), known: crate::slots::adapter_names(model) });
    }
    let mut tensors = BTreeMap::new();
    for (parameter, adapter) in &adapters {
        for stored in adapter.export() {
            tensors.entry(key(parameter, &stored.name)).or_insert(stored);
        }
    }
    let sources = tensors.into_iter().map(|(key, Stored { shape, values, .. })| {
        let bytes = move || tensor_bytes(values, DType::F32).map(Cow::Owned);
        TensorSource::new(key, safetensors::Dtype::F32, &shape, bytes)
    });
    write_safetensors(&dir.join(TENSOR_FILE), sources, &pytorch_metadata())?;
    let text = serde_json::to_string_pretty(config).map_err(|e| Error::file(dir.join(CONFIG_FILE), e))?;
    write_atomic(&dir.join(CONFIG_FILE), text.as_bytes())
}

/// Give the adapter called `name`, attached to the model beforehand, the values of the tensor file in `dir`.
///
/// # Errors
/// [`Error::AdapterFile`] for the first tensor that is missing, has another shape than the model needs, belongs to no module of the model,
/// or is a copy of a base weight that has other values in the model. The model is dropped then: pass a clone to keep it.
pub fn load_tensors<M: Module>(model: M, name: &str, dir: &Path) -> Result<M> {
    load_tensors_from(model, name, &Checkpoint::open_file(&dir.join(TENSOR_FILE))?)
}

/// The same with the tensors of an open file, or of one that is only in memory.
///
/// # Errors
/// Those of [`load_tensors`].
pub fn load_tensors_from<M: Module>(model: M, name: &str, file: &Checkpoint) -> Result<M> {
    let mut used: HashSet<String> = HashSet::new();
    let mut shared: HashMap<String, Tensor<1>> = HashMap::new();
    let mut error = None;
    let device = model.devices().into_iter().next().unwrap_or_default();
    let model = edit_slots(model, |parameter, slot| {
        let Some(adapter) = slot.get_mut(name) else { return };
        if error.is_some() {
            return;
        }
        let mut read = |stored: &str, shape: &[usize]| -> Result<Tensor<1>> {
            let key = key(parameter, stored);
            if let Some(tensor) = shared.get(&key) {
                return Ok(tensor.clone());
            }
            let found = file.info(&key).map_or("nothing".into(), |info| format!("{:?}", info.shape));
            let expected = format!("{shape:?}");
            if found != expected {
                return Err(Error::AdapterFile { file: file.path().into(), key, expected, found });
            }
            let values = file.f32s(&key)?;
            let count = values.len();
            let tensor = Tensor::from_data(TensorData::new(values, [count]), &device);
            used.insert(key.clone());
            if stored.starts_with('/') {
                shared.insert(key, tensor.clone());
            }
            Ok(tensor)
        };
        if let Err(e) = adapter.import(&mut read) {
            error = Some(e);
        }
    });
    if let Some(error) = error {
        return Err(error);
    }
    let left = file.keys().filter(|key| !used.contains(*key)).map(String::from).collect();
    check_copies(&model, file, left)?;
    Ok(model)
}

/// Check the tensors that belong to no adapter: HF PEFT adds an unchanged copy of an embedding to the file if the embedding is adapted,
/// and loads it into the base. A copy that equals the model's own weight is passed over, anything else is an error.
fn check_copies<M: Module>(model: &M, file: &Checkpoint, mut left: BTreeSet<String>) -> Result<()> {
    struct Compare<'a> {
        file: &'a Checkpoint,
        sites: HashMap<ParamId, Site>,
        left: &'a mut BTreeSet<String>,
        error: Option<Error>,
    }
    impl ModuleVisitor for Compare<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(site) = self.sites.get(&param.id).filter(|site| site.field == "weight") else { return };
            for name in ["base_layer.weight", "weight"] {
                let key = key(&site.path(), name);
                if self.left.remove(&key)
                    && let Err(error) = check_copy(self.file, key, site, matricise(param.base()))
                {
                    self.error.get_or_insert(error);
                }
            }
        }
    }
    let sites = sites(model).into_iter().map(|site| (site.id, site)).collect();
    let mut compare = Compare { file, sites, left: &mut left, error: None };
    if !compare.left.is_empty() {
        model.visit(&mut compare);
    }
    if let Some(error) = compare.error {
        return Err(error);
    }
    match left.pop_first() {
        Some(key) => Err(Error::AdapterFile {
            file: file.path().into(),
            expected: "no such tensor for this model and configuration".into(),
            found: file.info(&key).map_or("nothing".into(), |info| format!("{:?}", info.shape)),
            key,
        }),
        None => Ok(()),
    }
}

/// Check that the tensor `key` of the file is the weight that the model has at `site`.
fn check_copy(file: &Checkpoint, key: String, site: &Site, weight: Tensor<2>) -> Result<()> {
    let error = |key: String, expected: String, found: String| Err(Error::AdapterFile { file: file.path().into(), key, expected, found });
    let stored_as = weight.dtype();
    let own = Replacement::new(site, weight, "weight").export().remove(0);
    let found = file.info(&key).map_or("nothing".into(), |info| format!("{:?}", info.shape));
    if found != format!("{:?}", own.shape) {
        return error(key, format!("{:?}", own.shape), found);
    }
    let values = file.f32s(&key)?;
    let count = values.len();
    let mut copy = Tensor::<1>::from_data(TensorData::new(values, [count]), &own.values.device());
    if matches!(stored_as, DType::F16 | DType::BF16) {
        // The model may have been loaded with fewer bits than the copy has.
        copy = copy.cast(stored_as).cast(DType::F32);
    }
    let difference = (copy - own.values).abs().max().into_scalar::<f32>();
    match difference <= 1e-6 {
        true => Ok(()),
        false => error(key, "the values of the base model".into(), format!("values that differ by up to {difference:e}")),
    }
}
