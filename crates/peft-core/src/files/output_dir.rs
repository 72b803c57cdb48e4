//! A directory of results that appears when it is complete.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::lock::Lock;
use super::manifest::{self, Manifest, is_empty};
use super::place::follow;
use super::{INDEX_FILE, Inputs, disk, parent};
use crate::{Error, Result};

/// What is being written, is called `.NAME.partial-PID-XXXXXX` beside its place.
const PARTIAL: &str = "partial";
/// What is being replaced, where it cannot be in one step.
const REPLACED: &str = "replaced";
/// What says whose files wait in the workshop of a result, the directory `.NAME.merging` beside it.
pub const WORKSHOP_FILE: &str = "merge.json";

/// A directory that is filled under a temporary name and gets its own with [`commit`](Self::commit).
///
/// The temporary directory lies beside it, is called `.NAME.partial-PID-XXXXXX`, and is removed when this is dropped before `commit`. What a
/// process that was killed has left of the kind is removed, and a result that it was about to replace is put back. Until this is dropped
/// nobody else can write to the same place.
#[derive(Debug)]
pub struct OutputDir {
    /// Absolute, so that a change of the working directory in between does no harm.
    target: PathBuf,
    partial: TempDir,
    overwrite: bool,
    /// Nothing for a directory inside an output, which that one guards.
    lock: Option<Arc<Lock>>,
}

impl OutputDir {
    /// Prepares the directory `path`, made from `inputs`; creates its parents.
    ///
    /// With `overwrite`, an existing directory is replaced as a whole, but only by `commit`, and only if all its files were written by this
    /// program: every output has a list of its files in it, `.peft-files`.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if `path` has content and `overwrite` is off; [`Error::File`] if `path` is, holds or is in an input, has
    /// files that others have written, cannot be replaced (it is a file, a mount point, or holds the working directory), or is being written
    /// by another process; [`Error::Io`].
    pub fn create(path: &Path, overwrite: bool, inputs: &Inputs) -> Result<Self> {
        inputs.check_dir(path)?;
        let target = resolve(path)?;
        if target.exists() {
            check_replaceable(path, &target)?;
        }
        let lock = Lock::take(&target)?;
        if lock.is_sure() {
            recover(&target)?;
        }
        if target.exists() && !is_empty(&target)? {
            if !overwrite {
                return Err(Error::OutputExists(path.into()));
            }
            refuse_foreign(path, &manifest::foreign(&target)?)?;
        }
        let partial = sibling(&target, PARTIAL)?;
        Ok(Self { target, partial, overwrite, lock: Some(Arc::new(lock)) })
    }

    /// Prepares a directory inside an output that this process writes, replacing what is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn inside(path: &Path) -> Result<Self> {
        let target = resolve(path)?;
        disk::create_dir_all(parent(&target))?;
        recover(&target)?;
        let partial = sibling(&target, PARTIAL)?;
        Ok(Self { target, partial, overwrite: true, lock: None })
    }

    /// Where to write for now.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Where the files will be after [`commit`](Self::commit).
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where complete files may wait for the others, for a later run to go on with: `.NAME.merging` beside the place. One without any is
    /// removed by the next command that is given the place.
    pub fn workshop(&self) -> PathBuf {
        workshop(&self.target)
    }

    /// Keeps others from writing to the place after [`commit`](Self::commit) too, for as long as what is returned lives.
    pub fn lock(&self) -> Option<Arc<Lock>> {
        self.lock.clone()
    }

    /// Puts the directory into its place and returns that.
    ///
    /// # Errors
    /// [`Error::File`]; a directory that was to be replaced is then where it was. The files of an output, which [`create`](Self::create) has
    /// prepared, are kept under another name, which the error gives.
    pub fn commit(self) -> Result<PathBuf> {
        let Self { target, partial, overwrite, lock } = self;
        let placed = place(partial.path(), &target, overwrite, lock.is_some());
        match (placed, lock) {
            (Ok(()), _) => {
                // It has moved.
                let _ = partial.keep();
                Ok(target)
            }
            // They may have taken days.
            (Err(reason), Some(_)) if partial.path().exists() => {
                Err(Error::file(&target, format!("{reason}; the complete files are in {}", keep(partial.keep()).display())))
            }
            // What is inside an output can be made again from what else is there.
            (Err(reason), _) => Err(Error::file(&target, reason)),
        }
    }
}

/// Results that could not be put into their place get a name that no later run removes.
fn keep(partial: PathBuf) -> PathBuf {
    let name = partial.file_name().unwrap_or_default().to_string_lossy().replacen(&format!(".{PARTIAL}-"), ".complete-", 1);
    let complete = partial.with_file_name(name);
    match fs::rename(&partial, &complete) {
        Ok(()) => complete,
        Err(_) => partial,
    }
}

fn place(partial: &Path, target: &Path, overwrite: bool, listed: bool) -> Result<(), String> {
    let say = |e: Error| e.to_string();
    if listed {
        Manifest::of(manifest::files(partial).map_err(say)?).write(partial).map_err(say)?;
    }
    sync_tree(partial).map_err(say)?;
    if target.exists() {
        let is_free = is_empty(target).map_err(say)? || overwrite && (!listed || manifest::foreign(target).map_err(say)?.is_empty());
        if !is_free {
            return Err("somebody has put files there meanwhile".into());
        }
        replace(partial, target)?;
    } else {
        disk::rename(partial, target).map_err(say)?;
    }
    disk::sync_dir(parent(target)).map_err(say)
}

/// Swaps the directories and removes the old one.
fn replace(partial: &Path, target: &Path) -> Result<(), String> {
    let old = match disk::exchange(partial, target) {
        Ok(()) => partial.to_path_buf(),
        Err(e) if e.kind() == io::ErrorKind::Unsupported => replace_in_two_steps(partial, target)?,
        Err(e) => return Err(e.to_string()),
    };
    if let Err(e) = disk::remove_dir_all(&old) {
        tracing::warn!("{}: what it replaces could not be removed entirely, and is in {}: {e}", target.display(), old.display());
    }
    Ok(())
}

/// A directory cannot be renamed onto one that has content. Gives where the old one is.
fn replace_in_two_steps(partial: &Path, target: &Path) -> Result<PathBuf, String> {
    let aside = sibling(target, REPLACED).map_err(|e| e.to_string())?.keep();
    let old = aside.join("old");
    let moved = disk::rename(target, &old).and_then(|()| disk::rename(partial, target));
    if let Err(e) = moved {
        if old.exists() && disk::rename(&old, target).is_err() {
            return Err(format!("{e}; what was there before is in {}", old.display()));
        }
        let _ = fs::remove_dir(&aside);
        return Err(e.to_string());
    }
    Ok(aside)
}

/// Cleans up after processes that have ended: removes what was being written, and puts back what was being replaced. Only for whoever has the
/// lock of the place.
pub(super) fn recover(target: &Path) -> Result<()> {
    let dir = parent(target);
    let name = target.file_name().unwrap_or_default();
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_of = |purpose: &str| path.file_name().is_some_and(|file| is_work_on(file, name, purpose));
        if is_of(REPLACED) && path.join("old").exists() && !target.exists() {
            disk::rename(&path.join("old"), target)?;
        }
        if is_of(REPLACED) || is_of(PARTIAL) {
            match path.is_dir() && !path.is_symlink() {
                true => disk::remove_dir_all(&path)?,
                false => disk::remove_file(&path)?,
            }
        }
    }
    let workshop = workshop(target);
    match is_idle(&workshop) && !workshop.is_symlink() {
        true => disk::remove_dir_all(&workshop),
        false => Ok(()),
    }
}

fn workshop(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".merging");
    target.with_file_name(name)
}

/// Whether a workshop has no complete file, as after a run whose result is in its place.
fn is_idle(workshop: &Path) -> bool {
    let Ok(entries) = fs::read_dir(workshop) else { return false };
    let is_kept = |name: &OsStr| name != WORKSHOP_FILE && name != INDEX_FILE && !is_hidden_work(name);
    !entries.flatten().any(|entry| is_kept(&entry.file_name()))
}

/// Whether `file` is called as something temporary beside `name`: `.NAME.PURPOSE-PID-XXXXXX`.
fn is_work_on(file: &OsStr, name: &OsStr, purpose: &str) -> bool {
    let rest = file.to_string_lossy();
    let rest = rest.strip_prefix('.').and_then(|rest| rest.strip_prefix(&*name.to_string_lossy()));
    rest.and_then(|rest| rest.strip_prefix(&format!(".{purpose}-"))).is_some_and(is_number_and_letters)
}

/// Whether a file is called as something temporary beside anything.
pub(super) fn is_hidden_work(file: &OsStr) -> bool {
    let name = file.to_string_lossy();
    let tail = [PARTIAL, REPLACED].iter().find_map(|purpose| name.rsplit_once(&format!(".{purpose}-")));
    name.starts_with('.') && tail.is_some_and(|(_, tail)| is_number_and_letters(tail))
}

fn is_number_and_letters(tail: &str) -> bool {
    let Some((pid, random)) = tail.split_once('-') else { return false };
    !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) && random.len() == 6 && random.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// The directory itself rather than a link to it, since a rename would replace the link.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    let resolved = follow(path)?;
    match resolved.file_name() {
        Some(_) => Ok(resolved),
        None => Err(Error::file(path, "an output directory needs a name of its own")),
    }
}

/// Files of others are not removed.
pub(super) fn refuse_foreign(path: &Path, foreign: &[String]) -> Result<()> {
    const NAMED: usize = 3;
    if foreign.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = foreign.iter().take(NAMED).map(|file| file.escape_debug().to_string()).collect();
    let more = if foreign.len() > NAMED { format!(" and {} more", foreign.len() - NAMED) } else { String::new() };
    let reason = format!(
        "holds files that peft has not written there ({}{more}), which --overwrite would remove; move or remove them, or choose another \
         directory",
        named.join(", ")
    );
    Err(Error::file(path, reason))
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

/// A new directory beside `target`: on the same file system, so that it can be renamed, and hidden.
fn sibling(target: &Path, purpose: &str) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let prefix = prefix(target, purpose);
    builder.prefix(&prefix);
    // A temporary directory would be private to the user, and stay so when it is renamed.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let dir = parent(target);
    disk::made(dir, || builder.tempdir_in(dir))
}

/// How what is temporary beside `target` begins.
pub(super) fn prefix(target: &Path, purpose: &str) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(format!(".{purpose}-{}-", std::process::id()));
    prefix
}

/// Syncs every file below `dir`, also those that others than [`files`](super) have written.
fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(|e| Error::io(dir, e))?);
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
            disk::sync(&file, &path)?;
        }
    }
    disk::sync_dir(dir)
}
