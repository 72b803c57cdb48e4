//! Fine-tuning: data, the trainer with its hooks, generation and evaluation.

mod classification;
mod config;
pub mod data;
pub mod evaluate;
mod feed;
pub mod generate;
mod hooks;
mod language;
mod memory;
mod optimizer;
mod parallel;
mod progress;
pub mod report;
mod resume;
mod schedule;
mod task;
mod trainer;

pub use classification::{ClassifierScores, Scores, TextClassification, argmax, classify};
pub use config::TrainConfig;
pub use hooks::{Hook, Retie};
pub use language::LanguageModelling;
pub use memory::{peak_memory_bytes, program};
pub use optimizer::OptimizerConfig;
pub use progress::{Progress, Report};
pub use resume::CheckpointDir;
pub use schedule::{Schedule, SchedulerType};
pub use task::{Evaluation, Task};
pub use trainer::{Trained, Trainer};
