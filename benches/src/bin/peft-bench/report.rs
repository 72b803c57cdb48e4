//! What a job says.

use peft_train::peak_memory_bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The result of a job.
#[derive(Default)]
pub struct Report {
    /// What was measured, by name; the unit is in the name.
    pub metrics: BTreeMap<&'static str, f64>,
    /// Seconds since 1970 when the job's first result was there, for who knows when the process was started.
    pub ready_at: Option<f64>,
    /// Results that show what was computed.
    pub check: Vec<f64>,
}

impl Report {
    /// The same as JSON, with the largest resident memory so far.
    pub fn json(&self) -> Value {
        let Self { metrics, ready_at, check } = self;
        json!({ "metrics": metrics, "ready_at": ready_at, "check": check, "peak_memory_bytes": peak_memory_bytes() })
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Milliseconds since `start`.
pub fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// The value in the middle; of an even number of values the mean of the two there.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    values.get(low).zip(values.get(high)).map_or(f64::NAN, |(low, high)| (low + high) / 2.0)
}
