//! `peft report`.

use crate::output;
use clap::Args;
use peft_core::files::{Inputs, OutputFile, write_atomic};
use peft_core::{Error, Result};
use peft_train::report::{
    METRICS_FILE, PARAMETERS_FILE, RunRecord, SAMPLES_FILE, SETTINGS_FILE, SUMMARY_FILE, page, write_csv, write_events,
};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Make a page about a fine-tuning run, or compare several.
#[derive(Args)]
#[command(after_help = "Examples:\n  peft report my-adapter\n  peft report rank-4 rank-8 rank-16 --out ranks.html\n  \
    peft report my-adapter --csv metrics.csv --tensorboard logs\n\n\
    DIR is the output directory of peft finetune, of a run that is finished, still going on, or was cut. The page is one HTML file\n\
    without anything outside it: curves, settings, trained parameters, and samples before and after.")]
pub struct Report {
    /// Output directories of runs.
    #[arg(value_name = "DIR", required = true)]
    runs: Vec<PathBuf>,
    /// Where to write the page [default: report.html in DIR; comparison.html here for several].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write the numbers of all steps as CSV.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also write them as TensorBoard event files, each run into a directory of its name.
    #[arg(long, value_name = "LOGDIR")]
    tensorboard: Option<PathBuf>,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(serialize_with = "output::path")]
    report: PathBuf,
    #[serde(serialize_with = "output::some_path")]
    csv: Option<PathBuf>,
    #[serde(serialize_with = "output::some_path")]
    tensorboard: Option<PathBuf>,
}

/// The page in a run's directory.
pub const PAGE_FILE: &str = "report.html";
/// What a report is made from.
const RECORDS: [&str; 5] = [METRICS_FILE, SETTINGS_FILE, SUMMARY_FILE, PARAMETERS_FILE, SAMPLES_FILE];

impl Report {
    pub fn run(self, json: bool) -> Result<()> {
        let runs = self.runs.iter().map(RunRecord::read).collect::<Result<Vec<_>>>()?;
        let out = self.out.unwrap_or_else(|| match self.runs.as_slice() {
            [run] => run.join(PAGE_FILE),
            _ => "comparison.html".into(),
        });
        let inputs = self.runs.iter().flat_map(|run| RECORDS.map(|name| run.join(name)));
        let inputs = inputs.fold(Inputs::none(), |all, file| all.and("a record of a run", file));
        let place = OutputFile::create(&out, true, &inputs)?;
        let csv = self.csv.as_ref().map(|file| OutputFile::create(file, true, &inputs)).transpose()?;
        if let Some(directory) = self.tensorboard.as_ref().filter(|directory| directory.is_file()) {
            return Err(Error::file(directory, "is a file; --tensorboard takes a directory"));
        }
        write_atomic(place.path(), page(&runs)?.as_bytes())?;
        if let Some(file) = &csv {
            write_csv(file.path(), &runs)?;
        }
        if let Some(directory) = &self.tensorboard {
            write_events(directory, &runs)?;
        }
        let written = [Some(&out), self.csv.as_ref(), self.tensorboard.as_ref()];
        let text: Vec<String> = written.into_iter().flatten().map(|path| format!("wrote {}", path.display())).collect();
        let outcome = Outcome { report: out.clone(), csv: self.csv.clone(), tensorboard: self.tensorboard.clone() };
        let files: Vec<&Path> = [Some(&place), csv.as_ref()].into_iter().flatten().map(OutputFile::path).collect();
        output::print_beside(&files, json, &outcome, text.join("\n"))
    }
}
