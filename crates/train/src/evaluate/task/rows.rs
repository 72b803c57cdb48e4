//! Rows of a data file: JSON Lines, CSV or TSV, one at a time.

use super::super::item::Origin;
use crate::data::row::{check_size, object_of, read_line};
use peft_core::{Error, Result};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::Path;
use std::sync::Arc;

/// One row and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Row {
    pub fields: Map<String, Value>,
    pub origin: Origin,
}

impl Row {
    /// The field `path`, or `a.b` for the field `b` of the field `a`; why not if there is none.
    pub fn field(&self, path: &str) -> Result<&Value, String> {
        let nested = || {
            let mut parts = path.split('.');
            let first = self.fields.get(parts.next()?)?;
            parts.try_fold(first, |value, part| value.get(part))
        };
        let found = self.fields.get(path).or_else(nested);
        found.ok_or_else(|| format!("there is no field `{path}`; the row has {}", self.names()))
    }

    /// The names of its fields, for messages.
    pub fn names(&self) -> String {
        let names: Vec<_> = self.fields.keys().map(|name| format!("`{name}`")).collect();
        if names.is_empty() { "no fields".into() } else { names.join(", ") }
    }
}

/// The rows of a file.
pub(in super::super) struct Rows(Source);

enum Source {
    Json { reader: BufReader<File>, file: Arc<Path>, line: usize },
    Table(Box<Table>),
}

impl Rows {
    /// Open a file by its extension: `.csv`, `.tsv`, else JSON Lines. Tables are read whole.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] for a table whose header cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        Ok(Self(match extension.as_deref() {
            Some("csv") => Source::Table(Box::new(Table::read(path, b',')?)),
            Some("tsv") => Source::Table(Box::new(Table::read(path, b'\t')?)),
            _ => Source::Json { reader: BufReader::new(File::open(path).map_err(|e| Error::io(path, e))?), file: path.into(), line: 0 },
        }))
    }

    /// All rows, at most `limit`.
    ///
    /// # Errors
    /// As reading them; [`Error::File`] if there are none.
    pub fn read(path: &Path, limit: Option<usize>) -> Result<Vec<Row>> {
        let rows = Self::open(path)?.take(limit.unwrap_or(usize::MAX)).collect::<Result<Vec<_>>>()?;
        if rows.is_empty() { Err(Error::file(path, "holds no examples")) } else { Ok(rows) }
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Json { reader, file, line } => json_row(reader, file, line).transpose(),
            Source::Table(table) => table.next(),
        }
    }
}

/// The next line that is not blank.
fn json_row(reader: &mut BufReader<File>, file: &Arc<Path>, number: &mut usize) -> Result<Option<Row>> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let size = read_line(reader, &mut bytes).map_err(|e| Error::io(file, e))?;
        if size == 0 {
            return Ok(None);
        }
        *number += 1;
        let origin = Origin { file: file.clone(), line: *number };
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").filter(|_| *number == 1).unwrap_or(&bytes);
        let object = check_size(size).and_then(|()| object_of(bytes)).map_err(|reason| origin.error(reason))?;
        if let Some(fields) = object {
            return Ok(Some(Row { fields, origin }));
        }
    }
}

/// A table in memory, and the line in it that is counted so far.
struct Table {
    file: Arc<Path>,
    bytes: Arc<[u8]>,
    records: csv::StringRecordsIntoIter<Cursor<Arc<[u8]>>>,
    header: Vec<String>,
    /// Bytes whose line ends are counted, and how many those are.
    counted: (usize, usize),
}

impl Table {
    fn read(path: &Path, delimiter: u8) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let bytes: Arc<[u8]> = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).into();
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(Cursor::new(bytes.clone()));
        let header = reader.headers().map(|header| header.iter().map(String::from).collect());
        let (file, records) = (path.into(), reader.into_records());
        let mut table = Self { file, bytes, records, header: Vec::new(), counted: (0, 0) };
        table.header = header.map_err(|e| table.error(&e))?;
        Ok(table)
    }

    fn next(&mut self) -> Option<Result<Row>> {
        let record = match self.records.next()? {
            Ok(record) => record,
            Err(e) => return Some(Err(self.error(&e))),
        };
        let line = self.line(record.position());
        if let Err(reason) = check_size(record.as_slice().len()) {
            return Some(Err(Error::Data { file: self.file.to_path_buf(), line, reason }));
        }
        let fields = self.header.iter().cloned().zip(record.iter().map(Value::from)).collect();
        Some(Ok(Row { fields, origin: Origin { file: self.file.clone(), line } }))
    }

    /// The line of a record, from 1. The reader's own count is one short where lines end in `\r\n` or are blank.
    fn line(&mut self, position: Option<&csv::Position>) -> usize {
        let is_end = |byte: &u8| [b'\r', b'\n'].contains(byte);
        let start = position.map_or(0, |position| position.byte() as usize).min(self.bytes.len());
        let start = start + self.bytes[start..].iter().take_while(|byte| is_end(byte)).count();
        let (counted, lines) = self.counted;
        let more = self.bytes[counted.min(start)..start].iter().filter(|byte| **byte == b'\n').count();
        self.counted = (start, lines + more);
        lines + more + 1
    }

    fn error(&mut self, error: &csv::Error) -> Error {
        let reason = match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("the header has {expected_len} fields, this row has {len}")
            }
            csv::ErrorKind::Utf8 { err, .. } => format!("not valid UTF-8: {err}"),
            _ => error.to_string(),
        };
        Error::Data { file: self.file.to_path_buf(), line: self.line(error.position()), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(name: &str, text: &str) -> Result<Vec<(usize, Value)>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let place = format!("{}/", dir.path().display());
        let rows = Rows::read(&path, None).map_err(|e| e.to_string().replace(&place, ""))?;
        Ok(rows.into_iter().map(|row| (row.origin.line, Value::Object(row.fields))).collect())
    }

    #[test]
    fn json_lines_and_tables_give_the_same_rows() {
        let expected = vec![(2, json!({"q": "a, b", "n": "1"})), (4, json!({"q": "c\nd", "n": "2"}))];
        assert_eq!(rows("a.csv", "q,n\n\"a, b\",1\n\n\"c\nd\",2\n").unwrap(), expected);
        assert_eq!(rows("a.csv", "q,n\r\n\"a, b\",1\r\n\r\n\"c\nd\",2\r\n").unwrap(), expected);
        assert_eq!(rows("a.tsv", "\u{feff}q\tn\na, b\t1\n").unwrap(), expected[..1]);
        let lines = rows("a.jsonl", "\u{feff}\n{\"q\": \"a, b\", \"n\": \"1\"}\n\n{\"q\": \"c\\nd\", \"n\": \"2\"}").unwrap();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        assert_eq!(rows("a.csv", "q,n\na,1\nb\n").unwrap_err(), "a.csv:3: the header has 2 fields, this row has 1");
        assert_eq!(rows("a.csv", "q,n\r\na,1\r\nb\r\n").unwrap_err(), "a.csv:3: the header has 2 fields, this row has 1");
        assert_eq!(rows("a.jsonl", "{}\n[1]").unwrap_err(), "a.jsonl:2: expected one JSON object per line, found a list");
        assert!(rows("a.jsonl", "{}\n\n{").unwrap_err().starts_with("a.jsonl:3: not valid JSON: "));
        assert_eq!(rows("a.csv", "q,n\n").unwrap_err(), "a.csv: holds no examples");
        assert!(rows("a.jsonl", "{}\n{\"x\": NaN}").unwrap_err().starts_with("a.jsonl:2: not valid JSON: NaN is no number of JSON"));
    }

    #[test]
    fn a_row_that_is_too_long_is_refused() {
        let most = crate::data::row::MAX_ROW;
        let book = |bytes| "a".repeat(bytes);
        for (name, head, row) in [("a.jsonl", "{}", format!("{{\"q\": \"{}\"}}", book(most))), ("a.csv", "q", book(most + 1))] {
            let error = rows(name, &format!("{head}\n{row}\n{head}\n")).unwrap_err();
            assert!(error.starts_with(&format!("{name}:2: the row has ")) && error.contains("split its text"), "{error}");
        }
        assert_eq!(rows("a.jsonl", &format!("{{\"q\": \"{}\"}}\n", book(most - 100))).unwrap().len(), 1);
    }

    #[test]
    fn fields_of_fields_are_found() {
        let fields = json!({"a.b": 1, "c": {"d": [2]}}).as_object().unwrap().clone();
        let row = Row { fields, origin: Origin { file: Path::new("x").into(), line: 1 } };
        assert_eq!((row.field("a.b").unwrap(), row.field("c.d").unwrap()), (&json!(1), &json!([2])));
        assert_eq!(row.field("c.e").unwrap_err(), "there is no field `c.e`; the row has `a.b`, `c`");
    }
}
