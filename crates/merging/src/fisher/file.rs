//! Fisher information in a file, beside the model that it is of.

use peft_core::files::{Checkpoint, Metadata, TensorInfo, TensorSource, pytorch_metadata, write_safetensors};
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What the file is called where nothing else is said.
pub const FISHER_FILE: &str = "fisher.safetensors";
/// Under which the header of the file holds the [`FisherMeta`], as JSON.
const META: &str = "fisher";

/// What a file says of the numbers in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FisherMeta {
    /// How many examples they are the mean over.
    pub n_examples: usize,
    /// `exact`, `sampled` or `empirical`.
    pub estimator: String,
    /// Predictions drawn for each example; 0 where none are.
    pub samples: usize,
    /// Their length as one vector.
    pub norm: f64,
    /// What the examples were.
    pub data: String,
    /// The [`model_hash`] of the model that they are of.
    pub model: String,
}

/// An open file of Fisher information: a number for each parameter, under the keys and in the shapes of the model's own checkpoint.
#[derive(Debug)]
pub struct FisherFile {
    /// The file.
    pub path: PathBuf,
    /// The numbers.
    pub checkpoint: Checkpoint,
    /// What it says of them; `None` for a file of another program.
    pub meta: Option<FisherMeta>,
}

impl FisherFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::File`] with the command that makes one if there is none; whatever [`Checkpoint::open_file`] says; [`Error::File`] for metadata
    /// that cannot be understood.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::file(path, "there is no such file; `peft fisher --model DIR --data FILE --out FILE` makes one"));
        }
        let checkpoint = Checkpoint::open_file(path)?;
        let meta = checkpoint.metadata().get(META).map(|text| serde_json::from_str(text)).transpose();
        let meta = meta.map_err(|e| Error::file(path, format!("metadata `{META}`: {e}")))?;
        Ok(Self { path: path.into(), checkpoint, meta })
    }

    /// Whether it is of this model; `None` if it does not say.
    ///
    /// # Errors
    /// As [`model_hash`].
    pub fn is_of(&self, model: &Checkpoint) -> Result<Option<bool>> {
        self.meta.as_ref().map(|meta| Ok(meta.model == model_hash(model)?)).transpose()
    }

    /// That there is Fisher information for the weight `key` of this shape.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn expect(&self, key: &str, shape: &[usize]) -> Result<&TensorInfo> {
        let wrong = |found: String| Error::Tensor {
            file: self.path.clone(),
            key: key.into(),
            expected: format!("the Fisher information of a weight of shape {shape:?}"),
            found,
        };
        let info = self.checkpoint.info(key).ok_or_else(|| wrong("nothing".into()))?;
        if info.shape != shape {
            return Err(wrong(format!("shape {:?}", info.shape)));
        }
        match crate::plan::is_floating(info.dtype) {
            true => Ok(info),
            false => Err(wrong(info.dtype.to_string())),
        }
    }
}

/// Writes Fisher information, which `tensors` gives under the keys of the model's checkpoint; returns the bytes of the file.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write<'a>(path: &Path, tensors: impl IntoIterator<Item = TensorSource<'a>>, meta: &FisherMeta) -> Result<u64> {
    let mut metadata: Metadata = pytorch_metadata();
    metadata.insert(META.into(), serde_json::to_string(meta).map_err(|e| Error::file(path, e))?);
    write_safetensors(path, tensors, &metadata)
}

/// Tells models apart by the names, types and shapes of their weights and the first numbers of each, without reading all of them.
///
/// # Errors
/// [`Error::Tensor`] if a tensor of the checkpoint cannot be found.
pub fn model_hash(model: &Checkpoint) -> Result<String> {
    const FIRST: usize = 4096;
    let mut hash = 0;
    for key in model.keys() {
        let bytes = model.bytes(key)?;
        let info = model.info(key).map(|info| format!("{key} {} {:?}", info.dtype, info.shape)).unwrap_or_default();
        hash = crc32c::crc32c_append(hash, info.as_bytes());
        hash = crc32c::crc32c_append(hash, &bytes[..bytes.len().min(FIRST)]);
    }
    Ok(format!("{hash:08x}"))
}

/// Tells contents of files apart.
pub fn checksum(bytes: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(bytes))
}
