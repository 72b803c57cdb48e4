//! Who says which part of a rendered conversation.
//!
//! All that messages say is replaced by characters of a script that nobody uses, one for each piece (a content, a name, an argument of a
//! tool), and the conversation is rendered once more. Where the two texts differ, the character names the piece. Spaces, quotes and
//! all words that the template itself knows stay as they are, so that a template which trims, splits (`</think>`), escapes or compares
//! what is said does the same with both. If the texts differ in anything else, the pieces are replaced in halves, and so on to a piece
//! alone: what differs then is that piece.

use super::conversation::is_shown;
use super::jsonl::Message;
use super::literals::literals;
use super::messages::SAYINGS;
use super::template::{ChatTemplate, Variables};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// A part of a text that a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
    pub message: usize,
}

/// What is known of the parts of a text.
#[derive(Debug, Default)]
pub(super) struct Spans {
    /// In the order of the text.
    pub spans: Vec<Span>,
    /// For each message that says something in the text, where that begins and ends.
    pub of_message: HashMap<usize, (usize, usize)>,
    /// Pieces that the text does not show, or not as they are: the message and what is said.
    pub hidden: Vec<(usize, String)>,
}

/// Renderings that may be spent on one conversation.
const BUDGET: usize = 48;
/// Keys whose texts say what others are: templates compare them.
const NAMES: [&str; 9] = ["id", "type", "tool_call_id", "call_id", "role", "index", "channel", "recipient", "content_type"];

/// A piece of what messages say.
struct Piece {
    message: usize,
    /// Whether a text without it lacks something that the message says.
    counts: bool,
    text: String,
}

impl Spans {
    /// Those of `text`, the rendering of `messages`.
    pub fn of(template: &ChatTemplate, messages: &[Message], variables: &Variables, text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        each_piece(&mut messages.to_vec(), |message, counts, said| pieces.push(Piece { message, counts, text: said.clone() }));
        let letters = Letters::new(pieces.len(), text).ok_or_else(|| format!("it has more than {MOST} texts"))?;
        let words = Words::of(template, &pieces);
        let marked = |chosen: &[usize]| {
            let (mut copy, mut number, mut next) = (messages.to_vec(), 0, 0);
            each_piece(&mut copy, |_, _, said| {
                if chosen.get(next) == Some(&number) {
                    *said = words.marked(said, letters.of_pieces[number]);
                    next += 1;
                }
                number += 1;
            });
            template.try_render(&copy, variables, false).ok()
        };
        let mut found = Found::default();
        let all: Vec<usize> = (0..pieces.len()).filter(|piece| !pieces[*piece].text.trim().is_empty()).collect();
        let mut open = vec![all.clone()];
        let mut budget = BUDGET;
        let mut sure = HashSet::new();
        while let Some(chosen) = open.pop() {
            if chosen.is_empty() || budget == 0 {
                continue;
            }
            budget -= 1;
            let other = marked(&chosen);
            let aligned = other.as_deref().and_then(|other| aligned(text, other, &letters));
            match (aligned, chosen.len()) {
                (Some(places), _) => {
                    found.0.extend(places);
                    sure.extend(chosen);
                }
                (None, 1) => found.0.extend(difference(text, &other.unwrap_or_default(), chosen[0])),
                (None, count) => open.extend([chosen[count / 2..].to_vec(), chosen[..count / 2].to_vec()]),
            }
        }
        let mut shown: HashMap<usize, usize> = HashMap::new();
        found.0.iter().for_each(|(start, end, piece)| *shown.entry(*piece).or_default() += text[*start..*end].chars().count());
        let lacks = |piece: usize| shown.get(&piece).is_none_or(|shown| *shown < words.replaced(&pieces[piece].text));
        // A message may say the same by two names, of which the template reads one.
        let whole: HashSet<(usize, &str)> =
            all.iter().filter(|piece| !lacks(**piece)).map(|piece| (pieces[*piece].message, pieces[*piece].text.as_str())).collect();
        let is_hidden = |piece: &usize| {
            let Piece { message, counts, text: said } = &pieces[*piece];
            *counts && lacks(*piece) && !whole.contains(&(*message, said.as_str())) && (sure.contains(piece) || !is_shown(text, said))
        };
        let hidden =
            all.iter().filter(|piece| is_hidden(piece)).map(|piece| (pieces[*piece].message, pieces[*piece].text.clone())).collect();
        let spans = found.spans(text, &pieces, &words);
        let mut of_message = HashMap::new();
        for span in &spans {
            let whole = of_message.entry(span.message).or_insert((span.start, span.end));
            *whole = (whole.0.min(span.start), whole.1.max(span.end));
        }
        Ok(Self { spans, of_message, hidden })
    }
}

/// Places of pieces, as byte offsets of their first and behind their last character.
#[derive(Default)]
struct Found(Vec<(usize, usize, usize)>);

impl Found {
    /// Neighbours of the same piece as one span, with the spaces and signs at its ends.
    fn spans(&mut self, text: &str, pieces: &[Piece], words: &Words) -> Vec<Span> {
        self.0.sort_unstable();
        let mut merged: Vec<(usize, usize, usize)> = Vec::new();
        for (start, end, piece) in self.0.iter().copied() {
            match merged.last_mut() {
                Some(last) if last.2 == piece => last.1 = last.1.max(end),
                _ => merged.push((start, end, piece)),
            }
        }
        let mut spans = Vec::new();
        for (start, end, piece) in merged {
            let (before, after) = words.ends(&pieces[piece].text);
            let more_before: usize =
                before.chars().rev().zip(text[..start].chars().rev()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
            let more_after: usize = after.chars().zip(text[end..].chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
            spans.push(Span { start: start - more_before, end: end + more_after, message: pieces[piece].message });
        }
        spans
    }
}

/// The pieces' places, if the texts differ in marked characters alone.
fn aligned(text: &str, marked: &str, letters: &Letters) -> Option<Vec<(usize, usize, usize)>> {
    let mut places = Vec::new();
    let mut others = marked.chars();
    for (at, c) in text.char_indices() {
        let other = others.next()?;
        if other != c {
            places.push((at, at + c.len_utf8(), *letters.pieces.get(&other)?));
        }
    }
    others.next().is_none().then_some(places)
}

/// Where a text differs from one with a single piece replaced.
fn difference(text: &str, marked: &str, piece: usize) -> Option<(usize, usize, usize)> {
    let start = common_prefix(text, marked);
    let rest = text[start..].chars().rev().zip(marked[start..].chars().rev()).take_while(|(a, b)| a == b);
    let end = text.len() - rest.map(|(a, _)| a.len_utf8()).sum::<usize>();
    (start < end && !marked.is_empty()).then_some((start, end, piece))
}

pub(super) fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// Ideographs of extensions B, E and F: printable letters without case, which hardly anyone writes. Each stands for a piece.
const LETTERS: [(u32, u32); 3] = [(0x20000, 42_720), (0x2B820, 5_762), (0x2CEB0, 7_473)];
const MOST: usize = 42_720 + 5_762 + 7_473;

/// The letters that stand for pieces.
struct Letters {
    of_pieces: Vec<char>,
    pieces: HashMap<char, usize>,
}

impl Letters {
    /// Letters for `count` pieces, none of which `text` has itself; none if there are not so many.
    fn new(count: usize, text: &str) -> Option<Self> {
        let all = || LETTERS.iter().flat_map(|(first, count)| (*first..first + count).filter_map(char::from_u32));
        let taken: HashSet<char> = text.chars().filter(|c| u32::from(*c) >= LETTERS[0].0).collect();
        let of_pieces: Vec<char> = all().filter(|letter| !taken.contains(letter)).take(count).collect();
        let pieces = of_pieces.iter().enumerate().map(|(piece, letter)| (*letter, piece)).collect();
        (of_pieces.len() == count).then_some(Self { of_pieces, pieces })
    }
}

/// The words that the template knows.
struct Words(Vec<String>);

impl Words {
    /// Those that pieces hold.
    fn of(template: &ChatTemplate, pieces: &[Piece]) -> Self {
        let mut words = literals(template.source());
        words.retain(|word| !word.trim().is_empty() && pieces.iter().any(|piece| piece.text.contains(word.as_str())));
        Self(words)
    }

    /// For each byte of `said`, whether it stays as it is.
    fn kept(&self, said: &str) -> Vec<bool> {
        let mut kept = vec![false; said.len()];
        for word in &self.0 {
            for (at, _) in said.match_indices(word.as_str()) {
                kept[at..at + word.len()].fill(true);
            }
        }
        for (at, c) in said.char_indices().filter(|(_, c)| stays(*c)) {
            kept[at..at + c.len_utf8()].fill(true);
        }
        if kept.iter().all(|stays| *stays) {
            // All of it is known to the template: all of it is replaced.
            said.char_indices().for_each(|(at, c)| kept[at..at + c.len_utf8()].fill(stays(c)));
        }
        kept
    }

    /// How many characters of `said` are replaced.
    fn replaced(&self, said: &str) -> usize {
        let kept = self.kept(said);
        said.char_indices().filter(|(at, _)| !kept[*at]).count()
    }

    fn marked(&self, said: &str, letter: char) -> String {
        let kept = self.kept(said);
        said.char_indices().map(|(at, c)| if kept[at] { c } else { letter }).collect()
    }

    /// What stays at the beginning and at the end of `said`.
    fn ends<'a>(&self, said: &'a str) -> (&'a str, &'a str) {
        let kept = self.kept(said);
        let first = said.char_indices().find(|(at, _)| !kept[*at]).map_or(0, |(at, _)| at);
        let last = said.char_indices().rev().find(|(at, _)| !kept[*at]).map_or(said.len(), |(at, c)| at + c.len_utf8());
        (&said[..first], &said[last..])
    }
}

/// Characters that templates trim, or that JSON and Python escape.
fn stays(c: char) -> bool {
    c.is_whitespace() || c.is_control() || ['"', '\'', '\\'].contains(&c)
}

/// All that messages say, piece by piece, and whether it is content, reasoning or a call: every text but those that templates tell
/// things apart by.
fn each_piece(messages: &mut [Message], mut each: impl FnMut(usize, bool, &mut String)) {
    for (index, message) in messages.iter_mut().enumerate() {
        match &mut message.form {
            Some(form) => each_text(form, &mut |text| each(index, true, text)),
            None => each(index, true, &mut message.content),
        }
        for (key, value) in &mut message.extra {
            let counts = message.role == "assistant" && SAYINGS.contains(&key.as_str());
            if !NAMES.contains(&key.as_str()) {
                each_text(value, &mut |text| each(index, counts, text));
            }
        }
    }
}

fn each_text(value: &mut Value, each: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, each)),
        Value::Object(entries) => {
            entries.iter_mut().filter(|(key, _)| !NAMES.contains(&key.as_str())).for_each(|(_, value)| each_text(value, each))
        }
        _ => {}
    }
}
