//! What fine-tuning leaves beside the adapter, for people and for `peft report`.

use crate::commands::report::PAGE_FILE;
use crate::loading::Text;
use crate::run::Run;
use crate::run_state::write_json;
use peft_core::files::write_atomic;
use peft_core::{Error, Result};
use peft_train::data::read_examples;
use peft_train::report::{RunRecord, SAMPLES_FILE, SUMMARY_FILE, SampleTask, page, write_samples};
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

/// What is known of a run that was interrupted, and the page about it, whose path is returned.
pub fn interrupted(out: &Path, outcome: &impl Serialize) -> Result<PathBuf> {
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
