//! What a run's directory says about it.

use super::{Metrics, Sample, samples};
use peft_core::files::{read_json, read_yaml};
use peft_core::{Error, Result, Summary};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// One line for each step, written by the trainer.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// All settings of the run, a YAML mapping.
pub const SETTINGS_FILE: &str = "run.yaml";
/// The outcome of a finished run: the fields of [`crate::Report`], `trainable_params`, `total_params` and `examples`, as far as known.
pub const SUMMARY_FILE: &str = "summary.json";
/// What is trained and where: a [`peft_core::Summary`].
pub const PARAMETERS_FILE: &str = "parameters.json";
/// One [`Sample`] a line.
pub const SAMPLES_FILE: &str = "samples.jsonl";

/// A run as its directory shows it; what is not there is empty.
#[derive(Clone, Debug, Default)]
pub struct RunRecord {
    /// The directory.
    pub directory: PathBuf,
    /// Numbers of each step.
    pub metrics: Metrics,
    /// Settings by name.
    pub settings: Map<String, Value>,
    /// The outcome, once the run is finished.
    pub summary: Option<Map<String, Value>>,
    /// What is trained, and where.
    pub parameters: Option<Summary>,
    /// Texts that the model wrote before and after.
    pub samples: Vec<Sample>,
}

impl RunRecord {
    /// Read the directory of a run, which may be going on, or may have been cut.
    ///
    /// # Errors
    /// [`Error::File`] if there is no run, or for a file that is not what it should be; [`Error::Io`].
    pub fn read(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        let metrics = directory.join(METRICS_FILE);
        if !metrics.is_file() {
            let what = if directory.is_dir() { "holds no metrics.jsonl" } else { "no such directory" };
            return Err(Error::file(&directory, format!("{what}; a run is the output directory of a training, with metrics.jsonl in it")));
        }
        let settings = directory.join(SETTINGS_FILE);
        let settings = match settings.exists() {
            true => read_yaml(&settings)?,
            false => Map::new(),
        };
        Ok(Self {
            metrics: Metrics::read(&metrics)?,
            settings,
            summary: optional(&directory.join(SUMMARY_FILE))?,
            parameters: optional(&directory.join(PARAMETERS_FILE))?,
            samples: samples::read(&directory.join(SAMPLES_FILE))?,
            directory,
        })
    }

    /// What the run is called: see [`run_name`].
    pub fn name(&self) -> String {
        run_name(&self.directory)
    }

    /// A number of the outcome.
    pub(super) fn outcome(&self, key: &str) -> Option<f64> {
        self.summary.as_ref()?.get(key)?.as_f64()
    }

    /// A number among the settings.
    pub(super) fn setting(&self, key: &str) -> Option<f64> {
        self.settings.get(key)?.as_f64()
    }

    /// Steps taken, and those of the whole run.
    pub(super) fn steps(&self) -> (usize, usize) {
        let step = self.metrics.last("step").or_else(|| self.outcome("steps")).unwrap_or(0.0) as usize;
        (step, self.metrics.last("total_steps").map_or(step, |total| total as usize))
    }
}

/// What a run in this directory is called: the last component of its path.
pub fn run_name(directory: &Path) -> String {
    let whole = std::path::absolute(directory).unwrap_or_else(|_| directory.into());
    let whole = whole.canonicalize().unwrap_or(whole);
    whole.file_name().map_or_else(|| directory.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn optional<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    path.exists().then(|| read_json(path)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_run_is_an_error_that_says_what_a_run_is() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| RunRecord::read(path).unwrap_err().to_string();
        assert!(message(dir.path()).contains("holds no metrics.jsonl; a run is the output directory of a training"));
        assert!(message(&dir.path().join("nowhere")).contains("no such directory"));
    }

    #[test]
    fn metrics_alone_make_a_record() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(METRICS_FILE), "{\"step\":3,\"total_steps\":9,\"loss\":1.5}\n").unwrap();
        let record = RunRecord::read(dir.path()).unwrap();
        assert_eq!(record.steps(), (3, 9));
        assert!(record.settings.is_empty() && record.summary.is_none() && record.samples.is_empty());
    }

    #[test]
    fn a_run_has_the_name_of_its_directory() {
        let record = RunRecord { directory: "runs/first/".into(), ..RunRecord::default() };
        assert_eq!(record.name(), "first");
    }
}
