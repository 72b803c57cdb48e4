//! Reading and writing what the Python ecosystem reads and writes: safetensors checkpoints, JSON and text.
//!
//! Reading goes through a memory map, so that opening a checkpoint costs its header alone. Writing never shows a half-written
//! file: each one is completed under a temporary name beside its place, synced, and renamed. A command that writes a result prepares its
//! place first, with what it reads: an [`OutputDir`], an [`OutputFile`], or a [`RunDir`] that is filled as a run goes on.

mod checkpoint;
mod checkpoint_files;
mod destination;
pub mod disk;
mod fault;
mod finite;
mod floats;
mod header;
mod inputs;
mod lock;
mod manifest;
mod nearest;
mod output_dir;
mod output_file;
mod place;
mod run_dir;
mod state;
mod text_files;
mod writer;
mod yaml;

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

pub use checkpoint::Checkpoint;
pub use checkpoint_files::{copy_checkpoint_files, copy_model_files, copy_tokenizer_settings, copy_vocabularies};
pub use finite::{all_finite, are_finite};
pub use floats::{decode, encode, float_bytes};
pub use header::TensorInfo;
pub use inputs::Inputs;
pub use lock::Lock;
pub use nearest::nearest;
pub use output_dir::{OutputDir, WORKSHOP_FILE};
pub use output_file::OutputFile;
pub use run_dir::RunDir;
pub use safetensors::Dtype;
pub use state::state_of;
pub use text_files::{TextFiles, read_optional};
pub use writer::{Metadata, TensorBytes, TensorSource, pytorch_metadata, tensor_bytes, write_atomic, write_checkpoint, write_safetensors};
pub use yaml::{parse_yaml, read_yaml};

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

/// The directory that holds `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}
