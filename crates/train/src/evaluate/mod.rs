//! Evaluation: loss and perplexity, multiple choice by log-likelihood, generated answers, and task files that describe a benchmark.
//!
//! [`Task`] reads a benchmark from a YAML file, [`Job`] is what it or a data file comes to, ready to run on a model, and [`Report`] what
//! was measured. [`metrics`] has the metrics themselves, as functions of predictions and references.

mod answer;
mod choose;
mod chunks;
mod documents;
mod examples;
mod grade;
mod item;
mod job;
mod loss;
pub mod metrics;
mod report;
mod task;
mod windows;

pub use answer::{Answering, answer};
pub use choose::choose;
pub use documents::Documents;
pub use examples::{DataOptions, data_job, exact_match};
pub use grade::Graded;
pub use item::{ChoiceItem, Items, OpenItem, Origin, Prompt};
pub use job::{Job, Metric};
pub use loss::{Likelihood, Perplexity, perplexity};
pub use report::Report;
pub use task::{Choices, FewShot, Task};
pub use windows::WindowConfig;

pub(crate) use loss::loss;
