//! Every change of the file system that writers of results make, each with the path in its error.
//!
//! All writers go through here and not to [`std::fs`], so that a test can let any of their changes fail, or end the process there: see
//! `PEFT_FAULT` in the book's page for developers.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::fault::{Change, pass, pass_with};
use crate::{Error, Result};

/// Makes a directory and its parents.
///
/// # Errors
/// [`Error::Io`].
pub fn create_dir_all(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    pass("create directory", dir, Change::Make).and_then(|()| fs::create_dir_all(dir)).map_err(|e| Error::io(dir, e))
}

/// Gives a file or directory another name; what has that name already is replaced, unless it is a directory with content.
///
/// # Errors
/// [`Error::Io`].
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    pass("rename", to, Change::Make).and_then(|()| fs::rename(from, to)).map_err(|e| Error::io(to, e))
}

/// Swaps two names in one step, so that there is no moment at which one of them is missing.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] where the system or file system has no such step.
pub(super) fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    pass("exchange", b, Change::Make)?;
    exchange_names(a, b)
}

#[cfg(target_os = "linux")]
fn exchange_names(a: &Path, b: &Path) -> io::Result<()> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (a, b) = (name(a)?, name(b)?);
    // SAFETY: both names end with a zero byte and live until the call returns.
    let failed =
        unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE) };
    match (failed, io::Error::last_os_error()) {
        (0, _) => Ok(()),
        (_, e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Err(io::ErrorKind::Unsupported.into()),
        (_, e) => Err(e),
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange_names(_a: &Path, _b: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Removes a file or a link; one that does not exist is no error.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_file(path: &Path) -> Result<()> {
    match pass("remove", path, Change::Remove).and_then(|()| fs::remove_file(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}

/// Removes a directory with what is in it, without following links; one that does not exist is no error.
///
/// # Errors
/// [`Error::Io`]; what came before the error is gone.
pub fn remove_dir_all(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Error::io(dir, e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        match entry.file_type().map_err(|e| Error::io(entry.path(), e))?.is_dir() {
            true => remove_dir_all(&entry.path())?,
            false => remove_file(&entry.path())?,
        }
    }
    pass("remove directory", dir, Change::Remove).and_then(|()| fs::remove_dir(dir)).map_err(|e| Error::io(dir, e))
}

/// Gives a complete file its name.
pub(super) fn persist(file: NamedTempFile, to: &Path) -> Result<()> {
    pass("rename", to, Change::Make).and_then(|()| Ok(file.persist(to)?)).map(drop).map_err(|e| Error::io(to, e))
}

/// Lets a file's content last through a power failure.
pub(super) fn sync(file: &File, path: &Path) -> Result<()> {
    pass("sync", path, Change::Make).and_then(|()| file.sync_all()).map_err(|e| Error::io(path, e))
}

/// Lets the names in a directory last through a power failure.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_dir(dir: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match pass("sync directory", dir, Change::Make).and_then(|()| File::open(dir)).and_then(|d| d.sync_all()) {
        // Some network file systems cannot sync a directory; the rename has happened all the same.
        Err(e) if !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Err(Error::io(dir, e)),
        _ => Ok(()),
    }
}

/// A writer of which each write may fail.
pub(super) struct Writer<'a, W> {
    pub out: W,
    pub path: &'a Path,
    /// How many bytes were written.
    pub bytes: u64,
}

impl<W: Write> Write for Writer<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let out = &mut self.out;
        pass_with("write", self.path, Change::Make, || drop(out.write(&bytes[..bytes.len() / 2])))?;
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What `make` makes in the directory `dir` under a name of its own choice.
pub(super) fn made<T>(dir: &Path, make: impl FnOnce() -> io::Result<T>) -> Result<T> {
    pass("create in", dir, Change::Make).and_then(|()| make()).map_err(|e| Error::io(dir, e))
}
