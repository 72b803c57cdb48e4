//! Merging adapters of LoRA with each other, by the combinations of HF PEFT's `add_weighted_adapter`.
//!
//! ```no_run
//! use peft_merge::adapters::{AdapterMerge, Combination, Lora, Settings};
//! use std::path::Path;
//!
//! let adapters = ["french", "poems"].map(|name| Lora::open(name, Path::new(name)));
//! let adapters = adapters.into_iter().collect::<Result<Vec<_>, _>>()?;
//! let settings = Settings { density: Some(0.5), ..Settings::new(Combination::named("ties")?, vec![0.7, 0.3]) };
//! AdapterMerge::new(adapters, settings)?.write(Path::new("french-poems"), &|| ())?;
//! # Ok::<(), peft_core::Error>(())
//! ```

mod combination;
mod compute;
mod config;
mod lora;
mod low_rank;
mod merge;
mod write;

pub use combination::{COMBINATIONS, Combination, Settings};
pub(crate) use lora::Whole;
pub use lora::{Factors, Lora, Site};
pub use low_rank::LowRank;
pub use merge::{AdapterMerge, MergedModule};
