//! What can be seen of a run: one page with its curves, settings and samples, and its numbers for other programs.
//!
//! A run leaves small files in its output directory: `metrics.jsonl`, which the trainer writes, and [`SETTINGS_FILE`], [`SUMMARY_FILE`],
//! [`PARAMETERS_FILE`] and [`SAMPLES_FILE`], which a program writes around it. [`RunRecord::read`] reads what is there, of a finished run, one
//! that goes on or one that was cut, and [`page`] makes a self-contained HTML page of one or several.
//!
//! ```no_run
//! use peft_train::report::{RunRecord, page};
//!
//! # fn main() -> peft_core::Result<()> {
//! let (a, b) = (RunRecord::read("runs/a")?, RunRecord::read("runs/b")?);
//! std::fs::write("a.html", page(&[a.clone()])?).unwrap();
//! std::fs::write("comparison.html", page(&[a, b])?).unwrap();
//! # Ok(())
//! # }
//! ```

mod axis;
mod chart;
mod csv;
mod facts;
mod metrics;
mod number;
mod page;
mod places;
mod record;
mod samples;
mod series;
mod tensorboard;
mod warnings;

pub use csv::write_csv;
pub use metrics::Metrics;
pub use page::page;
pub use record::{METRICS_FILE, PARAMETERS_FILE, RunRecord, SAMPLES_FILE, SETTINGS_FILE, SUMMARY_FILE, run_name};
pub use samples::{Sample, SampleTask, write_samples};
pub use tensorboard::{EventWriter, write_events};
