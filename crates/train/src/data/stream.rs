//! Examples of a JSON Lines file that is not kept in memory.

use super::encode::{EncodeConfig, Encoded, Encoder, Made};
use super::examples::Examples;
use super::jsonl::{BYTE_ORDER_MARK, COMPRESSED, Example, GZIP, NO_EXAMPLES, parse_line};
use super::keys::Unused;
use super::row::{MAX_ROW, check_size, read_line};
use super::shapes::Parsed;
use super::stats::EncodeStats;
use super::template::ChatTemplate;
use super::tokenizer::TextTokenizer;
use peft_core::{Error, Result};
use rayon::prelude::*;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A file of which the place of every usable line is known: with what [`Examples`] notes, 28 bytes an example, whatever its length.
#[derive(Debug)]
pub(super) struct Streamed {
    path: Arc<Path>,
    file: Mutex<File>,
    lines: Vec<Line>,
    tokenizer: TextTokenizer,
    template: Option<ChatTemplate>,
    config: EncodeConfig,
    /// Of all tokens of the file.
    hash: u64,
}

/// Where a line stands in the file.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct Line {
    offset: u64,
    bytes: u32,
    /// Which of the sequences that it gives.
    part: u32,
}

/// Lines that are encoded together, on all cores.
const TOGETHER: usize = 1024;
/// The bytes after which no further line is read for that.
const BYTES_TOGETHER: usize = MAX_ROW;

/// Examples that are read from a JSON Lines file and encoded each time they are needed, so that memory does not grow with the file.
///
/// The file is read through once at first, which checks every line, counts what is cut and skipped, and finds the length of every
/// example. It must not change while it is in use. `on_progress` gets the bytes read and all bytes.
///
/// # Errors
/// As [`read_examples`](super::read_examples) and [`Encoder::encode_all`] for the whole file; for files that are no JSON Lines.
pub fn stream_examples(
    path: impl AsRef<Path>,
    tokenizer: TextTokenizer,
    template: Option<ChatTemplate>,
    config: EncodeConfig,
    mut on_progress: impl FnMut(u64, u64),
) -> Result<(Examples, EncodeStats)> {
    let path: Arc<Path> = path.as_ref().into();
    let failed = |e| Error::io(&path, e);
    let file = File::open(&path).map_err(failed)?;
    let all_bytes = file.metadata().map_err(failed)?.len();
    let mut reader = LineReader::new(BufReader::with_capacity(1 << 20, file));
    match reader.reader.fill_buf().map_err(failed)? {
        begin if begin.starts_with(GZIP) => return Err(Error::file(&path, COMPRESSED)),
        begin if begin.trim_ascii_start().starts_with(b"[") => return Err(Error::file(&path, AN_ARRAY)),
        _ => {}
    }
    let mut encoder = Encoder::new(&tokenizer, template.as_ref(), config.clone())?;
    let (mut lines, mut lengths, mut learned, mut origins) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut examples = 0;
    let (mut hasher, mut unused) = (DefaultHasher::new(), Unused::default());
    loop {
        let texts = reader.take(TOGETHER).map_err(failed)?;
        if texts.is_empty() {
            break;
        }
        let read: Vec<Result<Option<Encodings>>> = texts.par_iter().map(|text| text.encode(&path, &encoder)).collect();
        for read in read {
            let Some(Encodings { line, made, keys }) = read? else { continue };
            unused.add(&keys);
            for (part, made) in made.into_iter().enumerate() {
                let Some(row) = encoder.count(made) else { continue };
                row.hash(&mut hasher);
                lines.push(Line { part: part as u32, ..line });
                lengths.push(row.ids.len() as u32);
                learned.push(row.supervised() as u32);
                origins.push(examples);
            }
            examples += 1;
        }
        on_progress(reader.offset, all_bytes);
    }
    let stats = encoder.stats();
    if stats.examples + stats.skipped.all() == 0 {
        return Err(Error::file(&path, NO_EXAMPLES));
    }
    encoder.check_any(stats.examples)?;
    unused.warn(&path);
    let file = Mutex::new(reader.reader.into_inner());
    let streamed = Streamed { path, file, lines, tokenizer, template, config, hash: hasher.finish() };
    Ok((Examples::streamed(streamed, lengths, learned, origins), stats))
}

impl Streamed {
    /// Read and encode an example again, which has `length` tokens, `learned` of which count.
    pub fn get(&self, example: usize, length: u32, learned: u32) -> Result<Encoded> {
        let line = self.lines[example];
        let text = self.read(line).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => Error::file(&self.path, CHANGED),
            _ => Error::io(&self.path, e),
        })?;
        let changed = || Error::file(&self.path, CHANGED);
        let parsed = parse_line(&text).ok().flatten().ok_or_else(changed)?;
        // Nothing here can fail but for a change of the file: the line was encoded before.
        let encoder = Encoder::of_valid(&self.tokenizer, self.template.as_ref(), self.config.clone());
        let made = encoder.make(&Example::parsed(parsed, &self.path, 0)).map_err(|_| changed())?;
        let row = made.into_iter().nth(line.part as usize).and_then(|made| made.row.ok()).ok_or_else(changed)?;
        match row.ids.len() == length as usize && row.supervised() == learned as usize {
            true => Ok(row),
            false => Err(changed()),
        }
    }

    fn read(&self, line: Line) -> std::io::Result<Vec<u8>> {
        let mut text = vec![0; line.bytes as usize];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(line.offset))?;
        file.read_exact(&mut text)?;
        Ok(text)
    }

    /// The same with other lines.
    pub fn with_lines(self, edit: impl FnOnce(Vec<Line>) -> Vec<Line>) -> Self {
        Self { lines: edit(self.lines), ..self }
    }
}

const AN_ARRAY: &str = "is a JSON array; streaming needs JSON Lines, one object per line";
const CHANGED: &str = "has changed since the run began; a file that is streamed must stay as it is";

impl Hash for Streamed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
        self.lines.hash(state);
    }
}

/// A line with its place.
struct Text {
    line: Line,
    number: usize,
    bytes: Vec<u8>,
}

/// What became of a line.
struct Encodings {
    line: Line,
    made: Vec<Made>,
    /// Its keys that do nothing.
    keys: Vec<&'static str>,
}

impl Text {
    fn encode(&self, path: &Arc<Path>, encoder: &Encoder) -> Result<Option<Encodings>> {
        let failed = |reason| Error::Data { file: path.to_path_buf(), line: self.number, reason };
        check_size(self.line.bytes as usize).map_err(failed)?;
        let Some(parsed) = parse_line(&self.bytes).map_err(failed)? else { return Ok(None) };
        let Parsed { unused: keys, .. } = &parsed;
        let (line, keys) = (self.line, keys.clone());
        let made = encoder.make(&Example::parsed(parsed, path, self.number))?;
        Ok(Some(Encodings { line, made, keys }))
    }
}

/// Reads lines and keeps count of where it is.
struct LineReader {
    reader: BufReader<File>,
    offset: u64,
    number: usize,
}

impl LineReader {
    fn new(reader: BufReader<File>) -> Self {
        Self { reader, offset: 0, number: 0 }
    }

    /// Up to `count` of the next lines; none at the end of the file.
    fn take(&mut self, count: usize) -> std::io::Result<Vec<Text>> {
        let (mut texts, mut held) = (Vec::new(), 0);
        while texts.len() < count && held < BYTES_TOGETHER {
            let mut bytes = Vec::new();
            let read = read_line(&mut self.reader, &mut bytes)?;
            if read == 0 {
                break;
            }
            let mark = if self.number == 0 && bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            bytes.drain(..mark);
            self.number += 1;
            held += bytes.len();
            let length =
                (read - mark).try_into().map_err(|_| std::io::Error::other(format!("line {} is longer than 4 GiB", self.number)))?;
            texts.push(Text { line: Line { offset: self.offset + mark as u64, bytes: length, part: 0 }, number: self.number, bytes });
            self.offset += read as u64;
        }
        Ok(texts)
    }
}
