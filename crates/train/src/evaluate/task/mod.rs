//! Benchmarks described by a file: data, prompt, answers and metric.

mod config;
mod few_shot;
mod prepare;
mod rows;
mod text;

pub use config::{Choices, FewShot, Task};
pub(super) use rows::Rows;
pub(super) use text::Text;
