//! HF PEFT's dialect: how its adapter files spell modules and settings, and what each of them means.
//!
//! Everything that reads an adapter reads it through this module: the grammar of keys ([`Key`]), the configuration with its defaults,
//! nulls and refusals ([`AdapterConfig`]), and the settings of LoRA ([`LoraSettings`]). HF PEFT 0.21 is what it follows.

mod config;
mod fields;
mod files;
mod keys;
mod lora;

pub use config::{AdapterConfig, Kind, check_settings};
pub(crate) use files::canonical;
pub use files::{AdapterFiles, LeftOut, default_targets, modules};
pub use keys::{Key, PREFIX, Part, SHARED_PREFIX};
pub use lora::{LoraSettings, StartOf, rank_at, scaling_at, start};
