//! Adapters on disk, as HF PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`.

use crate::adapter::Stored;
use crate::base_tensors::settle;
use crate::files::{Checkpoint, TensorSource, pytorch_metadata, tensor_bytes, write_atomic, write_safetensors};
use crate::hf::{Key, PREFIX, Part, SHARED_PREFIX, canonical};
use crate::slots::{adapters_named, edit_slots};
use crate::{Error, Result};
use burn::module::Module;
use burn::tensor::{DType, Tensor, TensorData};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the tensor file.
pub const TENSOR_FILE: &str = "adapter_model.safetensors";

/// The key in the file for what a parameter's adapter stores under `name`.
pub(crate) fn key(parameter: &str, name: &str) -> String {
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
/// As [`load_tensors_from`].
pub fn load_tensors<M: Module>(model: M, name: &str, dir: &Path) -> Result<M> {
    load_tensors_from(model, name, &Checkpoint::open_file(&dir.join(TENSOR_FILE))?)
}

/// The same with the tensors of an open file, or of one that is only in memory.
///
/// As in HF PEFT, tensors of modules that have no adapter of this name are left out, with a warning, and a parameter of the base that
/// the file holds takes the place of the model's own: it then belongs to the base and no longer to the adapter. A bias that is trained
/// and that the file lacks stays as it is.
///
/// # Errors
/// [`Error::AdapterFile`] for the first tensor that is missing, has another shape than the model needs, or belongs to no module of the
/// model; [`Error::Tensor`] for one that does not fit the configuration; [`Error::NonFinite`]. The model is dropped then: pass a clone
/// to keep it.
pub fn load_tensors_from<M: Module>(model: M, name: &str, file: &Checkpoint) -> Result<M> {
    let file = &canonical(file)?;
    let device = model.devices().into_iter().next().unwrap_or_default();
    let mut reader = Reader { file, device, used: HashSet::new(), shared: HashMap::new() };
    let mut error = None;
    let model = edit_slots(model, |parameter, slot| {
        let Some(adapter) = slot.get_mut(name) else { return };
        let is_absent_bias =
            parameter.ends_with("bias") && ["bias", "base_layer.bias"].iter().all(|name| !file.contains(&key(parameter, name)));
        if error.is_none() && !is_absent_bias {
            error = adapter.import(&mut |stored, shape| reader.read(parameter, stored, shape)).err();
        }
    });
    match error {
        Some(error) => Err(error),
        None => settle(model, file, &reader.used),
    }
}

/// Reads the tensors that adapters ask for.
struct Reader<'a> {
    file: &'a Checkpoint,
    device: burn::tensor::Device,
    used: HashSet<String>,
    shared: HashMap<String, Tensor<1>>,
}

impl Reader<'_> {
    fn read(&mut self, parameter: &str, stored: &str, shape: &[usize]) -> Result<Tensor<1>> {
        let key = key(parameter, stored);
        if let Some(tensor) = self.shared.get(&key) {
            return Ok(tensor.clone());
        }
        match self.file.info(&key) {
            Some(info) if info.shape == shape => {}
            info => return Err(self.mismatch(key, shape, info.map(|info| info.shape.as_slice()))),
        }
        let values = self.file.f32s(&key)?;
        let count = values.len();
        let tensor = Tensor::from_data(TensorData::new(values, [count]), &self.device);
        self.used.insert(key.clone());
        if stored.starts_with('/') {
            self.shared.insert(key, tensor.clone());
        }
        Ok(tensor)
    }

    /// What is wrong with a tensor that should have this shape: the configuration, where the module is there otherwise, or the base.
    fn mismatch(&self, key: String, expected: &[usize], found: Option<&[usize]>) -> Error {
        let file = self.file.path().into();
        let said = |shape: &[usize]| format!("{shape:?}");
        let Some(found) = found else {
            let parsed = Key::parse(&key);
            let beside = parsed.as_ref().is_some_and(|parsed| match parsed.part {
                Part::Adapter(_) => self.file.keys().any(|other| other.starts_with(&format!("{PREFIX}{}.", parsed.module))),
                _ => true,
            });
            let (expected, found) = (said(expected), "nothing".to_owned());
            return match beside {
                true => Error::Tensor { file, key, expected, found: format!("nothing, where {CONFIG_FILE} says that the adapter has it") },
                false => Error::AdapterFile { file, key, expected, found },
            };
        };
        let differing = expected.iter().zip(found).enumerate().filter(|(_, (a, b))| a != b).map(|(axis, _)| axis).collect::<Vec<_>>();
        let of_rank = if key.ends_with("lora_A.weight") || key.ends_with("lora_embedding_A") { 0 } else { 1 };
        let (expected, shape) = (said(expected), said(found));
        match key.contains(".lora_") && found.len() == 2 && differing == [of_rank] {
            true => {
                let found = format!("{shape}; {CONFIG_FILE} gives the module another rank than the tensor has");
                Error::Tensor { file, key, expected, found }
            }
            false => Error::AdapterFile { file, key, expected, found: shape },
        }
    }
}
