//! A merge that goes on where it was cut.

use crate::changes::Changes;
use crate::models::Model;
use crate::plan::Plan;
use crate::run::Shard;
use peft_core::files::{INDEX_FILE, Inputs, OutputDir, WORKSHOP_FILE, disk, read_json, state_of, write_atomic};
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The directory beside the result, `.NAME.merging`, in which complete files wait for the others.
#[derive(Debug)]
pub struct Workshop<'p> {
    plan: &'p Plan,
    dir: PathBuf,
    out: OutputDir,
    shard_bytes: u64,
    record: Record,
}

/// What a workshop's files are, which it keeps in `merge.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// All that the result depends on: recipe, program, and the files of the models.
    plan: Vec<String>,
    /// The files that are complete, with the checksums of their weights.
    complete: BTreeMap<String, u32>,
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

impl Plan {
    /// What the merge reads: the models of the recipe with their adapters, and their Fisher information.
    pub fn inputs(&self) -> Inputs {
        let model = |all: Inputs, model: &Model| {
            let all = all.and_named("a model of the recipe", &model.name.model, &model.dir);
            all.and_maybe("an adapter of the recipe", model.changes.as_ref().map(Changes::path))
        };
        let inputs = self.models.iter().fold(Inputs::none(), model);
        self.fishers.iter().flat_map(|fishers| fishers.paths()).fold(inputs, |all, file| all.and("the Fisher information of a model", file))
    }
}

impl<'p> Workshop<'p> {
    /// As [`at`](Self::at), with the place `target`, which is replaced with `overwrite`.
    ///
    /// # Errors
    /// As [`OutputDir::create`] and [`at`](Self::at).
    pub fn open(plan: &'p Plan, target: &Path, overwrite: bool, shard_bytes: u64) -> Result<Self> {
        Self::at(plan, OutputDir::create(target, overwrite, &plan.inputs())?, shard_bytes)
    }

    /// Prepares to write `plan` to `out`, in files of at most `shard_bytes`. Files that an earlier run of the same recipe has made of the same
    /// files are kept; all others are removed.
    ///
    /// # Errors
    /// Whatever would be wrong with the configuration of the result; [`Error::Io`].
    pub fn at(plan: &'p Plan, out: OutputDir, shard_bytes: u64) -> Result<Self> {
        plan.check_extras()?;
        let dir = out.workshop();
        let record = Record { plan: description(plan, shard_bytes)?, complete: BTreeMap::new() };
        let mut workshop = Self { plan, dir, out, shard_bytes, record };
        let prepared = workshop.prepare();
        workshop.unless_in_vain(prepared)?;
        Ok(workshop)
    }

    /// Computes what is missing, and puts the result into its place.
    ///
    /// # Errors
    /// As [`compute`](Self::compute).
    pub fn run(mut self, progress: &(dyn Fn(u64) + Sync)) -> Result<Finished> {
        let computed = self.compute(progress);
        let kept = self.unless_in_vain(computed)?;
        let Self { plan, dir, out, shard_bytes, .. } = self;
        plan.write_extras(out.path())?;
        let name = out.target().file_name().unwrap_or_default().to_string_lossy().into_owned();
        plan.write_card(out.path(), &name)?;
        let index = dir.join(INDEX_FILE).exists().then(|| INDEX_FILE.to_owned());
        for name in plan.shards(shard_bytes)?.into_iter().map(|shard| shard.name).chain(index) {
            disk::rename(&dir.join(&name), &out.path().join(&name))?;
        }
        // Others must not come between the result and the end of the workshop.
        let _lock = out.lock();
        let out = out.commit()?;
        if let Err(e) = disk::remove_dir_all(&dir) {
            tracing::warn!("{}: could not be removed, and is of no more use: {e}", dir.display());
        }
        Ok(Finished { out, bytes: plan.bytes(), kept })
    }

    /// Computes the files that are missing; gives how many were there.
    ///
    /// # Errors
    /// As [`Plan::write`]; the files that are complete stay for the next run.
    pub fn compute(&mut self, progress: &(dyn Fn(u64) + Sync)) -> Result<usize> {
        let plan = self.plan;
        let shards = plan.shards(self.shard_bytes)?;
        let kept = self.record.complete.len();
        for shard in &shards {
            if self.record.complete.contains_key(&shard.name) {
                progress(shard.weights.iter().map(|weight| weight.num_bytes()).sum());
                continue;
            }
            let checksum = plan.write_shard(&self.dir.join(&shard.name), shard, progress)?;
            self.record.complete.insert(shard.name.clone(), checksum);
            self.record.write(&self.dir)?;
        }
        plan.write_index(&self.dir, &shards)?;
        Ok(kept)
    }

    /// A workshop in which nothing is complete is of no use to the next run, and goes away when this one fails.
    fn unless_in_vain<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err()
            && self.record.complete.is_empty()
            && self.dir.exists()
            && let Err(e) = disk::remove_dir_all(&self.dir)
        {
            tracing::warn!("{}: could not be removed, and is of no use: {e}", self.dir.display());
        }
        result
    }

    /// Keeps what belongs to the plan and is as it was written, and removes the rest.
    fn prepare(&mut self) -> Result<()> {
        disk::create_dir_all(&self.dir)?;
        let shards = self.plan.shards(self.shard_bytes)?;
        let before = read_json::<Record>(&self.dir.join(WORKSHOP_FILE)).ok().filter(|record| record.plan == self.record.plan);
        let mut kept = before.map(|record| record.complete).unwrap_or_default();
        kept.retain(|name, checksum| {
            shards.iter().any(|shard: &Shard| shard.name == *name && shard.is_at(&self.dir.join(name), *checksum))
        });
        let io = |e| Error::io(&self.dir, e);
        for entry in fs::read_dir(&self.dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            if !entry.file_name().to_str().is_some_and(|name| kept.contains_key(name)) {
                match entry.file_type().map_err(io)?.is_dir() {
                    true => disk::remove_dir_all(&entry.path())?,
                    false => disk::remove_file(&entry.path())?,
                }
            }
        }
        self.record.complete = kept;
        self.record.write(&self.dir)
    }
}

impl Record {
    fn write(&self, dir: &Path) -> Result<()> {
        let file = dir.join(WORKSHOP_FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::file(&file, e))?;
        write_atomic(&file, format!("{text}\n").as_bytes())
    }
}

/// All that a result depends on.
fn description(plan: &Plan, shard_bytes: u64) -> Result<Vec<String>> {
    // The tokens of the result may come from a model that gives nothing else.
    let tokens = plan.alignment.as_ref().map(|alignment| crc32c::crc32c(alignment.tokenizer.json.to_string().as_bytes()));
    let settings = format!("{} seed {} shard_bytes {shard_bytes} tokens {tokens:?}", env!("CARGO_PKG_VERSION"), plan.seed);
    let mut lines = vec![plan.recipe.text.clone(), settings];
    for place in plan.models.iter().flat_map(places).chain(plan.fishers.iter().flat_map(|fishers| fishers.paths())) {
        lines.push(state_of(place)?);
    }
    Ok(lines)
}

/// Where the files of a model and of its adapter are.
fn places(model: &Model) -> impl Iterator<Item = &Path> {
    [model.dir.as_path()].into_iter().chain(model.changes.as_ref().map(Changes::path))
}
