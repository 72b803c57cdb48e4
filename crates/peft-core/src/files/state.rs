//! What tells that files have changed, without reading them.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::{Error, Result};

/// The place of a file, or of the files in a directory, with their sizes and times, as text: it differs when one of them was written or
/// replaced, also by one of the same size and date.
///
/// # Errors
/// [`Error::Io`].
pub fn state_of(path: &Path) -> Result<String> {
    let io = |e| Error::io(path, e);
    let mut paths = vec![path.to_path_buf()];
    if path.is_dir() {
        paths = fs::read_dir(path).map_err(io)?.map(|entry| Ok(entry.map_err(io)?.path())).collect::<Result<_>>()?;
    }
    // Neither hidden files, such as locks, nor what an estimate of Fisher information leaves in a model's directory is read.
    let is_read = |path: &PathBuf| {
        path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")) && path.extension() != Some("partial".as_ref())
    };
    paths.retain(is_read);
    paths.sort();
    let lines = paths.iter().map(line).collect::<Result<Vec<_>>>()?;
    let place = path.canonicalize().map_err(io)?;
    Ok(format!("{}\n{}", place.display(), lines.concat()))
}

/// Links are followed: what they lead to is read.
fn line(path: &PathBuf) -> Result<String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(String::new()),
        // A link that leads nowhere is nothing that is read.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(Error::io(path, e)),
    };
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_nanos());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("{name} {} {modified}{}\n", metadata.len(), identity(&metadata)))
}

/// Which file it is, and when it was last written or renamed, which no program can set back.
#[cfg(unix)]
fn identity(metadata: &Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    format!(" {} {} {}.{:09}", metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn identity(_metadata: &Metadata) -> String {
    String::new()
}
