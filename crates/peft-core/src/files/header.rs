//! The header of a safetensors file: its length in 8 bytes, then JSON that gives each tensor's type, shape and place.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo as HeaderEntry;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::Metadata;

/// What the reference implementation accepts, in bytes.
const MAX_HEADER: usize = 100_000_000;
const METADATA_KEY: &str = "__metadata__";
/// What Git leaves in place of a large file that was not downloaded.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Type and shape of a tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The type of its elements, which may be one that Burn does not have (8-bit floats, complex numbers).
    pub dtype: Dtype,
    /// Its shape, in row-major order.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Its size in bytes; `None` if that overflows or is not whole.
    pub fn num_bytes(&self) -> Option<usize> {
        // A tensor without elements has strides all the same, which must not overflow either.
        let volume = self.shape.iter().filter(|d| **d > 0).try_fold(1usize, |n, &d| n.checked_mul(d))?;
        let elements = if self.shape.contains(&0) { 0 } else { volume };
        let bits = elements.checked_mul(self.dtype.bitsize())?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

/// A parsed and verified header.
#[derive(Debug)]
pub(super) struct Header {
    /// Per tensor its type and shape, and where its bytes are, counted from the start of the file.
    pub tensors: BTreeMap<String, (TensorInfo, Range<usize>)>,
    pub metadata: Metadata,
}

impl Header {
    /// Reads the header of a whole `file`, and verifies that the tensors tile its data without gap or overlap.
    ///
    /// The error says what is wrong; the caller knows the path.
    pub fn parse(file: &[u8]) -> Result<Self, String> {
        let json = header_json(file)?;
        let mut entries: serde_json::Map<String, Value> =
            serde_json::from_slice(json).map_err(|e| format!("not a safetensors file: the header is not JSON: {e}"))?;
        let metadata = match entries.remove(METADATA_KEY) {
            Some(map) => serde_json::from_value(map).map_err(|e| format!("header: `{METADATA_KEY}` must map strings to strings: {e}"))?,
            None => Metadata::new(),
        };
        let mut tensors = Vec::with_capacity(entries.len());
        for (name, entry) in entries {
            let entry: HeaderEntry = serde_json::from_value(entry).map_err(|e| format!("header: tensor `{name}`: {e}"))?;
            tensors.push((name, entry));
        }
        tensors.sort_by_key(|(_, entry)| entry.data_offsets);
        let data_start = 8 + json.len();
        check_layout(&tensors, data_start, file.len())?;
        let tensors = tensors.into_iter().map(|(name, HeaderEntry { dtype, shape, data_offsets: (begin, end) })| {
            (name, (TensorInfo { dtype, shape }, data_start + begin..data_start + end))
        });
        Ok(Self { tensors: tensors.collect(), metadata })
    }

    /// The first bytes of a file with these tensors in this order: length, JSON, and spaces up to a multiple of 8.
    pub fn write<'a>(tensors: impl Iterator<Item = (&'a str, &'a TensorInfo)>, metadata: &Metadata) -> Result<Vec<u8>, String> {
        let mut layout = Layout { entries: Vec::new(), metadata };
        let mut end = 0usize;
        for (name, info) in tensors {
            let begin = end;
            end = info.num_bytes().and_then(|n| begin.checked_add(n)).ok_or_else(|| no_size(name, info.dtype, &info.shape))?;
            layout.entries.push((name, HeaderEntry { dtype: info.dtype, shape: info.shape.clone(), data_offsets: (begin, end) }));
        }
        layout.check_names()?;
        let mut json = serde_json::to_vec(&layout).map_err(|e| format!("header: {e}"))?;
        json.resize(json.len().next_multiple_of(8), b' ');
        if json.len() > MAX_HEADER {
            return Err(format!(
                "the header of {} tensors takes {} bytes, the format allows {MAX_HEADER}",
                layout.entries.len(),
                json.len()
            ));
        }
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut json);
        Ok(bytes)
    }
}

fn header_json(file: &[u8]) -> Result<&[u8], String> {
    if file.starts_with(LFS_POINTER) {
        return Err("a Git LFS pointer instead of the tensors; fetch them with `git lfs pull`".into());
    }
    let size = file.len();
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(if size == 0 { "the file is empty".into() } else { format!("truncated: {size} bytes are no safetensors header") });
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER as u64 {
        return Err(format!("not a safetensors file: it announces a header of {length} bytes, the format allows {MAX_HEADER}"));
    }
    rest.get(..length as usize)
        .ok_or_else(|| format!("truncated: it announces a header of {length} bytes, but has only {size} in all; copy or download it again"))
}

/// `tensors` are sorted by their offsets, which count from `data_start`.
fn check_layout(tensors: &[(String, HeaderEntry)], data_start: usize, file_size: usize) -> Result<(), String> {
    let data_size = file_size - data_start;
    let mut previous = ("the header".to_string(), 0);
    for (name, HeaderEntry { dtype, shape, data_offsets: (begin, end) }) in tensors {
        let span = end
            .checked_sub(*begin)
            .ok_or_else(|| format!("header: tensor `{name}`: its data ends at {end}, before it begins at {begin}"))?;
        let info = TensorInfo { dtype: *dtype, shape: shape.clone() };
        let needed = info.num_bytes().ok_or_else(|| no_size(name, *dtype, shape))?;
        if span != needed {
            return Err(format!("header: tensor `{name}`: {dtype} of shape {shape:?} takes {needed} bytes, its data offsets span {span}"));
        }
        if *begin < previous.1 {
            return Err(format!("header: tensor `{name}` overlaps {}", previous.0));
        }
        if *begin > previous.1 {
            return Err(format!("header: {} bytes between {} and tensor `{name}` belong to no tensor", begin - previous.1, previous.0));
        }
        if *end > data_size {
            let expected = end.saturating_add(data_start);
            return Err(format!("truncated: tensor `{name}` ends at byte {expected}, the file has {file_size}; copy or download it again"));
        }
        previous = (format!("tensor `{name}`"), *end);
    }
    match data_size - previous.1 {
        0 => Ok(()),
        extra => Err(format!("{extra} bytes after the last tensor belong to no tensor")),
    }
}

fn no_size(name: &str, dtype: Dtype, shape: &[usize]) -> String {
    format!("tensor `{name}`: {dtype} of shape {shape:?} has no size in whole bytes that fits the address space")
}

/// Entries in file order; a map type would re-order them.
struct Layout<'a> {
    entries: Vec<(&'a str, HeaderEntry)>,
    metadata: &'a Metadata,
}

impl Layout<'_> {
    fn check_names(&self) -> Result<(), String> {
        let mut names: Vec<_> = self.entries.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two tensors are called `{}`", twice[0]));
        }
        if names.contains(&METADATA_KEY) {
            return Err(format!("a tensor cannot be called `{METADATA_KEY}`"));
        }
        Ok(())
    }
}

impl Serialize for Layout<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA_KEY, self.metadata)?;
        }
        for (name, entry) in &self.entries {
            map.serialize_entry(name, entry)?;
        }
        map.end()
    }
}
