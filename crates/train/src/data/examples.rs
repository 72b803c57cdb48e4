//! Encoded examples, in memory or read from their file when they are needed.

use super::encode::Encoded;
use super::split::split;
use super::stream::Streamed;
use peft_core::Result;
use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The examples that a run draws its batches from.
#[derive(Debug)]
pub struct Examples {
    lengths: Vec<u32>,
    learned: Vec<u32>,
    /// What each comes from: those of one conversation stay together.
    origins: Vec<u32>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Memory(Vec<Encoded>),
    File(Box<Streamed>),
}

impl From<Vec<Encoded>> for Examples {
    fn from(rows: Vec<Encoded>) -> Self {
        let lengths = rows.iter().map(|row| row.ids.len() as u32).collect();
        let learned = rows.iter().map(|row| row.supervised() as u32).collect();
        let origins = (0..rows.len() as u32).collect();
        Self { lengths, learned, origins, source: Source::Memory(rows) }
    }
}

impl Examples {
    /// The same, where each comes from the example of this number: ascending, one for each.
    pub fn with_origins(self, origins: &[u32]) -> Self {
        Self { origins: origins.to_vec(), ..self }
    }

    /// Examples of a file, with the tokens and learned tokens of each.
    pub(super) fn streamed(file: Streamed, lengths: Vec<u32>, learned: Vec<u32>, origins: Vec<u32>) -> Self {
        Self { lengths, learned, origins, source: Source::File(Box::new(file)) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The tokens of each.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// How many tokens of one count in the loss.
    pub fn learned(&self, example: usize) -> usize {
        self.learned[example] as usize
    }

    /// One of them.
    ///
    /// # Errors
    /// For a file that cannot be read any more, or that has changed since it was opened.
    pub fn get(&self, example: usize) -> Result<Cow<'_, Encoded>> {
        match &self.source {
            Source::Memory(rows) => Ok(Cow::Borrowed(&rows[example])),
            Source::File(file) => file.get(example, self.lengths[example], self.learned[example]).map(Cow::Owned),
        }
    }

    /// All of them, in memory.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn into_rows(self) -> Result<Vec<Encoded>> {
        match self.source {
            Source::Memory(rows) => Ok(rows),
            Source::File(_) => (0..self.len()).map(|example| self.get(example).map(Cow::into_owned)).collect(),
        }
    }

    /// Set a part aside for evaluation, which is read into memory; see [`split`]. What comes from one conversation counts as one and
    /// stays on one side.
    ///
    /// # Errors
    /// As [`split`] and [`get`](Self::get).
    pub fn split(self, eval: f64, seed: u64) -> Result<(Self, Vec<Encoded>)> {
        let groups: Vec<Vec<usize>> = {
            let indices: Vec<usize> = (0..self.len()).collect();
            indices.chunk_by(|a, b| self.origins[*a] == self.origins[*b]).map(<[usize]>::to_vec).collect()
        };
        let (train, eval) = split(groups.len(), eval, seed)?;
        let those = |chosen: Vec<usize>| chosen.into_iter().flat_map(|group| groups[group].clone()).collect::<Vec<_>>();
        let aside = those(eval).iter().map(|example| self.get(*example).map(Cow::into_owned)).collect::<Result<_>>()?;
        let train = those(train);
        Ok((self.keep(&train), aside))
    }

    /// Those of ascending indices `kept` alone.
    fn keep(self, kept: &[usize]) -> Self {
        fn these<T>(all: Vec<T>, kept: &[usize]) -> Vec<T> {
            let mut kept = kept.iter().peekable();
            all.into_iter().enumerate().filter(|(index, _)| kept.next_if(|next| *next == index).is_some()).map(|(_, item)| item).collect()
        }
        let source = match self.source {
            Source::Memory(rows) => Source::Memory(these(rows, kept)),
            Source::File(file) => Source::File(Box::new(file.with_lines(|lines| these(lines, kept)))),
        };
        Self { lengths: these(self.lengths, kept), learned: these(self.learned, kept), origins: these(self.origins, kept), source }
    }

    /// A number that other examples, or the same in another order, do not share.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match &self.source {
            Source::Memory(rows) => rows.iter().for_each(|row| row.hash(&mut hasher)),
            Source::File(file) => file.hash(&mut hasher),
        }
        hasher.finish()
    }
}
