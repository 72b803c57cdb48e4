//! Checkpoints of a run: what is trained, the optimizer's state and the place in the data.

use crate::data::Position;
use crate::identity::Identity;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::tensor::Tensor;
use peft_core::files::{OutputDir, disk, read_json, write_atomic};
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, read_dir, remove_dir};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

const MODEL: &str = "trained.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "state.json";
/// CRC-32C of the other files, by name; it is written last.
const CHECKSUMS: &str = "checksums.json";

/// What the directories of checkpoints and of the parameters that did best are called, before the number of their step.
const STEP: &str = "step-";
const BEST: &str = "best-";

/// Where a run stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Optimizer steps taken.
    pub step: usize,
    /// Where the next batch is.
    pub position: Position,
    /// Which run this is: a checkpoint of another run is not continued.
    pub run: Identity,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Loss of the last step.
    pub last_loss: f64,
    /// The best evaluation so far.
    #[serde(default)]
    pub best: Option<Best>,
}

/// The best evaluation of a run so far.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct Best {
    /// After which step.
    pub step: usize,
    /// How good it was; higher is better.
    pub score: f64,
    /// Evaluations since then.
    pub since: usize,
}

/// The checkpoints of one run, `step-<n>` in one directory.
#[derive(Clone, Debug)]
pub struct CheckpointDir(PathBuf);

impl CheckpointDir {
    /// Checkpoints in `dir`, which need not exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The newest complete checkpoint and its step.
    pub fn latest(&self) -> Option<(usize, PathBuf)> {
        self.named(STEP).into_iter().rfind(|(_, path)| is_complete(path))
    }

    /// Remove all checkpoints: of a run whose result is saved, or of one that is given up. Other files in the directory stay.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn clear(&self) -> Result<()> {
        self.tidy()?;
        // The oldest go first, so that what is left after a kill is a checkpoint that can be continued.
        self.named(STEP).into_iter().chain(self.named(BEST)).try_for_each(|(_, path)| remove(&path))?;
        // It stays where it holds anything else.
        let _ = remove_dir(&self.0);
        Ok(())
    }

    /// Directories of this name and a step, oldest first.
    fn named(&self, name: &str) -> Vec<(usize, PathBuf)> {
        let entries = read_dir(&self.0).into_iter().flatten().flatten();
        let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix(name)?.parse().ok();
        let mut found: Vec<(usize, PathBuf)> = entries.filter_map(|entry| Some((step(&entry.path())?, entry.path()))).collect();
        found.sort();
        found
    }

    /// Remove what a killed process left: directories that were being written or removed.
    pub(crate) fn tidy(&self) -> Result<()> {
        for path in read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if [STEP, BEST].iter().any(|kind| name.strip_prefix('.').is_some_and(|name| name.starts_with(kind))) {
                disk::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }

    /// Write a checkpoint, of which nothing is seen before it is complete, and remove all but the newest `keep`.
    pub(crate) fn save<M: Module>(&self, model: &M, optimizer: &ModuleOptimizer, state: &State, keep: usize) -> Result<PathBuf> {
        let dir = OutputDir::inside(&self.0.join(format!("{STEP}{}", state.step)))?;
        save_trained(model, dir.path())?;
        let file = dir.path().join(OPTIMIZER);
        optimizer.to_record().save(&file).map_err(|e| Error::file(&file, e))?;
        write_json(&dir.path().join(STATE), state)?;
        let checksums = [MODEL, OPTIMIZER, STATE].map(|name| Ok((name, checksum(&dir.path().join(name))?)));
        let checksums: BTreeMap<&str, u32> = checksums.into_iter().collect::<Result<_>>()?;
        write_json(&dir.path().join(CHECKSUMS), &checksums)?;
        let kept = dir.commit()?;
        let all = self.named(STEP);
        all[..all.len().saturating_sub(keep)].iter().try_for_each(|(_, path)| remove(path))?;
        self.keep_best(&[state.best.as_ref().map(|best| best.step)])?;
        Ok(kept)
    }

    /// Continue from the newest checkpoint, if there is one.
    pub(crate) fn load<M: Module>(
        &self,
        model: M,
        optimizer: ModuleOptimizer,
        run: &Identity,
    ) -> Result<(M, ModuleOptimizer, Option<State>)> {
        self.tidy()?;
        for (_, path) in self.named(STEP).iter().filter(|(_, path)| !is_complete(path)) {
            if is_of_an_earlier_version(path) {
                return Err(Error::file(
                    path,
                    "was written by an earlier version, which this one cannot continue; --overwrite trains anew",
                ));
            }
            tracing::warn!("{} lacks some of its files and is ignored", path.display());
        }
        let Some((step, dir)) = self.latest() else { return Ok((model, optimizer, None)) };
        let file = dir.join(CHECKSUMS);
        let checksums: BTreeMap<String, u32> = read_json(&file).map_err(|e| damaged(&file, e))?;
        for name in [MODEL, OPTIMIZER, STATE] {
            if checksums.get(name) != Some(&checksum(&dir.join(name))?) {
                return Err(damaged(&dir.join(name), "its content is not what was written"));
            }
        }
        let state: State = read_json(&dir.join(STATE))?;
        state.run.check(run).map_err(|reason| Error::file(&dir, reason))?;
        if state.step != step {
            return Err(damaged(&dir, format!("it holds step {}", state.step)));
        }
        let model = load_trained(model, &dir)?;
        let file = dir.join(OPTIMIZER);
        let loaded = guarded(&file, || {
            let record = OptimizerRecord::load(&file).map_err(|e| damaged(&file, e))?;
            Ok(optimizer.load_record(record))
        });
        Ok((model, loaded?, Some(state)))
    }

    /// Keep the parameters as the best so far; those of `before`, to which the newest checkpoint may go back, stay.
    pub(crate) fn save_best<M: Module>(&self, model: &M, step: usize, before: Option<usize>) -> Result<()> {
        let dir = OutputDir::inside(&self.0.join(format!("{BEST}{step}")))?;
        save_trained(model, dir.path())?;
        dir.commit()?;
        self.keep_best(&[Some(step), before])
    }

    /// Remove the parameters of all but these steps.
    fn keep_best(&self, steps: &[Option<usize>]) -> Result<()> {
        self.named(BEST).into_iter().filter(|(step, _)| !steps.contains(&Some(*step))).try_for_each(|(_, path)| remove(&path))
    }

    /// The model with the parameters that did best.
    pub(crate) fn load_best<M: Module>(&self, model: M, step: usize) -> Result<M> {
        load_trained(model, &self.0.join(format!("{BEST}{step}")))
    }
}

fn is_complete(checkpoint: &Path) -> bool {
    [MODEL, OPTIMIZER, STATE, CHECKSUMS].iter().all(|name| checkpoint.join(name).is_file())
}

/// Earlier versions kept a fingerprint in place of an identity, and no checksums.
fn is_of_an_earlier_version(checkpoint: &Path) -> bool {
    read_json::<serde_json::Value>(&checkpoint.join(STATE)).is_ok_and(|state| state.get("fingerprint").is_some())
}

fn write_json(file: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(file, e))?;
    write_atomic(file, text.as_bytes())
}

/// Remove a directory so that no part of it is ever taken for the whole: it loses its name first.
fn remove(path: &Path) -> Result<()> {
    let name = format!(".{}.removed", path.file_name().unwrap_or_default().to_string_lossy());
    let aside = path.with_file_name(name);
    disk::remove_dir_all(&aside)?;
    disk::rename(path, &aside)?;
    disk::remove_dir_all(&aside)
}

/// The CRC-32C of a file, which is read piece by piece: that of a whole model may be as large as memory.
fn checksum(file: &Path) -> Result<u32> {
    let failed = |e| Error::io(file, e);
    let (mut reader, mut piece, mut sum) = (File::open(file).map_err(failed)?, vec![0; 1 << 20], 0);
    loop {
        match reader.read(&mut piece).map_err(failed)? {
            0 => return Ok(sum),
            length => sum = crc32c::crc32c_append(sum, &piece[..length]),
        }
    }
}

fn damaged(file: &Path, reason: impl std::fmt::Display) -> Error {
    let remedy = "remove this checkpoint to continue from an earlier one, or begin anew with --overwrite";
    Error::file(file, format!("is damaged: {reason}; {remedy}"))
}

/// What `read` makes of a file; what Burn panics at is damage too.
fn guarded<T>(file: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(damaged(file, "it does not hold what a checkpoint holds")))
}

fn save_trained<M: Module>(model: &M, dir: &Path) -> Result<()> {
    let file = dir.join(MODEL);
    let group = ParamGroup::from_ids(trained_ids(model));
    model.clone().into_record_group(group).save(&file).map_err(|e| Error::file(&file, e))
}

fn load_trained<M: Module>(model: M, dir: &Path) -> Result<M> {
    let file = dir.join(MODEL);
    guarded(&file, || {
        let record = ModuleRecord::load(&file).map_err(|e| damaged(&file, e))?;
        model.try_load_record(record.allow_partial(true)).map_err(|e| damaged(&file, e))
    })
}

fn trained_ids<M: Module>(model: &M) -> Vec<ParamId> {
    struct Collect(Vec<ParamId>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.push(param.id);
            }
        }
    }
    let mut collect = Collect(Vec::new());
    model.visit(&mut collect);
    collect.0
}
