//! Merges that are models of the merge after them.

use peft_core::files::{INDEX_FILE, MODEL_FILE};
use peft_core::{Error, Result};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Held as long as the directory is in use.
const LOCK_FILE: &str = ".lock";

/// The results of the earlier documents of a recipe, in a directory beside the result that is removed with this.
#[derive(Debug, Default)]
pub struct Parts {
    /// Where each result is, by its name.
    pub done: BTreeMap<String, PathBuf>,
    dir: Option<(TempDir, File)>,
}

impl Parts {
    /// Where the result `name` is to be written, for a merge that ends in `out`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn place(&mut self, out: &Path, name: &str) -> Result<PathBuf> {
        if self.dir.is_none() {
            self.dir = Some(create(out)?);
        }
        let (dir, _) = self.dir.as_ref().expect("just made");
        Ok(dir.path().join(name))
    }
}

/// A new directory of parts beside `out`. Those of runs that were killed are removed.
fn create(out: &Path) -> Result<(TempDir, File)> {
    let absolute = std::path::absolute(out).map_err(|e| Error::io(out, e))?;
    let (parent, name) = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => (parent, name.to_string_lossy().into_owned()),
        _ => return Err(Error::file(out, "an output directory needs a name of its own")),
    };
    fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    let prefix = format!(".{name}.parts-");
    for entry in fs::read_dir(parent).map_err(|e| Error::io(parent, e))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            remove_abandoned(&entry.path());
        }
    }
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).map_err(|e| Error::io(parent, e))?;
    let lock = File::create(dir.path().join(LOCK_FILE)).map_err(|e| Error::io(dir.path(), e))?;
    // A file system without locks keeps what killed runs leave.
    lock.try_lock().ok();
    Ok((dir, lock))
}

/// Removes a directory of parts that no run uses.
fn remove_abandoned(dir: &Path) {
    let free = File::open(dir.join(LOCK_FILE)).is_ok_and(|lock| lock.try_lock().is_ok());
    // Nothing but merges of this program has these names in it.
    let ours = fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.all(|entry| {
            let Ok(entry) = entry else { return false };
            let path = entry.path();
            let unfinished = entry.file_name().to_string_lossy().starts_with('.');
            unfinished || [MODEL_FILE, INDEX_FILE].iter().any(|name| path.join(name).is_file())
        })
    });
    if free && ours {
        tracing::info!("removing {}, which a run that was killed has left", dir.display());
        fs::remove_dir_all(dir).ok();
    }
}
