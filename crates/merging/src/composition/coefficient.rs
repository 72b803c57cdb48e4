//! Learned coefficients as a file.

use peft_core::files::{read_json, write_atomic};
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How much of a task vector a merged model has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coefficient {
    /// The task.
    pub task: String,
    /// The parameter; nothing if the coefficient is that of the whole vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// The part of the parameter, where it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<usize>,
    /// The coefficient.
    pub value: f32,
}

/// Write coefficients as JSON.
///
/// # Errors
/// [`Error::Io`].
pub fn write_coefficients(file: &Path, coefficients: &[Coefficient]) -> Result<()> {
    let text = serde_json::to_string_pretty(coefficients).map_err(|e| Error::file(file, e))?;
    write_atomic(file, (text + "\n").as_bytes())
}

/// Read what [`write_coefficients`] wrote.
///
/// # Errors
/// [`Error::Io`] and [`Error::File`].
pub fn read_coefficients(file: &Path) -> Result<Vec<Coefficient>> {
    read_json(file)
}
