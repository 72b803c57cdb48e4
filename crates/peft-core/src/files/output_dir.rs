//! A directory of results that appears when it is complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::writer::{parent, sync_dir};
use crate::{Error, Result};

/// A directory that is filled under a temporary name and gets its own with [`commit`](Self::commit).
///
/// The temporary directory lies beside it, is called `.NAME.partial-PID-XXXXXX`, and is removed when this is dropped before
/// `commit`.
#[derive(Debug)]
pub struct OutputDir {
    /// Absolute, so that a change of the working directory in between does no harm.
    target: PathBuf,
    partial: TempDir,
    overwrite: bool,
}

impl OutputDir {
    /// Prepares the directory `path`; creates its parents.
    ///
    /// With `overwrite`, an existing directory is replaced as a whole, but only by `commit`.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if `path` has content and `overwrite` is off; [`Error::File`] if it cannot be replaced (it is a
    /// file, a mount point, or holds the working directory); [`Error::Io`].
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        let target = resolve(path)?;
        if target.exists() {
            check_replaceable(path, &target)?;
            if !overwrite && !is_empty(&target)? {
                return Err(Error::OutputExists(path.into()));
            }
        }
        let dir = parent(&target);
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let partial = sibling(&target, "partial")?;
        Ok(Self { target, partial, overwrite })
    }

    /// Where to write for now.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Where the files will be after [`commit`](Self::commit).
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Puts the directory into its place and returns that.
    ///
    /// # Errors
    /// [`Error::File`]; the files are then kept under their temporary name, which the error gives, and a directory that was to
    /// be replaced is where it was.
    pub fn commit(self) -> Result<PathBuf> {
        let placed = place(self.partial.path(), &self.target, self.overwrite);
        // Either it has moved, or it holds results that may have taken days.
        let kept = self.partial.keep();
        match placed {
            Ok(()) => Ok(self.target),
            Err(reason) => Err(Error::file(&self.target, format!("{reason}; the complete files are in {}", kept.display()))),
        }
    }
}

fn place(partial: &Path, target: &Path, overwrite: bool) -> Result<(), String> {
    let say = |e: Error| e.to_string();
    sync_tree(partial).map_err(say)?;
    if target.exists() {
        if !overwrite && !is_empty(target).map_err(say)? {
            return Err("somebody has put files there meanwhile".into());
        }
        replace(partial, target)?;
    } else {
        fs::rename(partial, target).map_err(|e| e.to_string())?;
    }
    sync_dir(parent(target)).map_err(say)
}

/// Two renames rather than one, because a directory cannot be renamed onto one that has content.
fn replace(partial: &Path, target: &Path) -> Result<(), String> {
    let aside = sibling(target, "replaced").map_err(|e| e.to_string())?;
    let old = aside.path().join("old");
    fs::rename(target, &old).map_err(|e| e.to_string())?;
    if let Err(e) = fs::rename(partial, target) {
        if fs::rename(&old, target).is_err() {
            return Err(format!("{e}; what was there before is in {}", aside.keep().join("old").display()));
        }
        return Err(e.to_string());
    }
    if let Err(e) = aside.close() {
        tracing::warn!("{}: what it replaces could not be removed entirely: {e}", target.display());
    }
    Ok(())
}

/// The directory itself rather than a link to it, since a rename would replace the link.
fn resolve(path: &Path) -> Result<PathBuf> {
    let resolved = if path.exists() { path.canonicalize() } else { std::path::absolute(path) };
    let resolved = resolved.map_err(|e| Error::io(path, e))?;
    match resolved.file_name() {
        Some(_) => Ok(resolved),
        None => Err(Error::file(path, "an output directory needs a name of its own")),
    }
}

fn check_replaceable(path: &Path, target: &Path) -> Result<()> {
    if !target.is_dir() {
        return Err(Error::file(path, "a file, where a directory is to be written"));
    }
    if is_mount_point(target)? {
        return Err(Error::file(path, "a mount point, which cannot be replaced; choose a directory inside it"));
    }
    let inside = std::env::current_dir().and_then(|d| d.canonicalize()).is_ok_and(|d| d.starts_with(target));
    if inside {
        return Err(Error::file(path, "holds the working directory, which cannot be replaced; choose another directory"));
    }
    Ok(())
}

#[cfg(unix)]
fn is_mount_point(dir: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).map_err(|e| Error::io(path, e));
    Ok(device(dir)? != device(parent(dir))?)
}

#[cfg(not(unix))]
fn is_mount_point(_dir: &Path) -> Result<bool> {
    Ok(false)
}

fn is_empty(dir: &Path) -> Result<bool> {
    Ok(fs::read_dir(dir).map_err(|e| Error::io(dir, e))?.next().is_none())
}

/// A new directory beside `target`: on the same file system, so that it can be renamed, and hidden.
fn sibling(target: &Path, purpose: &str) -> Result<TempDir> {
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(format!(".{purpose}-{}-", std::process::id()));
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    // A temporary directory would be private to the user, and stay so when it is renamed.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let dir = parent(target);
    builder.tempdir_in(dir).map_err(|e| Error::io(dir, e))
}

/// Syncs every file below `dir`, also those that others than [`files`](super) have written.
fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(|e| Error::io(dir, e))?);
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            File::open(&path).and_then(|f| f.sync_all()).map_err(|e| Error::io(&path, e))?;
        }
    }
    sync_dir(dir)
}
