//! Which files of a directory this program has written, and which are somebody else's.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::disk;
use super::lock::{is_lock, refuse_held};
use super::output_dir::is_hidden_work;
use super::writer::write_atomic;
use crate::{Error, Result};

/// The file in an output that lists what was written there: a path in each line, and a directory with a `/` behind it stands for all in it.
const FILE: &str = ".peft-files";
const HEAD: &str = "# The files here that peft has written. With --overwrite it replaces these, and refuses where there are others.\n";

/// The files that were written into one directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Manifest(BTreeSet<String>);

impl Manifest {
    /// The list in `dir`; empty if there is none.
    pub fn read(dir: &Path) -> Self {
        let text = fs::read_to_string(dir.join(FILE)).unwrap_or_default();
        Self(text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(String::from).collect())
    }

    /// Whether `dir` has a list.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(FILE).is_file()
    }

    /// Removes the list from `dir`.
    pub fn remove(dir: &Path) -> Result<()> {
        disk::remove_file(&dir.join(FILE))
    }

    /// Files of these names.
    pub fn of(files: impl IntoIterator<Item = String>) -> Self {
        Self(files.into_iter().collect())
    }

    /// Writes the list into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let lines: String = self.0.iter().map(|file| format!("{file}\n")).collect();
        write_atomic(&dir.join(FILE), format!("{HEAD}{lines}").as_bytes())
    }

    fn has(&self, file: &str) -> bool {
        self.0.contains(file) || file.match_indices('/').any(|(end, _)| self.0.contains(&file[..=end]))
    }
}

/// Whether a file of this name is what the program notes about an output.
pub(super) fn is_of_an_output(name: &str) -> bool {
    name == FILE || is_lock(name.as_ref())
}

/// The files below `dir` by their paths from there, without the list and what writing leaves for a while. What cannot be written as text is
/// approximated.
pub(super) fn files(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    walk(dir, "", &mut |_, file| {
        found.push(file.to_owned());
        Ok(())
    })?;
    Ok(found)
}

/// The files below `dir` that this program has not written.
///
/// # Errors
/// [`Error::File`] if another process is writing something there; [`Error::Io`].
pub(super) fn foreign(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    collect_foreign(dir, "", &mut found)?;
    Ok(found)
}

/// The directories that have lists of their own stand for themselves: a run in the directory of a quickstart.
fn collect_foreign(dir: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
    let manifest = Manifest::read(dir);
    let (mut others, mut inner) = (Vec::new(), Vec::new());
    walk(dir, "", &mut |path, file| {
        if !manifest.has(file) {
            // The innermost directory with a list decides.
            let owner = path.ancestors().skip(1).take_while(|above| *above != dir).find(|above| Manifest::is_in(above));
            match owner {
                Some(owner) => inner.push(owner.to_path_buf()),
                None => others.push(file.to_owned()),
            }
        }
        Ok(())
    })?;
    found.extend(others.into_iter().map(|file| format!("{prefix}{file}")));
    inner.dedup();
    inner.into_iter().try_for_each(|owner| {
        let name = owner.strip_prefix(dir).unwrap_or(&owner).to_string_lossy().into_owned();
        collect_foreign(&owner, &format!("{prefix}{name}/"), found)
    })
}

/// Visits all that is no directory below `dir`, and does not follow links.
fn walk(dir: &Path, prefix: &str, visit: &mut dyn FnMut(&Path, &str) -> Result<()>) -> Result<()> {
    let mut entries = fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>()).map_err(|e| Error::io(dir, e))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        if is_lock(&name) {
            refuse_held(&path, dir)?;
        } else if name != FILE && !is_hidden_work(&name) {
            let file = format!("{prefix}{}", name.to_string_lossy());
            let is_dir = entry.file_type().map_err(|e| Error::io(&path, e))?.is_dir();
            // What is in a directory that may not be read is somebody's, whatever it is.
            match is_dir && fs::read_dir(&path).is_ok() {
                true => walk(&path, &format!("{file}/"), visit)?,
                false => visit(&path, &file)?,
            }
        }
    }
    Ok(())
}

/// Whether nothing is in `dir` but what writing leaves for a while.
pub(super) fn is_empty(dir: &Path) -> Result<bool> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>()).map_err(|e| Error::io(dir, e))?;
    Ok(entries.iter().map(fs::DirEntry::file_name).all(|name| name == FILE || is_lock(&name) || is_hidden_work(&name)))
}

/// Removes files that were being written directly in `dir` when a process was killed.
pub(super) fn remove_partial_files(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let partial = entries.filter(|entry| is_hidden_work(&entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_file()));
    partial.into_iter().try_for_each(|entry| disk::remove_file(&entry.path()))
}
