//! Checkpoints of a run: what is trained, the optimizer's state and the place in the data.

use crate::data::Position;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::tensor::Tensor;
use peft_core::files::{OutputDir, read_json, write_atomic};
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const MODEL: &str = "trained.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "state.json";

/// The directory of the parameters that did best.
const BEST: &str = "best";

/// Where a run stands.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct State {
    /// Optimizer steps taken.
    pub step: usize,
    /// Where the next batch is.
    pub position: Position,
    /// What the run was: a checkpoint of another run is not continued.
    pub fingerprint: String,
    /// Loss of the first step.
    pub first_loss: f64,
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
        self.all().pop()
    }

    /// All complete checkpoints, oldest first.
    fn all(&self) -> Vec<(usize, PathBuf)> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut steps: Vec<(usize, PathBuf)> =
            entries.filter_map(|entry| Some((entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?, entry.path()))).collect();
        steps.sort();
        steps
    }

    /// Write a checkpoint, of which nothing is seen before it is complete, and remove all but the newest `keep`.
    pub(crate) fn save<M: Module>(&self, model: &M, optimizer: &ModuleOptimizer, state: &State, keep: usize) -> Result<PathBuf> {
        let dir = OutputDir::inside(&self.0.join(format!("step-{}", state.step)))?;
        save_trained(model, dir.path())?;
        let file = dir.path().join(OPTIMIZER);
        optimizer.to_record().save(&file).map_err(|e| Error::file(&file, e))?;
        let file = dir.path().join(STATE);
        let text = serde_json::to_string_pretty(state).map_err(|e| Error::file(&file, e))?;
        write_atomic(&file, text.as_bytes())?;
        let kept = dir.commit()?;
        let all = self.all();
        for (_, path) in &all[..all.len().saturating_sub(keep)] {
            std::fs::remove_dir_all(path).map_err(|e| Error::io(path, e))?;
        }
        Ok(kept)
    }

    /// Continue from the newest checkpoint, if there is one.
    pub(crate) fn load<M: Module>(
        &self,
        model: M,
        optimizer: ModuleOptimizer,
        fingerprint: &str,
    ) -> Result<(M, ModuleOptimizer, Option<State>)> {
        let Some((_, dir)) = self.latest() else { return Ok((model, optimizer, None)) };
        let state: State = read_json(&dir.join(STATE))?;
        if state.fingerprint != fingerprint {
            let reason = "belongs to a run with other settings or data; remove it or choose another output directory";
            return Err(Error::file(dir, reason));
        }
        let model = load_trained(model, &dir)?;
        let file = dir.join(OPTIMIZER);
        let record = OptimizerRecord::load(&file).map_err(|e| Error::file(&file, e))?;
        Ok((model, optimizer.load_record(record), Some(state)))
    }

    /// Keep the parameters as the best so far.
    pub(crate) fn save_best<M: Module>(&self, model: &M) -> Result<()> {
        let dir = OutputDir::inside(&self.0.join(BEST))?;
        save_trained(model, dir.path())?;
        dir.commit().map(drop)
    }

    /// The model with the parameters that did best.
    pub(crate) fn load_best<M: Module>(&self, model: M) -> Result<M> {
        load_trained(model, &self.0.join(BEST))
    }

    /// Remove all checkpoints of a finished run.
    pub(crate) fn clear(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&self.0, e)),
            _ => Ok(()),
        }
    }
}

fn save_trained<M: Module>(model: &M, dir: &Path) -> Result<()> {
    let file = dir.join(MODEL);
    let group = ParamGroup::from_ids(trained_ids(model));
    model.clone().into_record_group(group).save(&file).map_err(|e| Error::file(&file, e))
}

fn load_trained<M: Module>(model: M, dir: &Path) -> Result<M> {
    let file = dir.join(MODEL);
    let record = ModuleRecord::load(&file).map_err(|e| Error::file(&file, e))?;
    model.try_load_record(record.allow_partial(true)).map_err(|e| Error::file(&file, e))
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
