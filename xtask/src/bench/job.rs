//! The jobs: their settings, their command lines and what is measured.

use super::{name, text};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The numbers of a job, by the names they have on the command line.
pub type Settings = BTreeMap<String, u32>;

/// A job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Steps of LoRA, rank 8 on the query and value projections, with AdamW.
    Train,
    /// 128 tokens greedily, after a prompt of 32.
    Generate,
    /// From the start of the process to the logits of 8 tokens.
    Load,
    /// Load 20 LoRA adapters, then switch between them 200 times.
    Switch,
    /// A linear merge of some checkpoints.
    MergeLinear,
    /// TIES of some checkpoints, at density 0.5.
    MergeTies,
}

/// The shape of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// That of the 15-million-parameter story model of llama2.c.
    Small,
    /// That of SmolLM2-135M.
    #[value(name = "135m")]
    #[serde(rename = "135m")]
    M135,
    /// That of Qwen2.5-0.5B, in bf16; to merge.
    #[value(name = "500m")]
    #[serde(rename = "500m")]
    M500,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name(self))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name(self))
    }
}

/// Something measured.
#[derive(Clone, Copy)]
pub struct Quantity {
    /// Its name in what a side reports.
    pub key: &'static str,
    /// What a person calls it, with the unit.
    pub label: &'static str,
    /// What the reported number is divided by to be in that unit.
    pub divisor: f64,
    /// Whether more is better.
    pub more_is_better: bool,
}

const fn more(key: &'static str, label: &'static str) -> Quantity {
    Quantity { key, label, divisor: 1.0, more_is_better: true }
}

const fn less(key: &'static str, label: &'static str) -> Quantity {
    Quantity { key, label, divisor: 1.0, more_is_better: false }
}

/// The time from the start of the process to the first result.
pub const START: &str = "start_seconds";
/// The largest resident memory of the process.
pub const MEMORY: &str = "peak_memory_bytes";

impl Job {
    /// The method, if this is a merge.
    pub fn merge(self) -> Option<&'static str> {
        match self {
            Self::MergeLinear => Some("linear"),
            Self::MergeTies => Some("ties"),
            _ => None,
        }
    }

    /// What it is compared with.
    pub fn peer(self) -> &'static str {
        if self.merge().is_some() { "mergekit" } else { "transformers + PEFT" }
    }

    /// The usual numbers.
    pub fn settings(self, shape: Shape) -> Settings {
        let large = shape == Shape::M135;
        let settings: &[(&str, u32)] = match self {
            Self::Train if large => &[("batch", 4), ("seq", 256), ("warmup", 2), ("steps", 8)],
            Self::Train => &[("batch", 4), ("seq", 128), ("warmup", 2), ("steps", 20)],
            Self::Generate => &[("prompt", 32), ("new", 128)],
            Self::Load => &[],
            Self::Switch => &[("switches", 200)],
            Self::MergeLinear | Self::MergeTies => &[("models", 2)],
        };
        settings.iter().map(|(name, value)| ((*name).into(), *value)).collect()
    }

    /// The command line of either side, with the files in `dir`.
    pub fn args(self, settings: &Settings, dir: &Path, mixed: bool) -> Vec<String> {
        let mut args = match self.merge() {
            Some(method) => ["merge", "--method", method, "--inputs"].map(String::from).into_iter().chain([text(dir)]).collect(),
            None => vec![self.to_string(), "--model".into(), text(&dir.join("model"))],
        };
        args.extend(settings.iter().flat_map(|(name, value)| [format!("--{name}"), value.to_string()]));
        if self == Self::Switch {
            args.extend(["--adapters".into(), text(&dir.join("adapters"))]);
            args.extend(mixed.then(|| "--mixed".into()));
        }
        args
    }

    /// What is measured, where a run reports it.
    pub fn quantities(self) -> Vec<Quantity> {
        let memory = Quantity { divisor: 1024.0 * 1024.0, ..less(MEMORY, "peak memory, MiB") };
        match self {
            Self::Train => vec![more("tokens_per_second", "tokens/s"), less(START, "start to first step, s"), memory],
            Self::Generate => vec![more("tokens_per_second", "tokens/s"), less("first_token_ms", "first token, ms"), memory],
            Self::Load => vec![less(START, "start to logits, s"), memory],
            Self::Switch => vec![
                less("load_ms", "load an adapter, ms"),
                less("switch_ms", "switch, ms"),
                less("one_adapter_ms", "batch of 8, one adapter, ms"),
                less("mixed_ms", "batch of 8, 8 adapters, ms"),
                less("mixed_over_one", "8 adapters over one, ×"),
                memory,
            ],
            Self::MergeLinear | Self::MergeTies => {
                vec![less(START, "start to end, s"), less("cat_seconds", "`cat` of the same bytes, s"), memory]
            }
        }
    }
}
