//! A measured job, as it is stored.

use super::docs;
use super::facts::Facts;
use super::job::{Job, Quantity, Settings, Shape};
use super::side::Run;
use super::spread::Spread;
use crate::Outcome;
use peft_core::files::{read_json, write_atomic};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// A measured job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The job.
    pub job: Job,
    /// The shape of the model.
    pub shape: Shape,
    /// Runs of each side.
    pub rounds: u32,
    /// Numbers of the job.
    pub settings: Settings,
    /// What it depends on.
    pub facts: Facts,
    /// What came out.
    pub measures: Vec<Measure>,
}

/// One quantity on both sides.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measure {
    /// What it is, with the unit.
    pub label: String,
    /// Whether more is better.
    pub more_is_better: bool,
    /// This library.
    pub ours: Spread,
    /// The peer.
    pub peer: Option<Spread>,
    /// How many times better this library's median is than the peer's; below 1 it is worse.
    pub ratio: Option<f64>,
}

impl Measure {
    /// `None` if this library's runs do not report the quantity.
    pub fn of(quantity: Quantity, ours: &[Run], peer: &[Run]) -> Option<Self> {
        let Quantity { key, label, divisor, more_is_better } = quantity;
        let spread = |runs: &[Run]| Spread::of(runs.iter().filter_map(|run| Some(run.metrics.get(key)? / divisor)).collect());
        let (ours, peer) = (spread(ours)?, spread(peer));
        let ratio = peer.as_ref().map(|peer| if more_is_better { ours.median / peer.median } else { peer.median / ours.median });
        Some(Self { label: label.into(), more_is_better, ours, peer, ratio })
    }
}

fn dir() -> PathBuf {
    docs().join("performance")
}

impl Record {
    /// Which model, and how many of them are merged.
    pub fn subject(&self) -> String {
        let models = self.settings.get("models").map_or_else(String::new, |models| format!(" × {models}"));
        format!("{}{models}", self.shape)
    }

    /// Store it, in place of an earlier one of the same job, shape and number of models.
    pub fn store(&self) -> Outcome {
        fs::create_dir_all(dir())?;
        let models = self.settings.get("models").map_or_else(String::new, |models| format!("-{models}"));
        let path = dir().join(format!("{}-{}{models}.json", self.job, self.shape));
        Ok(write_atomic(&path, format!("{}\n", serde_json::to_string_pretty(self)?).as_bytes())?)
    }

    /// All that are stored, by job, the larger shape first.
    pub fn stored() -> Outcome<Vec<Self>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(dir())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                records.push(read_json::<Self>(&path)?);
            }
        }
        records.sort_by_key(|record| (record.job, std::cmp::Reverse(record.shape), record.settings.get("models").copied()));
        Ok(records)
    }
}
