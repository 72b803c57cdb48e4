//! How recipes name models.

use super::known_fields;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use std::fmt;
use std::path::Path;

/// A model: a directory or a hub id, perhaps with an adapter to put into it first (`model+adapter`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelRef {
    /// A directory, or `org/name` or `org/name@revision`.
    pub model: String,
    /// The same for an adapter.
    pub adapter: Option<String>,
}

impl From<&str> for ModelRef {
    fn from(text: &str) -> Self {
        // A directory may have a plus sign in its name.
        let whole = Path::new(text).exists();
        match text.split_once('+').filter(|_| !whole) {
            Some((model, adapter)) => Self { model: model.into(), adapter: Some(adapter.into()) },
            None => Self { model: text.into(), adapter: None },
        }
    }
}

impl ModelRef {
    /// Whether both lead to the same files; `documents` are names that are no directories.
    pub(crate) fn is_at(&self, other: &Self, documents: &[String]) -> bool {
        let place = |name: &String| Path::new(name).canonicalize().ok().filter(|_| !documents.contains(name));
        let is_same = |a: &String, b: &String| a == b || place(a).is_some_and(|a| place(b) == Some(a));
        let adapters = match (&self.adapter, &other.adapter) {
            (Some(a), Some(b)) => is_same(a, b),
            (a, b) => a == b,
        };
        adapters && is_same(&self.model, &other.model)
    }

    /// What a recipe says: a text, or mergekit's `{model: …, lora: …}`, in which each may be `{path: …, revision: …}`.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub(crate) fn of(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) if !text.trim().is_empty() => Ok(text.as_str().into()),
            Value::Object(parts) => {
                known_fields(parts, &["model", "lora", "override_architecture"])?;
                if parts.get("override_architecture").is_some_and(|value| !value.is_null()) {
                    return Err("override_architecture cannot be set: models are told apart by the names of their weights".into());
                }
                let lora = parts.get("lora").filter(|lora| !lora.is_null());
                let model = parts.get("model").ok_or("a model has no field `model` with its directory or hub id")?;
                Ok(Self { model: place("model", model)?, adapter: lora.map(|lora| place("lora", lora)).transpose()? })
            }
            other => Err(format!("model: {other} is neither a directory nor a hub id")),
        }
    }
}

/// A directory or hub id, which may be given in parts.
fn place(field: &str, value: &Value) -> Result<String, String> {
    let text = |value: &Value| value.as_str().filter(|text| !text.trim().is_empty()).map(String::from);
    if let Value::Object(parts) = value {
        known_fields(parts, &["path", "revision"])?;
        let path = parts.get("path").and_then(text).ok_or_else(|| format!("{field}: no `path` with a directory or hub id"))?;
        return match parts.get("revision").filter(|revision| !revision.is_null()) {
            None => Ok(path),
            Some(revision) => {
                let revision = text(revision).ok_or_else(|| format!("{field}: revision: {revision} is no branch, tag or commit"))?;
                Ok(format!("{path}@{revision}"))
            }
        };
    }
    text(value).ok_or_else(|| format!("{field}: {value} is neither a directory nor a hub id"))
}

impl<'de> Deserialize<'de> for ModelRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
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
