//! Results on stdout, progress on stderr.

use crate::terminal::plain;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use peft_core::{Error, Result};
use serde::{Serialize, Serializer};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Print `value` as one JSON object, or `text` for people.
pub fn print<T: Serialize>(json: bool, value: &T, text: impl std::fmt::Display) -> Result<()> {
    let line = if json { serde_json::to_string(value).map_err(|e| Error::InvalidConfig(e.to_string()))? } else { text.to_string() };
    emit(&format!("{line}\n"))
}

/// A path as JSON has it, whose strings are Unicode: what is no text in a name is approximated.
pub fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// As [`shown`], for a field of a result.
pub fn path<S: Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// As [`shown`], for a field of a result that may be missing.
pub fn some_path<S: Serializer>(path: &Option<PathBuf>, to: S) -> std::result::Result<S::Ok, S::Error> {
    path.as_deref().map(Path::to_string_lossy).serialize(to)
}

/// Tell the user something on stderr. Where nobody can be told, since stderr is closed or full, the work goes on.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{}", plain(&text.to_string()));
}

/// As [`print`], beside results that went to `files`: on stderr where one of them is stdout itself, which then holds that result alone.
pub fn print_beside<T: Serialize>(files: &[&Path], json: bool, value: &T, text: impl std::fmt::Display) -> Result<()> {
    if !files.iter().any(|file| is_stdout(file)) {
        return print(json, value, text);
    }
    let line = if json { serde_json::to_string(value).map_err(|e| Error::InvalidConfig(e.to_string()))? } else { text.to_string() };
    note(line);
    Ok(())
}

/// Whether a path leads to what stdout is.
#[cfg(unix)]
fn is_stdout(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((place(path), place(Path::new("/dev/stdout"))), (Ok(a), Ok(b)) if a == b)
}

#[cfg(not(unix))]
fn is_stdout(_path: &Path) -> bool {
    false
}

/// Write to stdout; a reader that has gone away is an error like any other, not a panic.
pub fn emit(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let text = if stdout.is_terminal() { plain(text) } else { text.to_string() };
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|e| Error::io("stdout", e))
}

/// A progress bar on stderr where that is a terminal; nothing elsewhere.
pub fn bar(length: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg} ({eta} left)").expect("a valid template");
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(plain(what));
    bar
}

/// A progress bar of `bytes` bytes on stderr where that is a terminal; nothing elsewhere.
pub fn byte_bar(bytes: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ({eta} left)");
    bar.set_style(style.expect("a valid template").progress_chars("=> "));
    bar.set_prefix(plain(what));
    bar
}

/// Whether progress bars are visible.
pub fn is_interactive() -> bool {
    std::io::stderr().is_terminal()
}

/// Rows as columns of equal width.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>();
        cells.join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
