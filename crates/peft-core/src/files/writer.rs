//! Files that are either complete or not there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use safetensors::Dtype;
use serde::Serialize;
use tempfile::NamedTempFile;

use super::finite::all_finite;
use super::floats::{self, FLOATS, Float};
use super::header::{Header, TensorInfo};
use super::{Checkpoint, INDEX_FILE, MODEL_FILE};
use crate::{Error, Result};

/// Strings that a safetensors file carries beside its tensors.
pub type Metadata = BTreeMap<String, String>;

/// Computes the bytes of a tensor: row-major, little-endian.
pub type TensorBytes<'a> = Box<dyn FnOnce() -> Result<Cow<'a, [u8]>> + 'a>;

/// The metadata without which older versions of transformers refuse a safetensors file.
pub fn pytorch_metadata() -> Metadata {
    Metadata::from([("format".into(), "pt".into())])
}

/// A tensor to be written, whose bytes are computed when its turn comes.
///
/// A file is written one tensor after the other, so that only one needs to be in memory.
pub struct TensorSource<'a> {
    /// Its key in the file.
    pub name: String,
    /// Its type and shape, known before its bytes.
    pub info: TensorInfo,
    /// Its bytes, as many as `info` says.
    pub data: TensorBytes<'a>,
}

impl<'a> TensorSource<'a> {
    /// A tensor whose bytes `data` computes, in row-major order and little-endian.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: &[usize], data: impl FnOnce() -> Result<Cow<'a, [u8]>> + 'a) -> Self {
        Self { name: name.into(), info: TensorInfo { dtype, shape: shape.into() }, data: Box::new(data) }
    }

    /// A Burn tensor, stored as `dtype`. It is read back from its device when its turn comes.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if `dtype` is not f64, f32, f16 or bf16.
    pub fn from_tensor<const D: usize>(name: impl Into<String>, tensor: Tensor<D>, dtype: DType) -> Result<Self> {
        let file_dtype = storable(dtype)?.file();
        Ok(Self::new(name, file_dtype, &tensor.dims(), move || tensor_bytes(tensor, dtype).map(Cow::Owned)))
    }

    /// A tensor of an open checkpoint, of any type, under its own key.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the checkpoint has no such tensor.
    pub fn from_checkpoint(checkpoint: &'a Checkpoint, key: &str) -> Result<Self> {
        let (info, bytes) = checkpoint.tensor(key)?;
        let (dtype, from) = (info.dtype, format!("{}: tensor `{key}`", checkpoint.path().display()));
        let data = move || match all_finite(dtype, bytes) {
            true => Ok(Cow::Borrowed(bytes)),
            false => Err(Error::NonFinite { what: from }),
        };
        Ok(Self { name: key.into(), info: info.clone(), data: Box::new(data) })
    }

    /// Its bytes, checked as those of a file are.
    ///
    /// # Errors
    /// Whatever computing them returns.
    pub fn bytes(self) -> Result<Cow<'a, [u8]>> {
        (self.data)()
    }

    fn num_bytes(&self) -> u64 {
        // A size that does not exist is reported when the header is written.
        self.info.num_bytes().unwrap_or(usize::MAX) as u64
    }
}

/// The numbers of a tensor as little-endian bytes of type `dtype`, in row-major order. A tensor that Burn holds quantised is
/// dequantised.
///
/// # Errors
/// [`Error::InvalidConfig`] if `dtype` is not f64, f32, f16 or bf16; [`Error::Device`] if the device cannot be read.
pub fn tensor_bytes<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Result<Vec<u8>> {
    let to = storable(dtype)?;
    let tensor = if matches!(tensor.dtype(), DType::QFloat(_)) { tensor.dequantize() } else { tensor };
    let shape = tensor.dims();
    let data = tensor.try_into_data().map_err(|e| Error::Device(format!("a tensor cannot be read back from its device: {e}")))?;
    if data.dtype() == dtype {
        return Ok(data.as_bytes().to_vec());
    }
    let from = storable(data.dtype())?;
    Ok(floats::tensor_data(data.as_bytes(), from, to, shape).as_bytes().to_vec())
}

fn storable(dtype: DType) -> Result<Float> {
    Float::from_burn(dtype).ok_or_else(|| Error::InvalidConfig(format!("a tensor cannot be stored as {}; use {FLOATS}", dtype.name())))
}

/// Writes one safetensors file and returns its size in bytes.
///
/// The tensors are ordered as every safetensors implementation orders them (wider types first, then by name), so that
/// equal tensors make equal files. They are computed in that order.
///
/// # Errors
/// Whatever computing a tensor returns; [`Error::File`] if two tensors share a name or one has not the size that its shape
/// says; [`Error::NonFinite`] for a number that is infinite or none in the type of the file; [`Error::Io`]. After an error there is no
/// new file, and an existing one is as it was.
pub fn write_safetensors<'a>(path: &Path, tensors: impl IntoIterator<Item = TensorSource<'a>>, metadata: &Metadata) -> Result<u64> {
    let staged = Staged::safetensors(path, tensors.into_iter().collect(), metadata)?;
    let size = staged.size;
    staged.publish()?;
    Ok(size)
}

/// Writes a checkpoint into an existing directory as Hugging Face does, and returns the size of its safetensors files in bytes:
/// `model.safetensors` if that takes at most `max_shard_bytes` of tensors, else `model-00001-of-0000N.safetensors` and so on,
/// and then `model.safetensors.index.json`.
///
/// The order of `tensors` decides which of them share a file. A tensor above the limit gets a file of its own.
///
/// # Errors
/// As [`write_safetensors`]; also [`Error::InvalidConfig`] for a limit of zero, and [`Error::File`] if the directory holds a
/// checkpoint of the other kind, one file or several, that would stand beside the new one. No file appears before all are complete.
pub fn write_checkpoint<'a>(
    dir: &Path,
    tensors: impl IntoIterator<Item = TensorSource<'a>>,
    max_shard_bytes: u64,
    metadata: &Metadata,
) -> Result<u64> {
    if max_shard_bytes == 0 {
        return Err(Error::InvalidConfig("the largest size of a checkpoint file must be above zero".into()));
    }
    let mut shards = split(tensors, max_shard_bytes);
    if shards.len() <= 1 {
        refuse_beside(dir, INDEX_FILE)?;
        return write_safetensors(&dir.join(MODEL_FILE), shards.pop().unwrap_or_default(), metadata);
    }
    refuse_beside(dir, MODEL_FILE)?;
    let names: Vec<_> = (1..=shards.len()).map(|i| format!("model-{i:05}-of-{:05}.safetensors", shards.len())).collect();
    let index = Index::new(dir, &shards, &names)?;
    let staged: Vec<_> =
        shards.into_iter().zip(&names).map(|(shard, name)| Staged::safetensors(&dir.join(name), shard, metadata)).collect::<Result<_>>()?;
    let size = staged.iter().map(|s| s.size).sum();
    staged.into_iter().try_for_each(Staged::publish)?;
    // Last, because a reader takes the index as the sign that the files are there.
    let mut json = serde_json::to_string_pretty(&index).map_err(|e| Error::file(dir.join(INDEX_FILE), e))?;
    json.push('\n');
    write_atomic(&dir.join(INDEX_FILE), json.as_bytes())?;
    Ok(size)
}

/// Writes a whole file, such as a JSON configuration.
///
/// # Errors
/// [`Error::Io`]; after an error an existing file is as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    Staged::new(path, |out| out.write_all(bytes).map_err(|e| Error::io(path, e)))?.publish()
}

fn split<'a>(tensors: impl IntoIterator<Item = TensorSource<'a>>, max_bytes: u64) -> Vec<Vec<TensorSource<'a>>> {
    let (mut shards, mut shard, mut size) = (Vec::new(), Vec::new(), 0u64);
    for tensor in tensors {
        let bytes = tensor.num_bytes();
        if bytes > max_bytes {
            shards.push(vec![tensor]);
            continue;
        }
        if bytes > max_bytes - size {
            shards.push(std::mem::take(&mut shard));
            size = 0;
        }
        size += bytes;
        shard.push(tensor);
    }
    if !shard.is_empty() {
        shards.push(shard);
    }
    shards
}

/// A reader that finds both a single file and an index would take the wrong one.
fn refuse_beside(dir: &Path, name: &str) -> Result<()> {
    let path = dir.join(name);
    if path.exists() {
        return Err(Error::file(path, "belongs to another checkpoint; write to an empty directory"));
    }
    Ok(())
}

#[derive(Serialize)]
struct Index<'a> {
    metadata: IndexMetadata,
    weight_map: BTreeMap<String, &'a str>,
}

#[derive(Serialize)]
struct IndexMetadata {
    /// Bytes of all tensors, without the headers.
    total_size: u64,
}

impl<'a> Index<'a> {
    fn new(dir: &Path, shards: &[Vec<TensorSource<'_>>], names: &'a [String]) -> Result<Self> {
        let mut index = Self { metadata: IndexMetadata { total_size: 0 }, weight_map: BTreeMap::new() };
        for (shard, name) in shards.iter().zip(names) {
            for tensor in shard {
                index.metadata.total_size = index.metadata.total_size.saturating_add(tensor.num_bytes());
                if index.weight_map.insert(tensor.name.clone(), name).is_some() {
                    return Err(Error::file(dir, format!("two tensors are called `{}`", tensor.name)));
                }
            }
        }
        Ok(index)
    }
}

/// A complete file under a temporary name; dropping it removes it.
struct Staged {
    path: PathBuf,
    file: NamedTempFile,
    size: u64,
}

impl Staged {
    fn new(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Self> {
        let io = |e| Error::io(path, e);
        let dir = parent(path);
        let mut file = temporary_file().tempfile_in(dir).map_err(|e| Error::io(dir, e))?;
        let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        write(&mut out)?;
        out.flush().map_err(io)?;
        drop(out);
        file.as_file().sync_all().map_err(io)?;
        let size = file.as_file().metadata().map_err(io)?.len();
        Ok(Self { path: path.into(), file, size })
    }

    fn safetensors(path: &Path, mut tensors: Vec<TensorSource<'_>>, metadata: &Metadata) -> Result<Self> {
        tensors.sort_by(|a, b| b.info.dtype.cmp(&a.info.dtype).then_with(|| a.name.cmp(&b.name)));
        let header =
            Header::write(tensors.iter().map(|t| (t.name.as_str(), &t.info)), metadata).map_err(|reason| Error::file(path, reason))?;
        Self::new(path, |out| {
            out.write_all(&header).map_err(|e| Error::io(path, e))?;
            tensors.into_iter().try_for_each(|tensor| write_tensor(out, path, tensor))
        })
    }

    fn publish(self) -> Result<()> {
        self.file.persist(&self.path).map_err(|e| Error::io(&self.path, e.error))?;
        sync_dir(parent(&self.path))
    }
}

fn write_tensor(out: &mut dyn Write, path: &Path, tensor: TensorSource<'_>) -> Result<()> {
    let TensorSource { name, info, data } = tensor;
    let bytes = data()?;
    if info.num_bytes() != Some(bytes.len()) {
        let TensorInfo { dtype, shape } = info;
        return Err(Error::file(path, format!("tensor `{name}`: {} bytes were computed for {dtype} of shape {shape:?}", bytes.len())));
    }
    if !all_finite(info.dtype, &bytes) {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        return Err(Error::NonFinite { what: floats::rounded(&format!("tensor `{name}` for {file}"), info.dtype) });
    }
    out.write_all(&bytes).map_err(|e| Error::io(path, e))
}

/// The permissions that any new file gets; a temporary file would be private to the user, and stay so when it is renamed.
fn temporary_file() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// The directory that holds `path`.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Makes a rename last through a power failure.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(dir).and_then(|d| d.sync_all()) {
        // Some network file systems cannot sync a directory; the rename has happened all the same.
        Err(e) if !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Err(Error::io(dir, e)),
        _ => Ok(()),
    }
}
