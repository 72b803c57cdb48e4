//! How recipes name models.

use serde::{Deserialize, Deserializer};
use std::fmt;

/// A model: a directory or a hub id, perhaps with an adapter to put into it first (`model+adapter`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelRef {
    /// A directory, or `org/name` or `org/name@revision`.
    pub model: String,
    /// The same for an adapter.
    pub adapter: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Parts { model: Place, lora: Option<Place> },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Place {
    Text(String),
    Parts { path: String, revision: Option<String> },
}

impl Place {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts { path, revision: Some(revision) } => format!("{path}@{revision}"),
            Self::Parts { path, .. } => path,
        }
    }
}

impl From<&str> for ModelRef {
    fn from(text: &str) -> Self {
        // A directory may have a plus sign in its name.
        let whole = std::path::Path::new(text).exists();
        match text.split_once('+').filter(|_| !whole) {
            Some((model, adapter)) => Self { model: model.into(), adapter: Some(adapter.into()) },
            None => Self { model: text.into(), adapter: None },
        }
    }
}

impl<'de> Deserialize<'de> for ModelRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Written::deserialize(deserializer)? {
            Written::Text(text) => text.as_str().into(),
            Written::Parts { model, lora } => Self { model: model.text(), adapter: lora.map(Place::text) },
        })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.adapter {
            Some(adapter) => write!(f, "{}+{adapter}", self.model),
            None => f.write_str(&self.model),
        }
    }
}
