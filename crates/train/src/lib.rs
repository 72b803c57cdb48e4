//! Fine-tuning: data, the trainer with its hooks, generation and evaluation.

mod classification;
mod config;
pub mod data;
pub mod evaluate;
mod feed;
mod fingerprint;
pub mod generate;
mod hooks;
mod identity;
mod jinja;
mod language;
mod memory;
mod optimizer;
mod parallel;
mod parameters;
mod progress;
pub mod report;
mod resume;
mod schedule;
mod task;
mod trainer;

pub use classification::{ClassifierScores, Scores, TextClassification, argmax, classify};
pub use config::TrainConfig;
pub use fingerprint::BaseFingerprint;
pub use hooks::{Hook, Retie};
pub use identity::changed;
pub use language::LanguageModelling;
pub use memory::{peak_memory_bytes, program};
pub use optimizer::OptimizerConfig;
pub use progress::{Progress, Report};
pub use resume::CheckpointDir;
pub use schedule::{Schedule, SchedulerType};
pub use task::{Evaluation, Task};
pub use trainer::{Trained, Trainer};
