//! What fine-tuning leaves beside the adapter, for people and for `peft report`.

use crate::commands::report::PAGE_FILE;
use crate::loading::Text;
use crate::run::Run;
use peft_core::files::{disk, write_atomic};
use peft_core::{Error, Result, Summary};
use peft_train::data::read_examples;
use peft_train::report::{PARAMETERS_FILE, RunRecord, SAMPLES_FILE, SUMMARY_FILE, SampleTask, page, write_samples};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The prompts of the evaluation data that the model continues before and after training.
///
/// # Errors
/// [`Error::InvalidConfig`] if samples are asked for and there are no evaluation data.
pub fn sample_task<'a>(run: &Run, text: &'a Text) -> Result<SampleTask<'a>> {
    let count = run.samples.unwrap_or(0);
    let examples = match &run.eval {
        Some(file) if count > 0 => read_examples(file)?,
        None if count > 0 => return Err(Error::InvalidConfig("samples are taken from the evaluation data: give --eval too".into())),
        _ => Vec::new(),
    };
    SampleTask::choose(count, &examples, &text.tokenizer, text.template.as_ref(), run.max_length.unwrap_or(512))
}

/// What is known before the first step: where parameters are trained.
pub fn begin(out: &Path, parameters: &Summary) -> Result<()> {
    // The directory may be that of an earlier run.
    for old in [SUMMARY_FILE, SAMPLES_FILE, PAGE_FILE] {
        disk::remove_file(&out.join(old))?;
    }
    write_json(&out.join(PARAMETERS_FILE), parameters)
}

/// The outcome, and the page about the run, whose path is returned.
pub fn finish(out: &Path, outcome: &impl Serialize) -> Result<PathBuf> {
    write_json(&out.join(SUMMARY_FILE), outcome)?;
    let file = out.join(PAGE_FILE);
    write_atomic(&file, page(&[RunRecord::read(out)?])?.as_bytes())?;
    Ok(file)
}

/// What the model writes, as far as it is known.
pub fn save_samples(out: &Path, samples: &SampleTask) -> Result<()> {
    match samples.samples() {
        [] => Ok(()),
        samples => write_samples(&out.join(SAMPLES_FILE), samples),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e))?;
    write_atomic(path, text.as_bytes())
}
