//! The numbers of each step, as `metrics.jsonl` has them.

use peft_core::files::read_text;
use peft_core::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The lines of a metrics file: for each step, its numbers by name.
///
/// Names are those of [`crate::Progress`], and whatever else a line has: a number inside an object is called `outer.inner`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// All names, in the order in which they first appear.
    pub names: Vec<String>,
    /// The numbers of each step.
    pub rows: Vec<BTreeMap<String, f64>>,
    /// The lines, from 1, that are not whole: the last one of a run that was cut, for example.
    pub unreadable: Vec<usize>,
}

impl Metrics {
    /// Read a metrics file; lines that are not whole JSON objects are left out and counted.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] if it has lines and none is one of a metrics file.
    pub fn read(path: &Path) -> Result<Self> {
        let mut metrics = Self::default();
        for (index, line) in read_text(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str::<Map<String, Value>>(line) {
                Ok(object) if object.get("step").is_some_and(Value::is_number) => metrics.push(&object),
                _ => metrics.unreadable.push(index + 1),
            }
        }
        if metrics.rows.is_empty() && !metrics.unreadable.is_empty() {
            return Err(Error::file(path, "no line is a JSON object with a `step`; a metrics file has one for each step of a run"));
        }
        Ok(metrics)
    }

    fn push(&mut self, object: &Map<String, Value>) {
        let mut row = BTreeMap::new();
        self.collect("", object, &mut row);
        self.rows.push(row);
    }

    fn collect(&mut self, prefix: &str, object: &Map<String, Value>, row: &mut BTreeMap<String, f64>) {
        for (key, value) in object {
            let name = format!("{prefix}{key}");
            match value {
                Value::Object(inner) => self.collect(&format!("{name}."), inner, row),
                Value::Number(number) => {
                    if !self.names.contains(&name) {
                        self.names.push(name.clone());
                    }
                    row.extend(number.as_f64().map(|number| (name, number)));
                }
                _ => {}
            }
        }
    }

    /// Steps and values of one name, where it has a value.
    pub fn series(&self, name: &str) -> Vec<(f64, f64)> {
        self.rows.iter().filter_map(|row| Some((*row.get("step")?, *row.get(name)?))).collect()
    }

    /// The first value of one name.
    pub fn first(&self, name: &str) -> Option<f64> {
        self.rows.iter().find_map(|row| row.get(name).copied())
    }

    /// The last value of one name.
    pub fn last(&self, name: &str) -> Option<f64> {
        self.rows.iter().rev().find_map(|row| row.get(name).copied())
    }

    /// Tokens of all steps.
    pub fn tokens(&self) -> f64 {
        self.rows.iter().filter_map(|row| row.get("tokens")).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Metrics> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("metrics.jsonl");
        std::fs::write(&file, text).unwrap();
        Metrics::read(&file)
    }

    #[test]
    fn a_line_that_was_cut_is_left_out_and_counted() {
        let metrics = read("{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":2.0,\"eval_loss\":3}\n{\"step\":3,\"lo").unwrap();
        assert_eq!(metrics.series("loss"), [(1.0, 2.5), (2.0, 2.0)]);
        assert_eq!(metrics.series("eval_loss"), [(2.0, 3.0)]);
        assert_eq!(metrics.names, ["step", "loss", "eval_loss"]);
        assert_eq!(metrics.unreadable, [3]);
    }

    #[test]
    fn numbers_inside_an_object_have_its_name() {
        assert_eq!(read("{\"step\":4,\"eval\":{\"accuracy\":0.5}}").unwrap().last("eval.accuracy"), Some(0.5));
    }

    #[test]
    fn a_file_of_something_else_is_an_error() {
        assert!(read("hello\n").unwrap_err().to_string().contains("no line is a JSON object with a `step`"));
        assert_eq!(read("").unwrap(), Metrics::default(), "a run that has just begun has no lines");
    }
}
