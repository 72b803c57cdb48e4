//! Reading and writing what the Python ecosystem reads and writes: safetensors checkpoints, JSON and text.
//!
//! Reading goes through a memory map, so that opening a checkpoint costs its header alone. Writing never shows a half-written
//! file: each one is completed under a temporary name beside its place, synced, and renamed.

mod checkpoint;
mod floats;
mod header;
mod nearest;
mod output_dir;
mod text_files;
mod writer;

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

pub use checkpoint::Checkpoint;
pub use floats::{decode, encode, float_bytes};
pub use header::TensorInfo;
pub use output_dir::OutputDir;
pub use safetensors::Dtype;
pub use text_files::{TextFiles, read_optional};
pub use writer::{Metadata, TensorBytes, TensorSource, pytorch_metadata, tensor_bytes, write_atomic, write_checkpoint, write_safetensors};

/// The name of a checkpoint that is one file.
pub const MODEL_FILE: &str = "model.safetensors";
/// The name of the index of a checkpoint that is split into several files.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// Reads a UTF-8 text file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::File`] with line and column if it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&b| b == b'\n').count() + 1;
        let column = valid.iter().rev().take_while(|&&b| b != b'\n').count() + 1;
        Error::file(path, format!("not UTF-8 text at line {line} column {column}"))
    })
}

/// Reads a JSON file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::File`] with line and column if it is not JSON or does not fit `T`.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&read_text(path)?).map_err(|e| Error::file(path, e))
}
