//! One file as the result of a command.

use std::path::{Path, PathBuf};

use super::destination::Destination;
use super::lock::Lock;
use super::output_dir::recover;
use super::{Inputs, disk};
use crate::{Error, Result};

/// The place of a file that a command writes: free of inputs, and nobody else's until this is dropped.
///
/// The file itself is written by [`write_atomic`](super::write_atomic) or [`write_safetensors`](super::write_safetensors) to
/// [`path`](Self::path).
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    is_stream: bool,
    /// Nothing for a device or a pipe.
    _lock: Option<Lock>,
}

impl OutputFile {
    /// Prepares the file `path`, made from `inputs`.
    ///
    /// # Errors
    /// [`Error::File`] if there is a file and `overwrite` is off, or if `path` is an input or a file of one, is nothing that a file can be
    /// written to, or is being written by another process; [`Error::Io`].
    pub fn create(path: &Path, overwrite: bool, inputs: &Inputs) -> Result<Self> {
        inputs.check_file(path)?;
        let lock = match Destination::of(path)? {
            Destination::Stream(_) => None,
            Destination::File(target) => {
                if target.exists() && !overwrite {
                    return Err(Error::file(path, "exists already; choose another name or pass --overwrite"));
                }
                let lock = Lock::take(&target)?;
                if lock.is_sure() {
                    recover(&target)?;
                }
                Some(lock)
            }
        };
        Ok(Self { path: path.into(), is_stream: lock.is_none(), _lock: lock })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a device or a pipe, beside which nothing can be kept.
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Where something that belongs to the file is kept until it is complete; nowhere for a device or a pipe.
    pub fn beside(&self, suffix: &str) -> Option<PathBuf> {
        (!self.is_stream).then(|| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(suffix);
            name.into()
        })
    }

    /// Removes what [`beside`](Self::beside) named.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn forget(&self, suffix: &str) -> Result<()> {
        self.beside(suffix).map_or(Ok(()), |file| disk::remove_file(&file))
    }
}
