//! What a path names, to which a file is to be written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::place::follow;
use crate::{Error, Result};

/// Where the bytes of a file go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// A file of this name appears when it is complete, in place of one that is there.
    File(PathBuf),
    /// A device, a pipe, or what this process has open already: written to as it is.
    Stream(PathBuf),
}

impl Destination {
    /// What `path` leads to. A link is followed, so that it stays a link.
    ///
    /// # Errors
    /// [`Error::File`] for what no file can be written to: a directory, a disk, a socket, links in a circle; [`Error::Io`].
    pub fn of(path: &Path) -> Result<Self> {
        if is_open_file(path) {
            return Ok(Self::Stream(path.into()));
        }
        let place = follow(path)?;
        let kind = match fs::symlink_metadata(&place) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::File(place)),
            metadata => metadata.map_err(|e| Error::io(path, e))?.file_type(),
        };
        if kind.is_file() {
            return Ok(Self::File(place));
        }
        if kind.is_dir() {
            return Err(Error::file(path, "a directory, where a file is to be written; give the name of a file in it"));
        }
        match is_stream(kind) {
            true => Ok(Self::Stream(place)),
            false => Err(Error::file(path, "neither a file nor a device or pipe that can be written to; choose another name")),
        }
    }
}

#[cfg(unix)]
fn is_stream(kind: fs::FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    kind.is_char_device() || kind.is_fifo()
}

#[cfg(not(unix))]
fn is_stream(_kind: fs::FileType) -> bool {
    false
}

/// Whether the path leads to a file that a process has open, such as /dev/stdout and /dev/fd/3: what it is called does not say where it is.
fn is_open_file(path: &Path) -> bool {
    const LINKS: usize = 40;
    let mut path = path.to_path_buf();
    for _ in 0..LINKS {
        let parent = super::parent(&path).canonicalize().unwrap_or_default();
        if parent.starts_with("/proc") && parent.ends_with("fd") {
            return true;
        }
        match fs::read_link(&path) {
            Ok(target) => path = parent.join(target),
            Err(_) => return false,
        }
    }
    false
}
