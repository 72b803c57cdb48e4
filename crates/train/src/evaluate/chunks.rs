//! A text file in pieces, so that it never has to fit in memory.

use peft_core::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Pieces of a text file, cut where tokenizers cut too: before the first word of a line, else before a space.
#[derive(Debug)]
pub(super) struct Chunks {
    file: File,
    path: PathBuf,
    size: usize,
    /// Bytes read and not given out.
    buffer: Vec<u8>,
    lines: usize,
    ended: bool,
}

impl Chunks {
    /// Pieces of about `size` bytes.
    pub fn open(path: &Path, size: usize) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        Ok(Self { file, path: path.into(), size, buffer: Vec::new(), lines: 0, ended: false })
    }

    /// Read until there are `size` bytes, or the file ends.
    fn fill(&mut self) -> Result<()> {
        let wanted = self.size.saturating_sub(self.buffer.len()) as u64;
        let read = (&self.file).take(wanted).read_to_end(&mut self.buffer).map_err(|e| Error::io(&self.path, e))?;
        self.ended = (read as u64) < wanted;
        if self.lines == 0 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
        }
        Ok(())
    }

    fn text(&mut self, bytes: Vec<u8>) -> Result<String> {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let text = String::from_utf8(bytes).map_err(|e| {
            let line = self.lines + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            Error::Data { file: self.path.clone(), line, reason: "not valid UTF-8".into() }
        });
        self.lines += lines;
        text
    }
}

impl Iterator for Chunks {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.ended
            && let Err(error) = self.fill()
        {
            self.ended = true;
            return Some(Err(error));
        }
        if self.buffer.is_empty() {
            return None;
        }
        let end = if self.ended { self.buffer.len() } else { cut(&self.buffer) };
        let rest = self.buffer.split_off(end);
        let bytes = std::mem::replace(&mut self.buffer, rest);
        Some(self.text(bytes))
    }
}

/// Where to cut `bytes`, above 0: as late as possible before a line's first word, else before a space, else before a character.
fn cut(bytes: &[u8]) -> usize {
    let starts_line = |i: &usize| bytes[i - 1] == b'\n' && !bytes[*i].is_ascii_whitespace();
    let starts_space = |i: &usize| bytes[*i] == b' ' && !bytes[i - 1].is_ascii_whitespace();
    let starts_character = |i: &usize| bytes[*i] & 0xc0 != 0x80;
    let last = |found: &dyn Fn(&usize) -> bool| (1..bytes.len()).rev().find(|i| found(i));
    last(&starts_line).or_else(|| last(&starts_space)).or_else(|| last(&starts_character)).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: impl AsRef<[u8]>, size: usize) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, text).unwrap();
        Chunks::open(&path, size).unwrap().collect()
    }

    #[test]
    fn the_pieces_are_the_text() {
        let text = "First line\n\n  second, longer line\nthird ünd größer line\nx".repeat(20);
        for size in [5, 16, 50, 10_000] {
            let chunks = chunks(&text, size).unwrap();
            assert_eq!(chunks.concat(), text, "{size}");
            assert!(chunks.iter().all(|chunk| chunk.len() <= size));
        }
    }

    #[test]
    fn cuts_come_before_words_of_a_line_then_before_spaces_then_anywhere() {
        assert_eq!(chunks("ab cd\nef gh\nij", 12).unwrap(), ["ab cd\n", "ef gh\nij"]);
        assert_eq!(chunks("ab cd ef", 7).unwrap(), ["ab cd", " ef"]);
        assert_eq!(chunks("äöü", 3).unwrap(), ["ä", "ö", "ü"]);
    }

    #[test]
    fn a_mark_of_byte_order_is_no_text_and_an_empty_file_has_none() {
        assert_eq!(chunks("\u{feff}ab", 100).unwrap(), ["ab"]);
        assert_eq!(chunks("", 100).unwrap(), [""; 0]);
    }

    #[test]
    fn the_line_that_is_not_utf8_is_named() {
        let error = chunks(b"ab\ncd\n\xff\xff\xff\n", 7).unwrap_err().to_string();
        assert!(error.ends_with("a.txt:3: not valid UTF-8"), "{error}");
    }
}
