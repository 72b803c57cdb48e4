//! Texts that a task makes of a row: a field's value or a template.

use super::rows::Row;
use crate::data::{describe, python};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value as Jinja;
use minijinja::{Environment, UndefinedBehavior, context};
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
    Template(Box<Environment<'static>>),
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
        let mut environment = Environment::new();
        environment.set_debug(true); // errors name what is undefined
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().expect("the default delimiters are valid"));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(python::method);
        let added = environment.add_template_owned(name, source.to_string());
        added.map_err(|e| Error::file(file, format!("the template of `{name}` does not compile: {}", describe(&e))))?;
        Ok(Self { name, source: Source::Template(Box::new(environment)) })
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
            Source::Template(environment) => self.fill(environment, row, choice.into()),
        }
    }

    /// What the row holds there: a field as it stands, what a template gives as text.
    pub fn value(&self, row: &Row) -> Result<Value> {
        match &self.source {
            Source::Field(path) => row.field(path).cloned().map_err(|reason| self.error(row, reason)),
            Source::Template(environment) => Ok(Value::String(self.fill(environment, row, Jinja::UNDEFINED)?)),
        }
    }

    /// An error about what a row holds there.
    pub fn error(&self, row: &Row, reason: impl std::fmt::Display) -> Error {
        row.origin.error(format!("`{}`: {reason}", self.name))
    }

    fn fill(&self, environment: &Environment<'static>, row: &Row, choice: Jinja) -> Result<String> {
        let fields = Jinja::from_pairs(row.fields.iter().map(|(name, value)| (name.clone(), python::from_json(value))));
        let values = context! { choice, row => fields.clone(), ..fields };
        let rendered = environment.get_template(self.name).and_then(|template| template.render(values));
        rendered.map_err(|e| self.error(row, format!("{}; the row has {}", describe(&e), row.names())))
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
