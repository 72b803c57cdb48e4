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
}

/// The checkpoints of one run, `step-<n>` in one directory; the newest is kept.
#[derive(Clone, Debug)]
pub struct CheckpointDir(PathBuf);

impl CheckpointDir {
    /// Checkpoints in `dir`, which need not exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The newest complete checkpoint and its step.
    pub fn latest(&self) -> Option<(usize, PathBuf)> {
        let entries = std::fs::read_dir(&self.0).ok()?;
        let steps = entries.flatten().filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, entry.path()))
        });
        steps.max_by_key(|(step, _)| *step)
    }

    pub(crate) fn save<M: Module>(&self, model: &M, optimizer: &ModuleOptimizer, state: &State) -> Result<()> {
        let older: Vec<PathBuf> = self.latest().into_iter().map(|(_, path)| path).collect();
        let dir = OutputDir::create(&self.0.join(format!("step-{}", state.step)), true)?;
        let file = |name: &str| dir.path().join(name);
        let failed = |name: &str, e: &dyn std::fmt::Display| Error::file(file(name), e);
        let group = ParamGroup::from_ids(trained_ids(model));
        model.clone().into_record_group(group).save(file(MODEL)).map_err(|e| failed(MODEL, &e))?;
        optimizer.to_record().save(file(OPTIMIZER)).map_err(|e| failed(OPTIMIZER, &e))?;
        let text = serde_json::to_string_pretty(state).map_err(|e| failed(STATE, &e))?;
        write_atomic(&file(STATE), text.as_bytes())?;
        let kept = dir.commit()?;
        for path in older.into_iter().filter(|path| *path != kept) {
            std::fs::remove_dir_all(&path).map_err(|e| Error::io(&path, e))?;
        }
        Ok(())
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
        let failed = |file: &Path, e: &dyn std::fmt::Display| Error::file(file, e);
        let file = dir.join(MODEL);
        let record = ModuleRecord::load(&file).map_err(|e| failed(&file, &e))?;
        let model = model.try_load_record(record.allow_partial(true)).map_err(|e| failed(&file, &e))?;
        let file = dir.join(OPTIMIZER);
        let record = OptimizerRecord::load(&file).map_err(|e| failed(&file, &e))?;
        Ok((model, optimizer.load_record(record), Some(state)))
    }

    /// Remove all checkpoints of a finished run.
    pub(crate) fn clear(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&self.0, e)),
            _ => Ok(()),
        }
    }
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
