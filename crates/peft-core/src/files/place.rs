//! Where a path leads, whether or not there is something yet.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// The absolute path without links that `path` leads to. What does not exist yet is taken by its name, in the directory in which it would be
/// made; a link that leads nowhere stands for what it names.
///
/// # Errors
/// [`Error::File`] for links in a circle; [`Error::Io`] if the working directory is gone or a directory on the way may not be read.
pub(super) fn follow(path: &Path) -> Result<PathBuf> {
    const LINKS: usize = 40;
    let mut path = std::path::absolute(path).map_err(|e| Error::io(path, e))?;
    for _ in 0..LINKS {
        if let Ok(resolved) = path.canonicalize() {
            return Ok(resolved);
        }
        let resolved = from_existing(&path);
        match fs::read_link(&resolved) {
            Ok(target) => path = super::parent(&resolved).join(target),
            Err(_) => return Ok(resolved),
        }
    }
    Err(Error::file(path, "links that lead to each other in a circle"))
}

/// The longest part of an absolute path that exists, without links, and the rest by its names.
fn from_existing(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            Component::CurDir => {}
            other => resolved.push(other),
        }
        if let Ok(known) = resolved.canonicalize() {
            resolved = known;
        }
    }
    resolved
}
