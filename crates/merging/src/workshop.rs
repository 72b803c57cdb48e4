//! A merge that goes on where it was cut.

use crate::changes::Changes;
use crate::models::Model;
use crate::plan::Plan;
use peft_core::files::{INDEX_FILE, OutputDir, read_text, write_atomic};
use peft_core::{Error, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What the files in a workshop belong to.
const PLAN_FILE: &str = "merge.json";

/// The directory beside the result, `.NAME.merging`, in which complete files wait for the others.
#[derive(Debug)]
pub struct Workshop<'p> {
    plan: &'p Plan,
    dir: PathBuf,
    target: PathBuf,
    overwrite: bool,
    shard_bytes: u64,
}

/// A merge that is done.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The directory of the result.
    pub out: PathBuf,
    /// The bytes of its weights.
    pub bytes: u64,
    /// How many of its files an earlier run had completed.
    pub kept: usize,
}

impl<'p> Workshop<'p> {
    /// Prepares to write `plan` to `target`, in files of at most `shard_bytes`. Files that an earlier run of the same plan has completed
    /// are kept; those of another plan are removed.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if `target` has content and `overwrite` is off; [`Error::InvalidConfig`] if `target` is a model of the
    /// recipe; whatever would be wrong with the configuration of the result; [`Error::Io`].
    pub fn open(plan: &'p Plan, target: &Path, overwrite: bool, shard_bytes: u64) -> Result<Self> {
        refuse_input(plan, target)?;
        plan.check_extras()?;
        // Creates the parents, and says what is wrong with the place before anything is computed.
        let place = OutputDir::create(target, overwrite)?;
        let absolute = place.target().to_path_buf();
        let mut name = std::ffi::OsString::from(".");
        name.push(absolute.file_name().unwrap_or_default());
        name.push(".merging");
        let dir = absolute.with_file_name(name);
        let workshop = Self { plan, dir, target: target.into(), overwrite, shard_bytes };
        workshop.prepare()?;
        Ok(workshop)
    }

    /// Computes what is missing, and puts the result into its place.
    ///
    /// # Errors
    /// As [`Plan::write`]; the files that are complete stay for the next run.
    pub fn run(self, progress: &(dyn Fn(u64) + Sync)) -> Result<Finished> {
        let names: Vec<String> = self.plan.shards(self.shard_bytes)?.into_iter().map(|shard| shard.name).collect();
        let kept = names.iter().filter(|name| self.dir.join(name).exists()).count();
        let bytes = self.plan.write(&self.dir, self.shard_bytes, progress)?;
        let out = OutputDir::create(&self.target, self.overwrite)?;
        self.plan.write_extras(out.path())?;
        let name = out.target().file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.plan.write_card(out.path(), &name)?;
        let index = self.dir.join(INDEX_FILE).exists().then(|| INDEX_FILE.to_owned());
        for name in names.into_iter().chain(index) {
            fs::rename(self.dir.join(&name), out.path().join(&name)).map_err(|e| Error::io(self.dir.join(&name), e))?;
        }
        let out = out.commit()?;
        fs::remove_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, e))?;
        Ok(Finished { out, bytes, kept })
    }

    fn prepare(&self) -> Result<()> {
        let io = |e| Error::io(&self.dir, e);
        fs::create_dir_all(&self.dir).map_err(io)?;
        let (file, plan) = (self.dir.join(PLAN_FILE), self.fingerprint()?);
        let same = file.exists() && read_text(&file)? == plan;
        let shards: Vec<String> = self.plan.shards(self.shard_bytes)?.into_iter().map(|shard| shard.name).collect();
        for entry in fs::read_dir(&self.dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let complete = path.file_name().is_some_and(|name| shards.iter().any(|shard| name == shard.as_str()));
            // What is neither complete nor the plan is a file that was being written.
            if !(same && (complete || path == file)) {
                fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
            }
        }
        write_atomic(&file, plan.as_bytes())
    }

    /// Changes when the result would.
    fn fingerprint(&self) -> Result<String> {
        let models = self.plan.models.iter().flat_map(places).map(files_of).collect::<Result<Vec<Value>>>()?;
        let fishers = self.plan.fishers.iter().flat_map(|fishers| fishers.paths()).map(files_of).collect::<Result<Vec<Value>>>()?;
        let (recipe, seed) = (&self.plan.recipe.text, self.plan.seed);
        let plan = json!({ "recipe": recipe, "seed": seed, "shard_bytes": self.shard_bytes, "models": models, "fishers": fishers });
        Ok(format!("{plan:#}\n"))
    }
}

/// Where the files of a model and of its adapter are.
fn places(model: &Model) -> impl Iterator<Item = &Path> {
    [model.dir.as_path()].into_iter().chain(model.changes.as_ref().map(Changes::path))
}

/// Sizes and times of the files in a directory, or of a file.
fn files_of(dir: &Path) -> Result<Value> {
    let io = |e| Error::io(dir, e);
    let mut files = Vec::new();
    let mut paths = vec![dir.to_path_buf()];
    if dir.is_dir() {
        paths = fs::read_dir(dir).map_err(io)?.map(|entry| entry.map(|entry| entry.path()).map_err(io)).collect::<Result<_>>()?;
    }
    for path in paths {
        let metadata = fs::metadata(&path).map_err(|e| Error::io(&path, e))?;
        if metadata.is_file() {
            let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, metadata.len(), changed.map_or(0, |time| time.as_millis() as u64)));
        }
    }
    files.sort();
    Ok(json!({ "dir": dir.canonicalize().map_err(io)?, "files": files }))
}

/// A recipe cannot be made from what it makes.
fn refuse_input(plan: &Plan, target: &Path) -> Result<()> {
    let Ok(target) = target.canonicalize() else { return Ok(()) };
    let is_target = |path: &Path| path.canonicalize().is_ok_and(|path| path == target);
    let input = plan.models.iter().find(|model| places(model).any(is_target));
    match input {
        Some(model) => Err(Error::InvalidConfig(format!("{} is a model of the recipe; write the result to another directory", model.name))),
        None => Ok(()),
    }
}
