//! What a run must remember from its first call to its last: when it began, on which base, and whether it is over.
//!
//! A run goes through these states, each of which is on disk as a whole, so that `--resume` can go on after a kill at any moment:
//!
//! 1. `run_state.json` with `begun: false`: what an earlier run left in the directory is being removed.
//! 2. `begun: true`: it trains; the newest complete directory in `checkpoints/` is where it goes on.
//! 3. The directory `finished/` exists, by one rename: everything that it has learned is saved, and only has to be moved into place.
//! 4. `finished: true`: it is over.

use crate::commands::report::PAGE_FILE;
use crate::run::Run;
use peft_core::files::{INDEX_FILE, OutputDir, RunDir, disk, read_json, write_atomic};
use peft_core::{Error, Result};
use peft_train::report::{METRICS_FILE, PARAMETERS_FILE, RunRecord, SAMPLES_FILE, SETTINGS_FILE, SUMMARY_FILE, page};
use peft_train::{BaseFingerprint, CheckpointDir, changed};
use serde::{Deserialize, Serialize};
use std::fs::read_dir;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The memory of a run, in its directory.
pub const STATE_FILE: &str = "run_state.json";
/// Where results are complete before they are moved into place.
const FINISHED: &str = "finished";

/// The memory of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunState {
    /// When it began, in seconds since 1970: chat templates that write the date write this one, however long the run takes.
    began: u64,
    /// The base that it trains on.
    base: Option<BaseFingerprint>,
    /// Whether the directory holds this run alone.
    begun: bool,
    /// Whether it is over.
    finished: bool,
    /// The files that it has learned: those that another run in this directory replaces.
    #[serde(default)]
    results: Vec<String>,
    /// Whether checkpoints stay when it is over.
    #[serde(default)]
    keeps_checkpoints: bool,
}

impl RunState {
    /// A run that begins now.
    pub fn now() -> Self {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self { began, base: None, begun: false, finished: false, results: Vec::new(), keeps_checkpoints: false }
    }

    /// That of the run in `out`, if there is one.
    pub fn read(out: &Path) -> Result<Option<Self>> {
        let file = out.join(STATE_FILE);
        let damaged = |e: Error| match e {
            Error::File { reason, .. } => Error::file(&file, format!("is damaged ({reason}); begin anew with --overwrite")),
            other => other,
        };
        file.exists().then(|| read_json(&file).map_err(damaged)).transpose()
    }

    /// When the run began.
    pub fn began(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.began)
    }

    /// Whether the run is over.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the directory holds this run alone, so that it can go on.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// The run trains on the checkpoint in `base`, which must be the one that it began with.
    pub fn on(mut self, base: &Path, keeps_checkpoints: bool) -> Result<Self> {
        let now = BaseFingerprint::of(base)?;
        if let Some(before) = &self.base {
            before.check(&now).map_err(|reason| Error::file(base, reason))?;
        }
        self.base = Some(now);
        self.keeps_checkpoints = keeps_checkpoints;
        Ok(self)
    }

    /// Go on with what is in `out`.
    pub fn go_on(&mut self, out: &Path, settings: &str) -> Result<()> {
        self.begun = true;
        write_atomic(&out.join(SETTINGS_FILE), settings.as_bytes())?;
        self.write(out)
    }

    fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(STATE_FILE), self)
    }

    /// Let `out` hold this run alone: what an earlier run of this program left there goes, and anything else stays.
    pub fn begin(&mut self, out: &Path, settings: &str) -> Result<()> {
        // Of a state that cannot be read nothing is known.
        let earlier = Self::read(out).ok().flatten().map_or_else(Vec::new, |earlier| earlier.results);
        self.results = earlier;
        self.begun = false;
        self.write(out)?;
        write_atomic(&out.join(SETTINGS_FILE), settings.as_bytes())?;
        CheckpointDir::new(out.join("checkpoints")).clear()?;
        remove_finished(out)?;
        let own = [SUMMARY_FILE, SAMPLES_FILE, PAGE_FILE, METRICS_FILE, PARAMETERS_FILE].map(String::from);
        own.iter().chain(&self.results).try_for_each(|name| disk::remove_file(&out.join(name)))?;
        self.results.clear();
        self.begun = true;
        self.write(out)
    }

    /// Save what a run has learned, all of it or nothing: `save` writes it into a directory that gets its name when it is complete.
    pub fn finish(&self, place: &RunDir, out: &Path, outcome: &impl Serialize, save: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let complete = OutputDir::inside(&out.join(FINISHED))?;
        save(complete.path())?;
        let mut results = names(complete.path())?;
        results.sort();
        place.begin(&results.iter().map(String::as_str).collect::<Vec<_>>())?;
        write_json(&complete.path().join(SUMMARY_FILE), outcome)?;
        Self { finished: true, results, ..self.clone() }.write(complete.path())?;
        complete.commit()?;
        put(out)
    }
}

/// Refuse to continue a run that is over.
pub fn check_unfinished(state: Option<&RunState>, out: &Path) -> Result<()> {
    let finished = match state {
        Some(state) => state.is_finished(),
        // A run of an earlier version: it has its adapter or weights, and no checkpoint.
        None => {
            let results = ["adapter_model.safetensors", "model.safetensors", INDEX_FILE];
            results.iter().any(|name| out.join(name).exists()) && CheckpointDir::new(out.join("checkpoints")).latest().is_none()
        }
    };
    match finished {
        true => Err(Error::file(out, "this run is over, so that there is nothing to resume; --overwrite trains anew")),
        false => Ok(()),
    }
}

/// Settings that say where to compute, how often to look or what to keep: they may change when a run goes on.
const MAY_CHANGE: [&str; 6] = ["eval", "eval_steps", "save_steps", "save_total_limit", "samples", "device"];

/// Refuse to continue a run with settings that would have made another one.
pub fn check_continues(run: &Run, file: &Path) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let settings = |run: &Run| {
        let mut settings = run.to_map()?;
        settings.retain(|name, _| !MAY_CHANGE.contains(&name.as_str()));
        Ok(settings)
    };
    let changed = changed(&settings(&Run::read(file)?)?, &settings(run)?);
    match changed.is_empty() {
        true => Ok(()),
        false => {
            let reason = format!("--resume needs the settings of the run that it continues, which this file holds: {}", changed.join("; "));
            Err(Error::file(file, reason))
        }
    }
}

/// Finish what a process that was killed had begun to finish; its outcome, or nothing where a run in `out` had not come so far.
pub fn complete(out: &Path) -> Result<Option<serde_json::Value>> {
    if !out.join(FINISHED).is_dir() {
        return Ok(None);
    }
    put(out)?;
    read_json(&out.join(SUMMARY_FILE)).map(Some)
}

/// Move the results from `finished` into place and remove what is not needed any more. The path of the page about the run.
fn put(out: &Path) -> Result<PathBuf> {
    let (finished, file) = (out.join(FINISHED), out.join(PAGE_FILE));
    if let Some(state) = RunState::read(&finished)? {
        for name in names(&finished)?.iter().filter(|name| *name != STATE_FILE) {
            let (from, to) = (finished.join(name), out.join(name));
            disk::rename(&from, &to)?;
        }
        write_atomic(&file, page(&[RunRecord::read(out)?])?.as_bytes())?;
        if !state.keeps_checkpoints {
            CheckpointDir::new(out.join("checkpoints")).clear()?;
        }
        state.write(out)?;
    }
    remove_finished(out)?;
    Ok(file)
}

/// Remove the directory of results, and those that could not be given its name.
fn remove_finished(out: &Path) -> Result<()> {
    // Without its state it says nothing any more, whatever else is still in it.
    disk::remove_file(&out.join(FINISHED).join(STATE_FILE))?;
    let kept = format!(".{FINISHED}.complete-");
    let is_of_results = |name: &&String| *name == FINISHED || name.starts_with(&kept);
    names(out)?.iter().filter(is_of_results).try_for_each(|name| disk::remove_dir_all(&out.join(name)))
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = read_dir(dir).map_err(|e| Error::io(dir, e))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e))?;
    write_atomic(path, text.as_bytes())
}
