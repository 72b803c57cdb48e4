//! One row of a data file: how long it may be, and the JSON object that it is.

use super::messages::kind;
use serde_json::{Map, Value};
use std::io::{BufRead, Read};

/// The most bytes of a row: some ten books. Tokenizers take more than a hundred times the memory of a text that is one word to them.
pub(crate) const MAX_ROW: usize = 16 << 20;

/// An error for a row of so many bytes, if they are too many.
pub(crate) fn check_size(bytes: usize) -> Result<(), String> {
    if bytes <= MAX_ROW {
        return Ok(());
    }
    Err(format!("the row has {bytes} bytes, and {MAX_ROW} are the most that one may have; split its text into several rows"))
}

/// Read a line with its end into `line`, and no more of it than shows that it is too long.
///
/// Gives the bytes of the line in the file; 0 at the end of the file.
pub(crate) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    let kept = reader.by_ref().take(MAX_ROW as u64 + 1).read_until(b'\n', line)?;
    let left = if kept > MAX_ROW && line.last() != Some(&b'\n') { reader.skip_until(b'\n')? } else { 0 };
    Ok(kept + left)
}

/// The object of a line, or nothing for a blank one.
pub(crate) fn object_of(line: &[u8]) -> Result<Option<Map<String, Value>>, String> {
    check_size(line.len())?;
    let line = std::str::from_utf8(line).map_err(|e| format!("not valid UTF-8 at byte {}", e.valid_up_to() + 1))?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(other) => Err(format!("expected one JSON object per line, found {}", kind(&other))),
        Err(error) => {
            // serde_json counts lines within the text it was given, which is always line 1 here.
            let (reason, remedy) = fault(&error, line.as_bytes());
            let remedy = remedy.unwrap_or("each line must hold one whole JSON object");
            Err(format!("not valid JSON: {reason} at column {}; {remedy}", error.column()))
        }
    }
}

/// What is wrong with a text that is not JSON, and what would be right where that can be told.
pub(super) fn fault(error: &serde_json::Error, json: &[u8]) -> (String, Option<&'static str>) {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    if reason.contains("surrogate") || reason.contains("end of hex escape") {
        return ("half of a surrogate pair stands alone".into(), Some(SURROGATE));
    }
    let line = json.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    // The column is that of the first or of the second character of such a word.
    let near = (error.column().saturating_sub(2)..=error.column()).filter_map(|start| line.get(start..));
    let number = near.flat_map(|rest| NO_NUMBERS.iter().find(|word| rest.starts_with(word.as_bytes()))).next();
    match number {
        Some(word) => (format!("{word} is no number of JSON"), Some(NO_NUMBER)),
        None => (reason.into(), None),
    }
}

/// What other languages write for what is no number.
const NO_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
const NO_NUMBER: &str = "write a number or null in its place";
const SURROGATE: &str = r"write the character itself or both halves, as in \ud83d\ude00, or leave the escape out";
