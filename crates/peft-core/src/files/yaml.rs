//! YAML, and what is wrong with it in one line.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::{nearest, read_text};
use crate::{Error, Result};

/// What the parser calls a kind of value, and what people do.
const KINDS: [(&str, &str); 10] = [
    ("expected mapping start", "fields with values are asked for here (`key: value`)"),
    ("expected sequence start", "a list is asked for here"),
    ("invalid u64", "a whole number from 0 on is asked for here"),
    ("invalid f64", "a number is asked for here"),
    ("invalid floating point", "a number is asked for here"),
    ("invalid boolean", "true or false is asked for here"),
    ("expected string scalar", "a single value is asked for here"),
    (", set DuplicateKeyPolicy in Options if acceptable", ""),
    ("rejected by the configured policy", "is no number to compute with"),
    ("recursive references require weak recursion types", "an alias refers to what it is a part of"),
];

/// Understands a text as YAML.
///
/// # Errors
/// [`Error::InvalidConfig`] with the place, what is wrong there, and the line as it is written.
pub fn parse_yaml<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_saphyr::from_str(text).map_err(|e| Error::InvalidConfig(told(&e, text)))
}

/// Reads a YAML file.
///
/// # Errors
/// [`Error::File`] as [`parse_yaml`] has it; [`Error::Io`].
pub fn read_yaml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    serde_saphyr::from_str(&text).map_err(|e| Error::file(path, told(&e, &text)))
}

fn told(error: &serde_saphyr::Error, text: &str) -> String {
    let plain = error.without_snippet().to_string();
    let plain = plain.lines().next().unwrap_or_default().trim_start_matches("error: ");
    // The parser says the place behind its message or before it.
    let message = plain.rsplit_once(" at line ").map_or(plain, |(message, _)| message);
    let message = match message.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
        Some((_, message)) => message,
        None => message,
    };
    let message = KINDS.iter().fold(message.to_owned(), |message, (theirs, ours)| message.replace(theirs, ours));
    let message = message + &meant(plain);
    let Some(location) = error.location() else { return message };
    let line = text.lines().nth((location.line() as usize).saturating_sub(1)).unwrap_or_default().trim();
    let line = line.char_indices().nth(100).map_or(line.to_owned(), |(end, _)| format!("{}…", &line[..end]));
    let line = if line.is_empty() { line } else { format!(", in `{line}`") };
    format!("line {} column {}: {message}{line}", location.line(), location.column())
}

/// The nearest of the fields that there are to one that there is not.
fn meant(message: &str) -> String {
    let between = |text: &str, start: &str, end: &str| Some(text.split_once(start)?.1.split_once(end)?.0.to_owned());
    let near = || {
        let field = between(message, "unknown field `", "`")?;
        let known = message.split_once("expected one of ")?.1.split(" at line ").next()?;
        let known: Vec<&str> = known.split(", ").map(|name| name.trim_matches('`')).collect();
        let near = *nearest(&field, known.into_iter(), 1).first()?;
        (!message.contains("the nearest is")).then(|| format!("; the nearest is `{near}`"))
    };
    near().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        #[allow(dead_code)]
        models: Vec<u64>,
        #[allow(dead_code)]
        weight: Option<f64>,
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line_with_its_place() {
        let told = |text: &str| parse_yaml::<Written>(text).unwrap_err().to_string();
        assert!(told("models: []\nwieght: 3\n").contains("line 2 column 1: unknown field `wieght`"), "{}", told("models: []\nwieght: 3\n"));
        assert!(told("models: []\nwieght: 3\n").contains("the nearest is `weight`, in `wieght: 3`"));
        assert!(told("models: 3\n").contains("a list is asked for here, in `models: 3`"), "{}", told("models: 3\n"));
        assert!(told("models:\n- 1\n- -2\n").contains("line 3 column 3: a whole number from 0 on is asked for here, in `- -2`"));
        assert!(told("models: []\nweight: half\n").contains("a number is asked for here, in `weight: half`"));
        assert!(told("models: []\nmodels: []\n").ends_with("line 2 column 1: duplicate mapping key: models, in `models: []`"));
        for text in ["models: [1", "models: []\nweight: half\n", "", "models: []\n\tweight: 3"] {
            assert_eq!(told(text).lines().count(), 1, "{}", told(text));
        }
    }
}
