//! A compressed task vector in memory.

use super::compress::Settings;
use super::rice::Packed;
use super::ternary::Ternary;
use peft_core::files::TensorInfo;
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a task vector is the change of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An adapter, which is a change in itself.
    Adapter,
    /// A whole checkpoint, which differs from its base.
    Checkpoint,
}

/// What a tensor is the change of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// Zeros: the matrices of LoRA.
    Zero,
    /// Ones: the scales of (IA)³.
    One,
    /// The base's tensor of the same name.
    Base {
        /// CRC-32C of its bytes.
        checksum: u32,
    },
}

/// What is kept of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Signs of its change.
    Ternary {
        /// What it is a change of.
        reference: Reference,
        /// The magnitude of all entries but the zeros.
        scale: f32,
        /// The signs.
        packed: Packed,
    },
    /// All of its bytes.
    Verbatim(Vec<u8>),
    /// Nothing: it is the base's tensor of the same name, whose bytes have this CRC-32C.
    Unchanged {
        /// CRC-32C of its bytes.
        checksum: u32,
    },
    /// Nothing: it equals an earlier entry, which is not itself a copy.
    Copy(usize),
}

/// One tensor of an expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its key.
    pub name: String,
    /// Its type and shape.
    pub info: TensorInfo,
    /// What is kept of it.
    pub content: Content,
}

/// A compressed task vector, with all that is needed to make an adapter of it, or with its base a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Expert {
    /// What it is the change of.
    pub kind: Kind,
    /// How it was compressed.
    pub settings: Settings,
    /// The content of the JSON files that belong to the tensors, such as `adapter_config.json`, by their names.
    pub files: Map<String, Value>,
    /// The tensors, sorted by name.
    pub entries: Vec<Entry>,
}

impl Expert {
    /// How many numbers were compressed.
    pub fn elements(&self) -> u64 {
        self.packed().map(|packed| packed.len).sum()
    }

    /// How many of them are not 0.
    pub fn kept(&self) -> u64 {
        self.packed().map(|packed| packed.count).sum()
    }

    /// The bytes that the compressed numbers would take in bf16, and those kept as they are do take.
    pub fn bf16_bytes(&self) -> u64 {
        let verbatim = self.entries.iter().map(|entry| if let Content::Verbatim(bytes) = &entry.content { bytes.len() } else { 0 });
        2 * self.elements() + verbatim.sum::<usize>() as u64
    }

    fn packed(&self) -> impl Iterator<Item = &Packed> {
        self.entries.iter().filter_map(|entry| match &entry.content {
            Content::Ternary { packed, .. } => Some(packed),
            _ => None,
        })
    }

    /// The change of the tensor `name` as bit planes, to compute with.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if there is none, or it was kept in another way.
    pub fn ternary(&self, name: &str) -> Result<Ternary> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        match entry.map(|entry| &entry.content) {
            Some(Content::Ternary { packed, scale, .. }) => {
                packed.unpack(*scale).map_err(|reason| Error::InvalidConfig(format!("tensor `{name}`: {reason}")))
            }
            Some(_) => Err(Error::InvalidConfig(format!("tensor `{name}` is no change in signs"))),
            None => Err(Error::InvalidConfig(format!("no tensor is called `{name}`"))),
        }
    }

    /// The changes of all tensors in bit planes, by name.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if a stream is damaged.
    pub fn ternaries(&self) -> Result<Vec<(&str, Ternary)>> {
        let is_ternary = |entry: &&Entry| matches!(entry.content, Content::Ternary { .. });
        self.entries.iter().filter(is_ternary).map(|entry| Ok((entry.name.as_str(), self.ternary(&entry.name)?))).collect()
    }
}
