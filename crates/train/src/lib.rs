//! Fine-tuning: data, the trainer with its hooks, generation and evaluation.

pub mod data;
pub mod evaluate;
pub mod generate;
mod hooks;
mod loader;
mod memory;
mod optimizer;
mod quiet;
pub mod report;
mod resume;
mod schedule;
mod trainer;

pub use hooks::{ClipGlobalNorm, Hook, Retie};
pub use memory::{peak_memory_bytes, program};
pub use optimizer::OptimizerConfig;
pub use resume::CheckpointDir;
pub use schedule::{Schedule, SchedulerType};
pub use trainer::{Progress, Report, TrainConfig, Trained, Trainer};
