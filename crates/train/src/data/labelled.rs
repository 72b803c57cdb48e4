//! Labelled texts from data files, and the set of their labels.

use super::jsonl::each_object;
use super::keys::{self, Unused};
use super::messages::{kind, messages};
use super::shapes::{string, without_nulls};
use peft_core::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// A text or a pair of texts with its label, `{"text", "label"}` or `{"text", "text_pair", "label"}`.
///
/// Messages, `{"messages": […], "label"}` or a list in the place of a text, are read as one text: that of a single message, else a line
/// `role: content` for each. An encoder's checkpoint has no chat template that would say it otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// The text.
    pub text: String,
    /// The text that it is paired with, if any.
    pub pair: Option<String>,
    /// What is to be predicted.
    pub label: RawLabel,
    /// The data file.
    pub file: Arc<Path>,
    /// The line in it, from 1.
    pub line: usize,
}

/// A label as a file has it.
#[derive(Debug, Clone, PartialEq)]
pub enum RawLabel {
    /// A string.
    Name(String),
    /// A whole number, written without a point.
    Integer(i64),
    /// A number with a point or an exponent.
    Number(f64),
}

impl Labelled {
    /// An error about this example.
    pub fn error(&self, reason: impl ToString) -> Error {
        Error::Data { file: self.file.to_path_buf(), line: self.line, reason: reason.to_string() }
    }

    fn parse(object: &Map<String, Value>, file: &Arc<Path>, line: usize) -> Result<Self, String> {
        let (text, pair) = texts(object)?;
        Ok(Self { text, pair, label: label(object)?, file: file.clone(), line })
    }
}

/// The text of an object, and the one that it is paired with.
fn texts(object: &Map<String, Value>) -> Result<(String, Option<String>), String> {
    let pair = object.contains_key("text_pair").then(|| text(object, "text_pair")).transpose()?;
    let key = ["messages", "conversations"].into_iter().find(|key| object.contains_key(*key) && !object.contains_key("text"));
    Ok((text(object, key.unwrap_or("text"))?, pair))
}

/// A text, or messages as one.
fn text(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    if !object.get(key).is_some_and(Value::is_array) {
        return string(object, key);
    }
    match messages(key, &object[key])?.as_slice() {
        [alone] => Ok(alone.content.clone()),
        several => Ok(several.iter().map(|message| format!("{}: {}", message.role, message.content)).collect::<Vec<_>>().join("\n")),
    }
}

fn label(object: &Map<String, Value>) -> Result<RawLabel, String> {
    match object.get("label") {
        Some(Value::String(name)) => Ok(RawLabel::Name(name.clone())),
        Some(Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Ok(RawLabel::Integer(integer)),
            (None, Some(value)) => Ok(RawLabel::Number(value)),
            (None, None) => Err(format!("`label` {number} is too large a number")),
        },
        Some(other) => Err(format!("`label` must be a string or a number, found {}", kind(other))),
        None => Err("`label` is missing".into()),
    }
}

/// Read all examples of a file: JSON Lines, or one JSON array of objects.
///
/// Blank lines are skipped, further keys are ignored; those that mean something elsewhere are warned of.
///
/// # Errors
/// [`Error::Data`] with the file and line of the first object that is not an example; [`Error::File`] if there is none at all.
pub fn read_labelled(path: impl AsRef<Path>) -> Result<Vec<Labelled>> {
    let path = path.as_ref();
    let file: Arc<Path> = path.into();
    let mut examples = Vec::new();
    each_known(path, &["label", "text_pair"], |line, object| {
        examples.push(Labelled::parse(&object, &file, line)?);
        Ok(())
    })?;
    Ok(examples)
}

/// Read the texts of a file as [`read_labelled`] does, each with the one that it is paired with, if any. Labels are not needed.
///
/// # Errors
/// As [`read_labelled`].
pub fn read_texts(path: impl AsRef<Path>) -> Result<Vec<(String, Option<String>)>> {
    let mut all = Vec::new();
    each_known(path.as_ref(), &["label", "labels", "text_pair"], |_, object| {
        all.push(texts(&object)?);
        Ok(())
    })?;
    Ok(all)
}

/// Take every object of a file without its nulls, and warn of keys that say something and do not act.
fn each_known(path: &Path, act: &[&str], mut take: impl FnMut(usize, Map<String, Value>) -> Result<(), String>) -> Result<()> {
    let mut unused = Unused::default();
    each_object(path, |line, object| {
        let object = without_nulls(&object);
        unused.add(&keys::unused(&object, |key| act.contains(&key)));
        take(line, object)
    })?;
    unused.warn(path);
    Ok(())
}

/// What the labels of a data set mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// Numbers to be predicted.
    Numbers,
    /// One class of several.
    Classes {
        /// What the outputs of a classifier are called.
        names: Vec<String>,
        /// What the data call them, in the same order.
        keys: Vec<String>,
    },
}

/// A label as a model learns it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Label {
    /// The number of a class.
    Class(usize),
    /// A number.
    Number(f32),
}

impl Labels {
    /// The labels of training data: numbers if any is written with a point, else classes, ordered by number or by the alphabet.
    ///
    /// `known` are the outputs of a classifier that already exists; empty if there is none. They win if the data's labels are among them:
    /// by name, or, for whole numbers, by number.
    ///
    /// # Errors
    /// [`Error::Data`] for a label of another kind than those before it, and if there is one class alone.
    pub fn collect(examples: &[Labelled], known: &[String]) -> Result<Self> {
        let is_name = |example: &&Labelled| matches!(example.label, RawLabel::Name(_));
        let (name, number) = (examples.iter().find(is_name), examples.iter().find(|example| !is_name(example)));
        if let (Some(name), Some(number)) = (name, number) {
            let (later, earlier) = if name.line > number.line { (name, number) } else { (number, name) };
            return Err(later.error(format!("`label` {} is of another kind than {} in line {}", later.label, earlier.label, earlier.line)));
        }
        if examples.iter().any(|example| matches!(example.label, RawLabel::Number(_))) {
            return Ok(Self::Numbers);
        }
        let keys = distinct(examples);
        if let Some(labels) = Self::among(known, &keys) {
            return Ok(labels);
        }
        match (keys.as_slice(), examples.first()) {
            ([one], Some(example)) => Err(example.error(format!("all examples have the label {one}; a classifier needs at least two"))),
            _ => Ok(Self::Classes { names: keys.clone(), keys }),
        }
    }

    /// The known labels, if all keys are among them.
    fn among(known: &[String], keys: &[String]) -> Option<Self> {
        let named = keys.iter().all(|key| known.contains(key));
        let numbered = keys.iter().all(|key| key.parse().is_ok_and(|id: usize| id < known.len()));
        // Names that are numbers themselves must not be taken for counts.
        let countable = known.iter().all(|name| name.parse::<i64>().is_err());
        let ids = || (0..known.len()).map(|id| id.to_string()).collect();
        match known.len() > 1 {
            true if named => Some(Self::Classes { names: known.into(), keys: known.into() }),
            true if numbered && countable => Some(Self::Classes { names: known.into(), keys: ids() }),
            _ => None,
        }
    }

    /// What the outputs of a classifier are called; for numbers, transformers' name of a single output.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Numbers => vec!["LABEL_0".into()],
            Self::Classes { names, .. } => names.clone(),
        }
    }

    /// The label of an example as the model learns it.
    ///
    /// # Errors
    /// [`Error::Data`] for a label that is none of these, as may happen in another file than the one they come from.
    pub fn of(&self, example: &Labelled) -> Result<Label> {
        match (self, &example.label) {
            (Self::Numbers, RawLabel::Integer(value)) => Ok(Label::Number(*value as f32)),
            (Self::Numbers, RawLabel::Number(value)) => Ok(Label::Number(*value as f32)),
            (Self::Numbers, RawLabel::Name(_)) => Err(example.error(format!("`label` {} is no number", example.label))),
            (Self::Classes { keys, .. }, label) => {
                let key = key(label);
                let class = keys.iter().position(|known| *known == key);
                class
                    .map(Label::Class)
                    .ok_or_else(|| example.error(format!("`label` {label} is none of the labels that are learned: {}", keys.join(", "))))
            }
        }
    }
}

impl std::fmt::Display for RawLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "`{name}`"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
        }
    }
}

fn key(label: &RawLabel) -> String {
    match label {
        RawLabel::Name(name) => name.clone(),
        RawLabel::Integer(value) => value.to_string(),
        RawLabel::Number(value) => value.to_string(),
    }
}

/// All labels once, whole numbers by size and names by the alphabet.
fn distinct(examples: &[Labelled]) -> Vec<String> {
    let integers = examples.iter().filter_map(|example| match example.label {
        RawLabel::Integer(value) => Some(value),
        _ => None,
    });
    let names = examples.iter().filter_map(|example| match &example.label {
        RawLabel::Name(name) => Some(name.clone()),
        _ => None,
    });
    let integers: BTreeSet<i64> = integers.collect();
    let names: BTreeSet<String> = names.collect();
    integers.into_iter().map(|value| value.to_string()).chain(names).collect()
}
