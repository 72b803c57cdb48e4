//! A read-only view on the tensors of a checkpoint.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use burn::tensor::{AllocationProperty, DType, Device, Tensor, TensorData};
use bytes::Bytes;
use memmap2::Mmap;
use serde::Deserialize;

use super::finite::{all_finite, are_finite};
use super::floats::{self, FLOATS, Float};
use super::header::{Header, TensorInfo};
use super::nearest::nearest;
use super::{INDEX_FILE, MODEL_FILE, Metadata, read_json};
use crate::{Error, Result};

/// The tensors of a directory of safetensors files, or of one such file, by memory map.
///
/// Opening reads and verifies the headers alone. A tensor's bytes are read from disk when they are used. A tensor on the CPU in the
/// type of the file is the mapped file itself, without a copy; others are copied once on their way to a device.
///
/// The files must not be truncated or rewritten in place while a checkpoint or a tensor from it is in use: that would change its
/// bytes, or end the program with a bus error. Replacing them by renaming, as everything in [`files`](super) does, is safe.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
    metadata: Metadata,
}

#[derive(Clone, Debug)]
struct Shard {
    file: PathBuf,
    map: Bytes,
}

#[derive(Clone, Debug)]
struct Entry {
    shard: usize,
    info: TensorInfo,
    range: Range<usize>,
}

/// The part of `model.safetensors.index.json` that says where to find a tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a Hugging Face checkpoint directory: its `model.safetensors`, or else the files that its
    /// `model.safetensors.index.json` names. A path to a safetensors file is opened as that file.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::File`] if there is no checkpoint, or one that is damaged or incomplete.
    pub fn open(dir: &Path) -> Result<Self> {
        if fs::metadata(dir).map_err(|e| Error::io(dir, e))?.is_file() {
            return Self::open_file(dir);
        }
        let (file, index) = (dir.join(MODEL_FILE), dir.join(INDEX_FILE));
        if file.exists() {
            Ok(Self { path: dir.into(), ..Self::open_file(&file)? })
        } else if index.exists() {
            Self::open_index(dir, &index)
        } else {
            Err(no_checkpoint(dir))
        }
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`] if it is damaged or not a safetensors file, or only PyTorch's file of that name
    /// exists.
    pub fn open_file(file: &Path) -> Result<Self> {
        if !file.exists() && file.with_extension("bin").is_file() {
            let reason = "there is no such file, but one that ends in .bin, which is PyTorch's and not read; load and save it with HF PEFT, \
                          which writes safetensors";
            return Err(Error::file(file, reason));
        }
        let (shard, header) = Shard::open(file)?;
        let tensors = header.tensors.into_iter().map(|(key, (info, range))| (key, Entry { shard: 0, info, range })).collect();
        Ok(Self { path: file.into(), shards: vec![shard], tensors, metadata: header.metadata })
    }

    /// Tensors that are in memory already, each with its key, type, shape and bytes, as if they had been read from `path`.
    ///
    /// # Errors
    /// [`Error::File`] if a tensor has not the size that its shape says, or two have the same key.
    pub fn in_memory(path: &Path, tensors: impl IntoIterator<Item = (String, TensorInfo, Vec<u8>)>) -> Result<Self> {
        let mut checkpoint = Self { path: path.into(), shards: Vec::new(), tensors: BTreeMap::new(), metadata: Metadata::new() };
        for (key, info, bytes) in tensors {
            if info.num_bytes() != Some(bytes.len()) {
                let TensorInfo { dtype, shape } = info;
                return Err(Error::file(path, format!("tensor `{key}`: {} bytes for {dtype} of shape {shape:?}", bytes.len())));
            }
            let entry = Entry { shard: checkpoint.shards.len(), info, range: 0..bytes.len() };
            checkpoint.shards.push(Shard { file: path.into(), map: Bytes::from(bytes) });
            if checkpoint.tensors.insert(key.clone(), entry).is_some() {
                return Err(Error::file(path, format!("two tensors are called `{key}`")));
            }
        }
        Ok(checkpoint)
    }

    /// The same tensors under the names that `name` gives them, without those that it gives none.
    pub fn renamed(&self, name: impl Fn(&str) -> Option<String>) -> Self {
        let tensors = self.tensors.iter().filter_map(|(key, entry)| Some((name(key)?, entry.clone()))).collect();
        Self { path: self.path.clone(), shards: self.shards.clone(), tensors, metadata: self.metadata.clone() }
    }

    fn open_index(dir: &Path, index: &Path) -> Result<Self> {
        let Index { weight_map } = read_json(index)?;
        let mut checkpoint = Self { path: dir.into(), shards: Vec::new(), tensors: BTreeMap::new(), metadata: Metadata::new() };
        let mut opened: BTreeMap<String, (usize, Header)> = BTreeMap::new();
        for (key, name) in weight_map {
            let (shard, header) = match opened.entry(name.clone()) {
                MapEntry::Occupied(entry) => entry.into_mut(),
                MapEntry::Vacant(entry) => {
                    let (shard, header) = Shard::open(&shard_path(dir, index, &name)?)?;
                    checkpoint.shards.push(shard);
                    checkpoint.metadata.extend(header.metadata.clone());
                    entry.insert((checkpoint.shards.len() - 1, header))
                }
            };
            let (info, range) = header
                .tensors
                .remove(&key)
                .ok_or_else(|| Error::file(index, format!("lists tensor `{key}` in `{name}`, which does not hold it")))?;
            checkpoint.tensors.insert(key, Entry { shard: *shard, info, range });
        }
        Ok(checkpoint)
    }

    /// The directory or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys of all tensors, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this key.
    pub fn contains(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// Type and shape of a tensor.
    pub fn info(&self, key: &str) -> Option<&TensorInfo> {
        self.tensors.get(key).map(|entry| &entry.info)
    }

    /// The strings that the files carry beside their tensors, such as `format: pt`.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// A tensor's bytes as they are in the file: row-major, little-endian, without alignment.
    ///
    /// # Errors
    /// [`Error::Tensor`] with the nearest keys if there is none of this key.
    pub fn bytes(&self, key: &str) -> Result<&[u8]> {
        self.tensor(key).map(|(_, bytes)| bytes)
    }

    /// Lets the system take back the memory that a tensor's bytes occupy once they were read; they are read from disk again when they
    /// are used again. Memory that counts as used thus stays small when a large checkpoint is read through once.
    ///
    /// There is nothing to release where no tensor has this key, or the system has no such call.
    pub fn release(&self, key: &str) {
        let Some(entry) = self.tensors.get(key) else { return };
        #[cfg(unix)]
        release_pages(self.entry_bytes(entry));
        #[cfg(not(unix))]
        let _ = entry;
    }

    /// A floating-point tensor of the given shape, in `dtype` or, if that is `None`, in the type it is stored in.
    ///
    /// Burn has no tensors of rank 0: a stored scalar is read as shape `[1]`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the tensor is missing, has another shape or holds no floating-point numbers; [`Error::NonFinite`] if one of
    /// its numbers is infinite or none, in the file or when it is rounded to `dtype`; [`Error::InvalidConfig`] if `dtype` is not f64, f32,
    /// f16 or bf16; [`Error::Device`] if the device lacks the type.
    pub fn float<const D: usize>(&self, key: &str, shape: [usize; D], dtype: Option<DType>, device: &Device) -> Result<Tensor<D>> {
        let entry = self.entry(key, || format!("shape {shape:?}"))?;
        let is_scalar = entry.info.shape.is_empty() && shape.as_slice() == [1];
        if entry.info.shape != shape && !is_scalar {
            return Err(self.mismatch(key, entry, format!("shape {shape:?}"), format!("shape {:?}", entry.info.shape)));
        }
        let stored = self.stored_float(key, entry)?;
        let wanted = match dtype {
            Some(dtype) => Float::from_burn(dtype).ok_or_else(|| {
                Error::InvalidConfig(format!("a tensor of floating-point numbers cannot be loaded as {}; use {FLOATS}", dtype.name()))
            })?,
            None => stored,
        };
        let dtype = wanted.burn();
        if !device.supports_dtype(dtype) {
            return Err(Error::Device(format!("the device does not compute in {}; load the checkpoint as f32", dtype.name())));
        }
        let data = match stored == wanted {
            true => self.mapped(entry, dtype, shape),
            false => None,
        };
        let data = data.unwrap_or_else(|| {
            let data = floats::tensor_data(self.entry_bytes(entry), stored, wanted, shape);
            // What has been converted is not needed in its old form: the model never stands in memory twice.
            self.release(key);
            data
        });
        if !all_finite(wanted.file(), data.as_bytes()) {
            return Err(self.not_finite(key, entry, wanted));
        }
        Ok(Tensor::from_data(data, (device, dtype)))
    }

    /// The mapped bytes themselves, where they stand in memory as a tensor's do.
    fn mapped<const D: usize>(&self, entry: &Entry, dtype: DType, shape: [usize; D]) -> Option<TensorData> {
        let bytes = self.shards[entry.shard].map.slice(entry.range.clone());
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(dtype.size());
        if !aligned || cfg!(target_endian = "big") {
            return None;
        }
        Some(TensorData::from_bytes(burn::tensor::Bytes::from_shared(bytes, AllocationProperty::File), shape, dtype))
    }

    /// The numbers of a floating-point tensor of any shape, in row-major order.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the tensor is missing or holds no floating-point numbers; [`Error::NonFinite`] if one of them is infinite or
    /// none.
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>> {
        let entry = self.entry(key, || FLOATS.into())?;
        let numbers = floats::to_f32(self.entry_bytes(entry), self.stored_float(key, entry)?);
        if !are_finite(&numbers) {
            return Err(self.not_finite(key, entry, Float::F32));
        }
        Ok(numbers)
    }

    /// Fill `numbers` with those of a floating-point tensor from number `first` on, in row-major order: for tensors that should not be
    /// in memory as a whole.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the tensor is missing, holds no floating-point numbers or ends before `numbers` is full;
    /// [`Error::NonFinite`] if one of them is infinite or none.
    pub fn read_f32s(&self, key: &str, first: usize, numbers: &mut [f32]) -> Result<()> {
        let entry = self.entry(key, || FLOATS.into())?;
        let from = self.stored_float(key, entry)?;
        let (size, end) = (from.burn().size(), first.saturating_add(numbers.len()));
        let Some(bytes) = self.entry_bytes(entry).get(first.saturating_mul(size)..end.saturating_mul(size)) else {
            return Err(self.mismatch(key, entry, format!("{end} numbers"), format!("shape {:?}", entry.info.shape)));
        };
        floats::read_f32s(bytes, from, numbers);
        match are_finite(numbers) {
            true => Ok(()),
            false => Err(self.not_finite(key, entry, Float::F32)),
        }
    }

    /// Whether two tensors have one shape and hold the same numbers, as torch's `equal` compares them.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one of them is missing or holds no floating-point numbers.
    pub fn are_equal(&self, one: &str, other: &str) -> Result<bool> {
        let [ours, theirs] = [self.entry(one, || FLOATS.into())?, self.entry(other, || FLOATS.into())?];
        let [from, other_from] = [self.stored_float(one, ours)?, self.stored_float(other, theirs)?];
        let [a, b] = [ours, theirs].map(|entry| self.entry_bytes(entry));
        Ok(ours.info.shape == theirs.info.shape && ((from == other_from && a == b) || floats::are_equal((a, from), (b, other_from))))
    }

    pub(super) fn tensor(&self, key: &str) -> Result<(&TensorInfo, &[u8])> {
        let entry = self.entry(key, || "a tensor".into())?;
        Ok((&entry.info, self.entry_bytes(entry)))
    }

    fn entry(&self, key: &str, expected: impl FnOnce() -> String) -> Result<&Entry> {
        self.tensors.get(key).ok_or_else(|| {
            let near: Vec<_> = nearest(key, self.keys(), 3).into_iter().map(|k| format!("`{k}`")).collect();
            let found = if near.is_empty() {
                "nothing; there are no tensors".into()
            } else {
                format!("nothing; the nearest keys are {}", near.join(", "))
            };
            Error::Tensor { file: self.path.clone(), key: key.into(), expected: expected(), found }
        })
    }

    fn entry_bytes(&self, entry: &Entry) -> &[u8] {
        // In range since `Header::parse` has verified it against the length of this map.
        &self.shards[entry.shard].map[entry.range.clone()]
    }

    fn stored_float(&self, key: &str, entry: &Entry) -> Result<Float> {
        Float::from_file(entry.info.dtype).ok_or_else(|| self.mismatch(key, entry, FLOATS.into(), entry.info.dtype.to_string()))
    }

    /// What to say of a tensor that does not pass as numbers of type `wanted`.
    fn not_finite(&self, key: &str, entry: &Entry, wanted: Float) -> Error {
        let tensor = format!("{}: tensor `{key}`", self.shards[entry.shard].file.display());
        match all_finite(entry.info.dtype, self.entry_bytes(entry)) {
            true => Error::NonFinite { what: floats::rounded(&tensor, wanted.file()) },
            false => Error::NonFinite { what: tensor },
        }
    }

    fn mismatch(&self, key: &str, entry: &Entry, expected: String, found: String) -> Error {
        Error::Tensor { file: self.shards[entry.shard].file.clone(), key: key.into(), expected, found }
    }
}

impl Shard {
    fn open(path: &Path) -> Result<(Self, Header)> {
        let io = |e| Error::io(path, e);
        let file = File::open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(Error::file(path, "not a regular file"));
        }
        // SAFETY: the map is only read. That nobody truncates or rewrites the file meanwhile is the condition that `Checkpoint`
        // states; the file format gives no means to enforce it.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let header = Header::parse(&map).map_err(|reason| Error::file(path, reason))?;
        Ok((Self { file: path.into(), map: Bytes::from_owner(map) }, header))
    }
}

/// The whole pages within `bytes`, which are part of a read-only map of a file.
#[cfg(unix)]
fn release_pages(bytes: &[u8]) {
    /// A multiple of every usual page size.
    const PAGE: usize = 1 << 16;
    let begin = (bytes.as_ptr() as usize).next_multiple_of(PAGE);
    let end = (bytes.as_ptr() as usize + bytes.len()) / PAGE * PAGE;
    if begin < end {
        // SAFETY: the range lies within a map that is only read and backed by a file, so that its pages come back as they were.
        // An error means that nothing was released, which does no harm.
        unsafe { libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_DONTNEED) };
    }
}

/// Where the index says that a shard is; never outside the directory, so that a checkpoint cannot make us open other files.
fn shard_path(dir: &Path, index: &Path, name: &str) -> Result<PathBuf> {
    let inside = !name.is_empty() && Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    if !inside {
        return Err(Error::file(index, format!("names the file `{name}`, which is not inside the directory")));
    }
    let path = dir.join(name);
    if !path.exists() {
        return Err(Error::file(index, format!("names the file `{name}`, which does not exist; is the download complete?")));
    }
    Ok(path)
}

fn no_checkpoint(dir: &Path) -> Error {
    let mut reason = format!("no checkpoint here: looked for {MODEL_FILE} and {INDEX_FILE}");
    if ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().any(|name| dir.join(name).exists()) {
        reason += "; there is a pytorch_model.bin, which must be converted to safetensors first. In this directory, run: ";
        reason += PICKLE_TO_SAFETENSORS;
    }
    Error::file(dir, reason)
}

/// Clones, because weights that share memory (tied embeddings) cannot be saved otherwise.
const PICKLE_TO_SAFETENSORS: &str = "python -c \"import glob, torch, safetensors.torch as s; \
    s.save_file({k: v.clone().contiguous() for f in glob.glob('pytorch_model*.bin') \
    for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}, 'model.safetensors', {'format': 'pt'})\"";
