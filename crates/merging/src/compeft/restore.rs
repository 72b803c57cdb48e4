//! From a compressed expert back to tensors.

use super::expert::{Content, Entry, Expert, Kind, Reference};
use super::rice::Packed;
use peft_core::files::{Checkpoint, TensorSource, float_bytes, pytorch_metadata, write_atomic, write_checkpoint, write_safetensors};
use peft_core::{Error, Result, TENSOR_FILE};
use rayon::prelude::*;
use std::borrow::Cow;
use std::path::{Component, Path};

/// Largest file of a written checkpoint, in bytes; what transformers uses.
const SHARD_BYTES: u64 = 5_000_000_000;

impl Expert {
    /// All tensors as they would be in the adapter's or checkpoint's own file, without one. Errors call them `path`.
    ///
    /// `base` is what a checkpoint was compressed against; an adapter needs none.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a checkpoint without its base; [`Error::Tensor`] if the base has another tensor than it had;
    /// [`Error::File`] for a damaged stream.
    pub fn tensors(&self, base: Option<&Checkpoint>, path: &Path) -> Result<Checkpoint> {
        self.check_base(base)?;
        let tensor = |entry: &Entry| Ok((entry.name.clone(), entry.info.clone(), self.bytes(entry, base, path)?.into_owned()));
        let tensors: Vec<_> = self.entries.par_iter().map(tensor).collect::<Result<_>>()?;
        Checkpoint::in_memory(path, tensors)
    }

    /// Write an adapter, or with the `base` it was compressed against a checkpoint, into the directory `dir`, which is created if it
    /// does not exist. Returns the size of the tensors' files in bytes.
    ///
    /// # Errors
    /// Those of [`tensors`](Self::tensors); [`Error::Io`].
    pub fn restore(&self, base: Option<&Checkpoint>, dir: &Path) -> Result<u64> {
        self.check_base(base)?;
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let sources = self.entries.iter().map(|entry| {
            let Entry { name, info, .. } = entry;
            TensorSource::new(name, info.dtype, &info.shape, move || self.bytes(entry, base, dir))
        });
        let bytes = match self.kind {
            Kind::Adapter => write_safetensors(&dir.join(TENSOR_FILE), sources, &pytorch_metadata())?,
            Kind::Checkpoint => write_checkpoint(dir, sources, SHARD_BYTES, &pytorch_metadata())?,
        };
        for (name, content) in &self.files {
            let inside = Path::new(name).components().map(|c| matches!(c, Component::Normal(_))).eq([true]);
            if !inside {
                return Err(Error::file(dir, format!("the expert has a file called `{name}`, which is no name inside a directory")));
            }
            let path = dir.join(name);
            let text = serde_json::to_string_pretty(content).map_err(|e| Error::file(&path, e))?;
            write_atomic(&path, text.as_bytes())?;
        }
        Ok(bytes)
    }

    fn check_base(&self, base: Option<&Checkpoint>) -> Result<()> {
        match (self.kind, base) {
            (Kind::Checkpoint, None) => {
                Err(Error::InvalidConfig("a compressed checkpoint is a change of its base; say where the base is".into()))
            }
            (Kind::Adapter, Some(_)) => Err(Error::InvalidConfig("a compressed adapter needs no base".into())),
            _ => Ok(()),
        }
    }

    /// The bytes of one tensor, in its type.
    fn bytes<'a>(&'a self, entry: &'a Entry, base: Option<&'a Checkpoint>, path: &Path) -> Result<Cow<'a, [u8]>> {
        let damaged = |reason: String| Error::file(path, format!("tensor `{}`: {reason}", entry.name));
        match &entry.content {
            Content::Verbatim(bytes) => Ok(Cow::Borrowed(bytes)),
            Content::Unchanged { checksum } => Ok(Cow::Borrowed(original(entry, base, *checksum)?.0)),
            Content::Copy(of) => self.bytes(&self.entries[*of], base, path),
            Content::Ternary { reference: Reference::Zero, scale, packed } => {
                constant(entry, 0.0, *scale, packed).map(Cow::Owned).map_err(damaged)
            }
            Content::Ternary { reference: Reference::One, scale, packed } => {
                constant(entry, 1.0, *scale, packed).map(Cow::Owned).map_err(damaged)
            }
            Content::Ternary { reference: Reference::Base { checksum }, scale, packed } => {
                let (_, base) = original(entry, base, *checksum)?;
                let mut numbers = base.f32s(&entry.name)?;
                packed.decode(|at, negative| numbers[at as usize] += if negative { -scale } else { *scale }).map_err(damaged)?;
                Ok(Cow::Owned(float_bytes(&numbers, entry.info.dtype).expect("only floats are compressed")))
            }
        }
    }
}

/// The base, and its bytes of the tensor, which must be those it had when the expert was made.
fn original<'a>(entry: &Entry, base: Option<&'a Checkpoint>, checksum: u32) -> Result<(&'a [u8], &'a Checkpoint)> {
    let base = base.ok_or_else(|| Error::InvalidConfig(format!("tensor `{}` is a change of a base", entry.name)))?;
    let bytes = base.bytes(&entry.name)?;
    let found = base.info(&entry.name).map(|info| info.shape.clone()).unwrap_or_default();
    let mismatch =
        |expected: String, found: String| Err(Error::Tensor { file: base.path().into(), key: entry.name.clone(), expected, found });
    if found != entry.info.shape {
        return mismatch(format!("shape {:?}", entry.info.shape), format!("shape {found:?}"));
    }
    match crc32c::crc32c(bytes) {
        same if same == checksum => Ok((bytes, base)),
        other => mismatch(
            format!("the bytes that the expert was compressed against (checksum {checksum:08x})"),
            format!("others ({other:08x}); is it another base, or of another type?"),
        ),
    }
}

/// The bytes of a tensor that differs from `value` by `scale` at the entries of `packed`: three numbers, so each is converted once.
fn constant(entry: &Entry, value: f32, scale: f32, packed: &Packed) -> Result<Vec<u8>, String> {
    let three = float_bytes(&[value, value + scale, value - scale], entry.info.dtype).expect("only floats are compressed");
    let size = three.len() / 3;
    let [middle, up, down] = [0, 1, 2].map(|i| &three[i * size..][..size]);
    let total = entry.info.num_bytes().unwrap_or(usize::MAX);
    // A file may announce any shape.
    Vec::<u8>::new().try_reserve_exact(total).map_err(|_| format!("{total} bytes do not fit the memory"))?;
    let mut bytes = match value {
        0.0 => vec![0; total],
        _ => middle.repeat(total / size),
    };
    match size {
        2 => place::<2>(&mut bytes, up, down, packed)?,
        4 => place::<4>(&mut bytes, up, down, packed)?,
        _ => place::<8>(&mut bytes, up, down, packed)?,
    }
    Ok(bytes)
}

fn place<const N: usize>(bytes: &mut [u8], up: &[u8], down: &[u8], packed: &Packed) -> Result<(), String> {
    let values: [[u8; N]; 2] = [up, down].map(|number| number.try_into().expect("a number's bytes"));
    let numbers = bytes.as_chunks_mut::<N>().0;
    packed.decode(|at, negative| numbers[at as usize] = values[usize::from(negative)])
}
