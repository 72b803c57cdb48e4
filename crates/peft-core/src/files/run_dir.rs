//! A directory that fills while a run goes on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::manifest::{self, Manifest, is_empty};
use super::output_dir::{recover, refuse_foreign, resolve};
use super::{INDEX_FILE, Inputs, disk};
use crate::{Error, Result};

/// The place of a run that writes file by file, and keeps what it has when it is cut. Files of others in it stay, unless they have the names
/// of files of the run.
///
/// Nobody else writes there until this is dropped. When a run fails before it has anything to keep, what it has written goes away again.
#[derive(Debug)]
pub struct RunDir {
    dir: PathBuf,
    /// What a run writes before it has results.
    preparation: &'static [&'static str],
    /// Files that others have put there.
    foreign: BTreeSet<String>,
    /// Whether there was nothing of worth before.
    is_new: bool,
    /// Whether somebody else has made the directory, who may want to keep it.
    is_given: bool,
    is_finished: bool,
    _lock: Lock,
}

impl RunDir {
    /// Prepares `path` for a run that reads `inputs`, and makes nothing yet. `may_have_content` allows a directory that has some.
    ///
    /// `preparation` names the files that a run writes before it has results, or that are empty until then. Where nothing else is, a run has
    /// failed before it began, which is in nobody's way.
    ///
    /// # Errors
    /// [`Error::OutputExists`] for a directory with content that is not allowed; [`Error::File`] if `path` is, holds or is in an input, is a
    /// file, or is being written by another process; [`Error::Io`].
    pub fn open(path: &Path, may_have_content: bool, preparation: &'static [&'static str], inputs: &Inputs) -> Result<Self> {
        inputs.check_dir(path)?;
        let dir = resolve(path)?;
        if dir.exists() && !dir.is_dir() {
            return Err(Error::file(path, "a file, where a directory is to be written"));
        }
        let lock = Lock::take(&dir)?;
        if lock.is_sure() {
            recover(&dir)?;
            manifest::remove_partial_files(&dir)?;
        }
        let foreign: BTreeSet<String> = if dir.exists() { manifest::foreign(&dir)?.into_iter().collect() } else { BTreeSet::new() };
        let is_new = !dir.exists() || is_empty(&dir)? || foreign.is_empty() && !has_results(&dir, preparation);
        if !is_new && !may_have_content {
            return Err(Error::OutputExists(path.into()));
        }
        let is_given = dir.exists() && !Manifest::is_in(&dir);
        Ok(Self { dir, preparation, foreign, is_new, is_given, is_finished: false, _lock: lock })
    }

    /// That none of `directories`, such as `checkpoints/`, which the run removes with what is in them, holds files of others.
    ///
    /// # Errors
    /// [`Error::File`] that names the files.
    pub fn check_own(&self, directories: &[&str]) -> Result<()> {
        let is_in = |file: &&String| directories.iter().any(|dir| file.starts_with(dir));
        refuse_foreign(&self.dir, &self.foreign.iter().filter(is_in).cloned().collect::<Vec<_>>())
    }

    /// That no weights of others are in the way of whole weights: a checkpoint in several files and another in one would stand side by side.
    ///
    /// # Errors
    /// [`Error::File`] that names them.
    pub fn check_weights(&self) -> Result<()> {
        let is_of_several = |file: &&String| **file == INDEX_FILE || file.starts_with("model-") && file.ends_with(".safetensors");
        let Some(file) = self.foreign.iter().find(is_of_several) else { return Ok(()) };
        let reason = format!(
            "holds weights of another checkpoint, such as {file}, which would lie beside those of this run; choose another \
                              directory, or move them away"
        );
        Err(Error::file(&self.dir, reason))
    }

    /// Makes the directory. `files` are those that the run may write, so that they are known as its own if it is cut; `NAME/` stands for all
    /// files in a directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(&self, files: &[&str]) -> Result<()> {
        disk::create_dir_all(&self.dir)?;
        let known = manifest::files(&self.dir)?.into_iter().chain(files.iter().map(|file| (*file).to_owned()));
        self.list(known)
    }

    /// The run has what it is to keep: its results, or a checkpoint to go on from.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<()> {
        self.is_finished = true;
        self.list(manifest::files(&self.dir)?)
    }

    fn list(&self, files: impl IntoIterator<Item = String>) -> Result<()> {
        Manifest::of(files.into_iter().filter(|file| !self.foreign.contains(file))).write(&self.dir)
    }

    fn clean(&self) -> Result<()> {
        if !self.is_given {
            return disk::remove_dir_all(&self.dir);
        }
        manifest::files(&self.dir)?.iter().try_for_each(|file| disk::remove_file(&self.dir.join(file)))?;
        Manifest::remove(&self.dir)
    }
}

/// Whether there is more than a run that has not begun leaves.
fn has_results(dir: &Path, preparation: &[&str]) -> bool {
    let is_result = |file: &String| {
        let is_empty = || fs::metadata(dir.join(file)).is_ok_and(|metadata| metadata.len() == 0);
        !preparation.contains(&file.as_str()) && !is_empty()
    };
    manifest::files(dir).map_or(true, |files| files.iter().any(is_result))
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.is_finished || !self.is_new || !self.dir.exists() || has_results(&self.dir, self.preparation) {
            return;
        }
        if let Err(e) = self.clean() {
            tracing::warn!("{}: what the failed start has left could not be removed: {e}", self.dir.display());
        }
    }
}
