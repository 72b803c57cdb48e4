//! What a run reports: at each step, and in the end.

use crate::memory::peak_memory_bytes;
use crate::task::Evaluation;
use peft_core::files::write_atomic;
use peft_core::{Error, Result};
use serde::{Serialize, Serializer};
use std::fs::File;
use std::io::ErrorKind::NotFound;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a run reports at each step.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// Optimizer steps taken.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Mean loss of the step's tokens or examples, in nats.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of all gradients together before clipping.
    pub grad_norm: f64,
    /// Tokens of the step, without padding.
    pub tokens: usize,
    /// Tokens per second since the run began.
    pub tokens_per_second: f64,
    /// How the model does on the evaluation data, where it was measured at this step.
    #[serde(flatten)]
    pub evaluation: Option<Evaluation>,
}

/// The outcome of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Optimizer steps of the whole run, earlier parts of a resumed one included.
    pub steps: usize,
    /// Loss of the first step.
    pub train_loss_first: f64,
    /// Loss of the last step.
    pub train_loss_last: f64,
    /// How the model does on the evaluation data after the last step, or at the best one if that is kept.
    #[serde(flatten)]
    pub evaluation: Option<Evaluation>,
    /// The step of the best evaluation, where evaluations are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_step: Option<usize>,
    /// Tokens trained on, without padding.
    pub tokens: usize,
    /// Seconds of training, without evaluation.
    pub seconds: f64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Largest resident memory of the process, where the system tells it.
    pub peak_memory_bytes: Option<u64>,
    /// The checkpoint to continue from, if the run was told to stop before its end.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    pub interrupted: Option<PathBuf>,
}

/// A path in JSON, whose strings are Unicode: what is no text in a name is approximated.
fn shown<S: Serializer>(path: &Option<PathBuf>, to: S) -> std::result::Result<S::Ok, S::Error> {
    path.as_deref().map(Path::to_string_lossy).serialize(to)
}

impl Report {
    pub(crate) fn finished(mut self, training: Duration) -> Self {
        self.seconds = training.as_secs_f64();
        self.tokens_per_second = self.tokens as f64 / self.seconds.max(1e-9);
        self.peak_memory_bytes = peak_memory_bytes();
        self
    }
}

/// `metrics.jsonl`: one line for each step.
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Begin the file, or keep its lines up to step `step` of a run that goes on. The file has its old content or its new one at any time.
    pub fn open(path: &Path, step: usize) -> Result<Self> {
        let text = match std::fs::read(path) {
            Ok(bytes) if step > 0 => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() != NotFound => return Err(Error::io(path, e)),
            _ => String::new(),
        };
        let is_past = |line: &&str| {
            let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
            value.and_then(|v| v["step"].as_u64()).is_some_and(|s| s as usize <= step)
        };
        let past: String = text.lines().filter(is_past).flat_map(|line| [line, "\n"]).collect();
        write_atomic(path, past.as_bytes())?;
        let file = File::options().append(true).open(path).map_err(|e| Error::io(path, e))?;
        Ok(Self { path: path.into(), file })
    }

    pub fn write(&mut self, progress: &Progress) -> Result<()> {
        let line = serde_json::to_string(progress).expect("progress is plain data");
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(|e| Error::io(&self.path, e))
    }
}
