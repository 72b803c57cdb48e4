//! Event files, which TensorBoard and what reads its files show.
//!
//! An event file is a sequence of records. A record is the length of its data (u64), the masked CRC-32C of the length, the data, and their
//! masked CRC-32C, all little-endian; the data are one protocol buffer `tensorflow.Event`. The first one names the version of the format.

use super::RunRecord;
use super::page::names;
use peft_core::{Error, Result};
use prost::Message;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `tensorflow.Event`, as far as scalars need it.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Scalars>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Scalars {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Writes an event file while a run goes on.
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Begin a new file in `directory`, which is made where it is missing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(directory: &Path) -> Result<Self> {
        Self::begin(directory, now())
    }

    fn begin(directory: &Path, wall_time: f64) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|e| Error::io(directory, e))?;
        // TensorBoard goes by this shape of name; the process number keeps files of one second apart.
        let path = directory.join(format!("events.out.tfevents.{:010}.{}.peft", wall_time as u64, std::process::id()));
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        let mut writer = Self { path, file: BufWriter::new(file) };
        writer.record(&Event { wall_time, file_version: Some("brain.Event:2".into()), ..Event::default() })?;
        writer.flush()?;
        Ok(writer)
    }

    /// Write the numbers of a step, such as [`crate::Progress`], and let readers see them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn step(&mut self, progress: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(progress).map_err(|e| Error::file(&self.path, e))?;
        let numbers = value.as_object().into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
        self.scalars(now(), &numbers.collect())?;
        self.flush()
    }

    fn scalars(&mut self, wall_time: f64, numbers: &BTreeMap<String, f64>) -> Result<()> {
        let step = numbers.get("step").copied().unwrap_or(0.0) as i64;
        let scalar = |(name, value): (&String, &f64)| Some(Scalar { tag: tag(name)?, simple_value: Some(*value as f32) });
        let value = numbers.iter().filter_map(scalar).collect();
        self.record(&Event { wall_time, step, summary: Some(Scalars { value }), ..Event::default() })
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        self.file.write_all(&framed(&event.encode_to_vec())).map_err(|e| Error::io(&self.path, e))
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::io(&self.path, e))
    }
}

/// Write the numbers of all steps of each run into a directory of its name in `log_directory`, where TensorBoard looks for runs.
///
/// Numbers are single-precision in these files. The times of the steps follow from their tokens per second and the end of `metrics.jsonl`.
///
/// # Errors
/// [`Error::Io`].
pub fn write_events(log_directory: &Path, runs: &[RunRecord]) -> Result<()> {
    for (run, name) in runs.iter().zip(names(runs)) {
        let times = times(run)?;
        let mut writer = EventWriter::begin(&log_directory.join(name), times.first().copied().unwrap_or_else(now))?;
        for (row, time) in run.metrics.rows.iter().zip(times) {
            writer.scalars(time, row)?;
        }
        writer.flush()?;
    }
    Ok(())
}

/// When each step was taken, in seconds of Unix time.
fn times(run: &RunRecord) -> Result<Vec<f64>> {
    let file = run.directory.join(super::METRICS_FILE);
    let end = file.metadata().and_then(|meta| meta.modified()).map_err(|e| Error::io(&file, e))?;
    let mut tokens = 0.0;
    let since_start = |row: &BTreeMap<String, f64>| {
        tokens += row.get("tokens").copied().unwrap_or(0.0);
        row.get("tokens_per_second").filter(|speed| **speed > 0.0).map_or(0.0, |speed| tokens / speed)
    };
    let elapsed: Vec<f64> = run.metrics.rows.iter().map(since_start).collect();
    let all = elapsed.last().copied().unwrap_or(0.0);
    Ok(elapsed.into_iter().map(|elapsed| unix(end) - all + elapsed).collect())
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

fn now() -> f64 {
    unix(SystemTime::now())
}

/// The name under which TensorBoard shows a number, in groups for training and evaluation; none for the step, which is its axis.
fn tag(name: &str) -> Option<String> {
    match name {
        "step" | "total_steps" => None,
        _ => Some(match name.strip_prefix("eval").map(|rest| rest.trim_start_matches(['_', '.'])).filter(|rest| !rest.is_empty()) {
            Some(rest) => format!("eval/{rest}"),
            None => format!("train/{name}"),
        }),
    }
}

fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length, &masked_crc(&length).to_le_bytes()[..], data, &masked_crc(data).to_le_bytes()].concat()
}

/// The CRC-32C, turned and shifted, since a checksum of data that hold checksums of their own would be weak.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    /// The events of a file, checked as a reader checks them.
    fn events(bytes: &[u8]) -> Vec<Event> {
        let mut rest = bytes;
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[..12 + length + 4], framed(&rest[12..12 + length]));
            events.push(Event::decode(&rest[12..12 + length]).unwrap());
            rest = &rest[16 + length..];
        }
        events
    }

    fn only_file(directory: &Path) -> Vec<u8> {
        let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().flatten().collect();
        assert_eq!(files.len(), 1);
        std::fs::read(files.pop().unwrap().path()).unwrap()
    }

    #[test]
    fn checksums_have_their_known_values() {
        // CRC-32C of "123456789" (RFC 3720 and others) and of 32 zeros (RFC 3720, B.4), before the mask.
        assert_eq!(masked_crc(b"123456789").wrapping_sub(0xa282_ead8).rotate_left(15), 0xe306_9283);
        assert_eq!(masked_crc(&[0; 32]).wrapping_sub(0xa282_ead8).rotate_left(15), 0x8a91_36aa);
    }

    #[test]
    fn the_first_record_names_the_version_of_the_format() {
        let event = Event { file_version: Some("brain.Event:2".into()), ..Event::default() };
        let record = framed(&event.encode_to_vec());
        assert_eq!(record[..8], 15u64.to_le_bytes());
        assert_eq!(&record[12..27], b"\x1a\x0dbrain.Event:2");
    }

    #[test]
    fn the_steps_of_a_run_are_scalars_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("first");
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("metrics.jsonl"), "").unwrap();
        let row = |step: f64| [("step", step), ("loss", 1.0 / step), ("tokens", 10.0), ("tokens_per_second", 5.0)];
        let mut rows: Vec<BTreeMap<String, f64>> =
            [row(1.0), row(2.0)].map(|row| row.map(|(name, value)| (name.to_string(), value)).into()).to_vec();
        rows[1].insert("eval_loss".into(), 0.7);
        let run = RunRecord { directory: source, metrics: Metrics { rows, ..Metrics::default() }, ..RunRecord::default() };
        write_events(&dir.path().join("logs"), &[run]).unwrap();
        let events = events(&only_file(&dir.path().join("logs/first")));
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!((events[1].step, events[2].step), (1, 2));
        assert!((events[2].wall_time - events[1].wall_time - 2.0).abs() < 1e-3, "ten tokens at five a second");
        let scalars = &events[2].summary.as_ref().unwrap().value;
        let value = |tag: &str| scalars.iter().find(|scalar| scalar.tag == tag).and_then(|scalar| scalar.simple_value);
        assert_eq!((value("train/loss"), value("eval/loss"), value("train/step")), (Some(0.5), Some(0.7), None));
    }

    #[test]
    fn a_step_is_in_the_file_as_soon_as_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.step(&serde_json::json!({ "step": 3, "total_steps": 9, "loss": 2.5 })).unwrap();
        let events = events(&only_file(dir.path()));
        assert_eq!((events.len(), events[1].step), (2, 3));
        assert!(
            events[1].summary.as_ref().unwrap().value.iter().any(|scalar| scalar.tag == "train/loss" && scalar.simple_value == Some(2.5))
        );
    }
}
