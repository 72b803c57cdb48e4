//! What a command reads, which its output must not harm.

use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoint_files::{CONFIG as MODEL_CONFIG, is_part_of_a_model};
use super::destination::Destination;
use super::manifest::is_of_an_output;
use super::place::follow;
use crate::{CONFIG_FILE, Error, Result};

/// The files and directories from which a command makes its output.
#[derive(Clone, Debug, Default)]
pub struct Inputs(Vec<Input>);

#[derive(Clone, Debug)]
struct Input {
    /// What the command takes it for, such as "the base model".
    what: String,
    path: PathBuf,
}

/// How an output and an input are placed to each other.
enum Conflict {
    Same,
    InputInside,
    OutputInside,
}

impl Inputs {
    /// No inputs.
    pub fn none() -> Self {
        Self::default()
    }

    /// These, and the file or directory `path`, which messages call `what`.
    #[must_use]
    pub fn and(mut self, what: impl Into<String>, path: impl AsRef<Path>) -> Self {
        self.0.push(Input { what: what.into(), path: path.as_ref().into() });
        self
    }

    /// These, and `path`, which the command line or a recipe calls `name`: a path, or a hub id.
    #[must_use]
    pub fn and_named(self, what: &str, name: &str, path: impl AsRef<Path>) -> Self {
        let is_path = Path::new(name) == path.as_ref();
        self.and(if is_path { what.into() } else { format!("{what} ({name})") }, path)
    }

    /// These, and `path` if there is one.
    #[must_use]
    pub fn and_maybe(self, what: impl Into<String>, path: Option<impl AsRef<Path>>) -> Self {
        match path {
            Some(path) => self.and(what, path),
            None => self,
        }
    }

    /// That a directory can be written at `out` without harm to an input, links followed: it is none, holds none, and is in none.
    ///
    /// # Errors
    /// [`Error::File`] that names both; [`Error::Io`].
    pub fn check_dir(&self, out: &Path) -> Result<()> {
        let target = follow(out)?;
        for input in &self.0 {
            for (index, place) in input.places()?.iter().enumerate() {
                let holds = |outer: &Path, inner: &Path| inner.ancestors().skip(1).any(|above| is_same(above, outer));
                let conflict = match () {
                    () if is_same(&target, place) => Conflict::Same,
                    () if holds(&target, place) => Conflict::InputInside,
                    // A link in an input may lead to a directory that holds much else.
                    () if index == 0 && holds(place, &target) => Conflict::OutputInside,
                    () => continue,
                };
                return Err(input.refusal(out, &conflict));
            }
        }
        Ok(())
    }

    /// That a file can be written at `out` without harm to an input, links followed: it is none, and none of the files of a model, adapter or
    /// other directory that is one. A file that makes a model or adapter elsewhere is not replaced either.
    ///
    /// # Errors
    /// [`Error::File`] that names both, or says why no file can be written there; [`Error::Io`].
    pub fn check_file(&self, out: &Path) -> Result<()> {
        let target = match Destination::of(out)? {
            Destination::File(target) | Destination::Stream(target) => target,
        };
        refuse_part_of_a_model(out, &target)?;
        for input in &self.0 {
            let places = input.places()?;
            if places.contains(&target) {
                return Err(input.refusal(out, &Conflict::Same));
            }
            let inside = places.iter().find(|place| target.parent() == Some(place));
            if let (Some(dir), Some(name)) = (inside, target.file_name().and_then(|name| name.to_str()))
                && is_part_of_a_model(dir, name)
            {
                return Err(input.refusal(out, &Conflict::OutputInside));
            }
        }
        Ok(())
    }
}

/// In the directory of a model or an adapter no command writes a single file of these names, so that one which is there is something else.
fn refuse_part_of_a_model(out: &Path, target: &Path) -> Result<()> {
    let (Some(dir), Some(name)) = (target.parent(), target.file_name().and_then(|name| name.to_str())) else { return Ok(()) };
    let is_model = [MODEL_CONFIG, CONFIG_FILE].iter().any(|config| dir.join(config).is_file());
    match target.is_file() && (is_model && is_part_of_a_model(dir, name) || is_of_an_output(name)) {
        true => Err(Error::file(out, "is there already as a file of a model, an adapter or another output; choose another name")),
        false => Ok(()),
    }
}

/// Whether two paths without links name the same: a directory can be mounted at two places, and be written in two cases.
#[cfg(unix)]
fn is_same(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |path: &Path| fs::symlink_metadata(path).ok().filter(fs::Metadata::is_dir).map(|metadata| (metadata.dev(), metadata.ino()));
    a == b || place(a).is_some_and(|a| place(b) == Some(a))
}

#[cfg(not(unix))]
fn is_same(a: &Path, b: &Path) -> bool {
    a == b
}

impl Input {
    /// Where it lies, without links: itself, and what the links in a directory lead to.
    fn places(&self) -> Result<Vec<PathBuf>> {
        let place = follow(&self.path)?;
        let links = fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_symlink());
        let mut places = links.map(|link| follow(&link)).collect::<Result<Vec<_>>>()?;
        places.insert(0, place);
        Ok(places)
    }

    fn refusal(&self, out: &Path, conflict: &Conflict) -> Error {
        let (what, path) = (&self.what, self.path.display());
        let reason = match conflict {
            Conflict::Same => format!("is {what}, {path}, or a link to it, which writing there would destroy; write to another place"),
            Conflict::InputInside => {
                format!("holds {what}, {path}, which writing there could destroy; write to a directory without inputs in it")
            }
            Conflict::OutputInside => format!("lies in {what}, {path}, whose files are inputs; write to a place outside it"),
        };
        Error::file(out, reason)
    }
}
