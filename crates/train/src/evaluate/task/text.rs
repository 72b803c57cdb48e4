//! Texts that a task makes of a row: a field's value or a template.

use super::rows::Row;
use crate::jinja::{Options, Rendering, Template, Value as Jinja};
use peft_core::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Where a text of a row comes from.
#[derive(Debug)]
pub(in super::super) struct Text {
    /// What the task calls it.
    name: &'static str,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Field(String),
    Template(Template),
}

impl Text {
    /// The text that a task calls `name`: a template if it looks like one, else a field. `file` is where errors say it comes from.
    ///
    /// # Errors
    /// [`Error::File`] if the template does not compile, with its line.
    pub fn new(name: &'static str, source: &str, file: &Path) -> Result<Self> {
        if !is_template(source) {
            return Ok(Self { name, source: Source::Field(source.into()) });
        }
        Self::template(name, source, file)
    }

    /// A template, even if it looks like the name of a field.
    pub fn template(name: &'static str, source: &str, file: &Path) -> Result<Self> {
        let template = Template::new(source, Options { keep_trailing_newline: true, strict: true, ..Options::default() })
            .map_err(|e| Error::file(file, format!("the template of `{name}` does not compile: {e}")))?;
        Ok(Self { name, source: Source::Template(template) })
    }

    /// The text for a row.
    ///
    /// # Errors
    /// [`Error::Data`] for a field that is missing or is no text, and for a template that fails, with its line.
    pub fn render(&self, row: &Row) -> Result<String> {
        let value = self.value(row)?;
        as_text(&value).ok_or_else(|| self.error(row, format!("must be a text or a number, found {value}")))
    }

    /// The text for a row and one of its choices.
    pub fn render_choice(&self, row: &Row, choice: &str) -> Result<String> {
        match &self.source {
            Source::Field(_) => self.render(row),
            Source::Template(template) => self.fill(template, row, Some(choice)),
        }
    }

    /// What the row holds there: a field as it stands, what a template gives as text.
    pub fn value(&self, row: &Row) -> Result<Value> {
        match &self.source {
            Source::Field(path) => row.field(path).cloned().map_err(|reason| self.error(row, reason)),
            Source::Template(template) => Ok(Value::String(self.fill(template, row, None)?)),
        }
    }

    /// An error about what a row holds there.
    pub fn error(&self, row: &Row, reason: impl std::fmt::Display) -> Error {
        row.origin.error(format!("`{}`: {reason}", self.name))
    }

    fn fill(&self, template: &Template, row: &Row, choice: Option<&str>) -> Result<String> {
        // The last that has a name decides.
        let context = || {
            let fields = || row.fields.iter().map(|(name, value)| (name.as_str(), Jinja::from_json(value)));
            let named = fields().map(|(name, value)| (name.to_string(), value));
            let choice = choice.map(|choice| ("choice".to_string(), Jinja::str(choice)));
            named.chain([("row".to_string(), Jinja::from_pairs(fields()))]).chain(choice).collect()
        };
        let rendered = template.render(context, Rendering::default());
        rendered.map_err(|e| self.error(row, format!("{e}; the row has {}", row.names())))
    }
}

pub(super) fn is_template(text: &str) -> bool {
    ["{{", "{%"].iter().any(|mark| text.contains(mark))
}

/// A text, number or boolean as text.
pub(super) fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}
