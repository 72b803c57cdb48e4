//! ComPEFT: task vectors of which only the signs of the largest entries are left (Yadav et al. 2023, arXiv 2311.13171).
//!
//! A [`TaskVector`] is what fine-tuning changed: an adapter's own tensors, or a checkpoint less its base. [`TaskVector::compress`]
//! keeps the largest entries, takes their signs and one scalar for all of them, and yields an [`Expert`]: 8 to 50 times smaller than
//! the change in bf16. An expert is written to one file, gives its tensors back with or without files ([`Expert::tensors`],
//! [`Expert::restore`]), and has each tensor as a [`Ternary`] vector in two bit planes, on which products, distances and merges are
//! computed ([`weighted_sum`], [`ties`]).
//!
//! ```no_run
//! use peft_merge::compeft::{Expert, Settings, TaskVector};
//! use std::path::Path;
//!
//! let expert = TaskVector::of_adapter(Path::new("my-adapter"))?.compress(&Settings { density: 0.2, alpha: 2.0, ..Settings::default() })?;
//! expert.write(Path::new("my-adapter.cpft"))?;
//! Expert::read(Path::new("my-adapter.cpft"))?.restore(None, Path::new("my-adapter-again"))?;
//! # Ok::<(), peft_core::Error>(())
//! ```

mod bits;
mod compress;
mod expert;
mod file;
mod merge;
mod moments;
mod restore;
mod rice;
mod select;
mod table;
mod task_vector;
mod ternary;

pub use compress::{Mode, Scope, Settings};
pub use expert::{Content, Entry, Expert, Kind, Reference};
pub use merge::{ties, weighted_sum};
pub use rice::Packed;
pub use task_vector::TaskVector;
pub use ternary::Ternary;

/// What the names of compressed experts end with.
pub const EXTENSION: &str = "cpft";
