//! The numbers of runs as a table for spreadsheets.

use super::RunRecord;
use super::page::names;
use peft_core::files::write_atomic;
use peft_core::{Error, Result};
use std::path::Path;

/// Write one row for each step: all names of `metrics.jsonl` as columns, empty where a step has no number of that name. With several
/// runs, a first column `run` says which.
///
/// # Errors
/// [`Error::Io`].
pub fn write_csv(path: &Path, runs: &[RunRecord]) -> Result<()> {
    let failed = |e: ::csv::Error| Error::file(path, e);
    let mut columns: Vec<&String> = Vec::new();
    for name in runs.iter().flat_map(|run| &run.metrics.names) {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    let is_several = runs.len() > 1;
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(is_several.then_some("run").into_iter().chain(columns.iter().map(|name| name.as_str()))).map_err(failed)?;
    for (run, name) in runs.iter().zip(names(runs)) {
        for row in &run.metrics.rows {
            let numbers = columns.iter().map(|column| row.get(*column).map_or_else(String::new, f64::to_string));
            writer.write_record(is_several.then(|| name.clone()).into_iter().chain(numbers)).map_err(failed)?;
        }
    }
    let bytes = writer.into_inner().map_err(|e| Error::file(path, e))?;
    write_atomic(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    fn run(directory: &str, loss: f64) -> RunRecord {
        let rows = vec![
            [("step", 1.0), ("loss", loss)].map(|(name, value)| (name.to_string(), value)).into(),
            [("step", 2.0), ("loss", loss / 3.0), ("eval_loss", 2e-7)].map(|(name, value)| (name.to_string(), value)).into(),
        ];
        let names = ["step", "loss", "eval_loss"].map(String::from).to_vec();
        RunRecord { directory: directory.into(), metrics: Metrics { names, rows, ..Metrics::default() }, ..RunRecord::default() }
    }

    #[test]
    fn numbers_are_read_back_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("metrics.csv");
        write_csv(&file, &[run("a", 1.0)]).unwrap();
        let mut reader = ::csv::Reader::from_path(&file).unwrap();
        assert_eq!(reader.headers().unwrap(), vec!["step", "loss", "eval_loss"]);
        let rows: Vec<(u32, f64, Option<f64>)> = reader.deserialize().map(|row| row.unwrap()).collect();
        assert_eq!(rows, [(1, 1.0, None), (2, 1.0 / 3.0, Some(2e-7))]);
    }

    #[test]
    fn several_runs_have_a_column_for_their_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("metrics.csv");
        write_csv(&file, &[run("x/a, b", 1.0), run("y/c", 2.0)]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().next(), Some("run,step,loss,eval_loss"));
        assert_eq!(text.lines().nth(1), Some("\"a, b\",1,1,"));
        assert_eq!(text.lines().nth(3), Some("c,1,2,"));
    }
}
