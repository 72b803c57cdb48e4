//! Tokenizer and chat template: which files count for an adapter that brings some of its own.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{checkpoint_files, disk, read_text, write_atomic};
use crate::{Error, Result};

/// Files that hold a vocabulary that can be read here.
const READ: [&str; 2] = ["tokenizer.json", "vocab.txt"];
/// Files that hold the vocabulary of a tokenizer, in any form.
const VOCABULARIES: [&str; 7] =
    ["tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"];
/// Files that name tokens.
const SETTINGS: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];
/// The file of a chat template, which goes before one in `tokenizer_config.json`.
const TEMPLATE: &str = "chat_template.jinja";

/// Where a model's tokenizer and chat template are: of an adapter those that it has, of its base the rest.
///
/// Vocabulary, names of tokens and template are each taken as a whole from one of the two directories.
#[derive(Clone, Copy, Debug)]
pub struct TextFiles<'a> {
    base: &'a Path,
    adapter: Option<&'a Path>,
}

impl<'a> TextFiles<'a> {
    /// Those of the model in `base` with an adapter, which has none if it is one file.
    pub fn of(base: &'a Path, adapter: Option<&'a Path>) -> Self {
        Self { base, adapter: adapter.filter(|dir| dir.is_dir()) }
    }

    /// The directory of the base, which has the model's configuration.
    pub fn model(&self) -> &'a Path {
        self.base
    }

    /// The directory that has the vocabulary.
    pub fn vocabulary(&self) -> &'a Path {
        self.own(&READ).unwrap_or(self.base)
    }

    /// The directory that names special tokens.
    pub fn settings(&self) -> &'a Path {
        self.own(&SETTINGS).unwrap_or(self.base)
    }

    /// Whether the adapter brings a vocabulary, names of tokens or a chat template.
    pub fn has_own(&self) -> bool {
        self.own(&READ).or_else(|| self.own(&SETTINGS)).or_else(|| self.own(&[TEMPLATE])).is_some()
    }

    /// The adapter's directory if it has one of these files.
    fn own(&self, names: &[&str]) -> Option<&'a Path> {
        self.adapter.filter(|dir| names.iter().any(|name| dir.join(name).is_file()))
    }

    /// The chat template, and the file that it stands in: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::File`] for a template that is no text, and for several of which none is called `default`; [`Error::Io`].
    pub fn chat_template(&self) -> Result<Option<(String, PathBuf)>> {
        for dir in self.adapter.into_iter().chain([self.base]) {
            let (file, settings) = (dir.join(TEMPLATE), dir.join(SETTINGS[0]));
            if let Some(source) = read_optional(&file)? {
                return Ok(Some((source, file)));
            }
            if let Some(source) = configured(&settings)? {
                return Ok(Some((source, settings)));
            }
        }
        Ok(None)
    }

    /// Put the adapter's vocabulary in place of the base's in the directory `to`.
    ///
    /// # Errors
    /// [`Error::File`] for a link that leads out of the adapter; [`Error::Io`].
    pub fn copy_vocabulary(&self, to: &Path) -> Result<()> {
        self.own(&READ).map_or(Ok(()), |own| replace(own, to, &VOCABULARIES))
    }

    /// Put the adapter's names of tokens and its chat template in place of the base's in the directory `to`.
    ///
    /// # Errors
    /// As [`chat_template`](Self::chat_template) and [`copy_vocabulary`](Self::copy_vocabulary).
    pub fn copy_settings(&self, to: &Path) -> Result<()> {
        let Some(own) = self.own(&SETTINGS).or_else(|| self.own(&[TEMPLATE])) else { return Ok(()) };
        if self.own(&SETTINGS).is_some() {
            replace(own, to, &SETTINGS)?;
        }
        let Some((wanted, _)) = self.chat_template()? else { return Ok(()) };
        match TextFiles::of(to, None).chat_template()? {
            Some((found, _)) if found == wanted => Ok(()),
            _ => write_atomic(&to.join(TEMPLATE), wanted.as_bytes()),
        }
    }
}

/// Those of `names` that `from` has, in place of those that `to` has.
fn replace(from: &Path, to: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let copied = to.join(name);
        if copied.is_file() && !from.join(name).is_file() {
            disk::remove_file(&copied)?;
        }
        checkpoint_files::copy(from, to, Path::new(name))?;
    }
    Ok(())
}

/// The text of a file, or nothing if there is no such file.
pub fn read_optional(path: &Path) -> Result<Option<String>> {
    match read_text(path) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The template in `tokenizer_config.json`: a string, or a list of named ones of which `default` counts.
fn configured(file: &Path) -> Result<Option<String>> {
    let Some(text) = read_optional(file)? else { return Ok(None) };
    let settings: Value = serde_json::from_str(&text).map_err(|e| Error::file(file, format!("not valid JSON: {e}")))?;
    match settings.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some(source.clone())),
        Some(Value::Array(list)) => {
            let named = |entry: &Value| Some((entry.get("name")?.as_str()?.into(), entry.get("template")?.as_str()?.into()));
            let named: Vec<(String, String)> = list.iter().filter_map(named).collect();
            let names: Vec<_> = named.iter().map(|(name, _)| format!("`{name}`")).collect();
            let missing = format!("`chat_template` lists {} but none called `default`", names.join(", "));
            let default = named.into_iter().find(|(name, _)| name == "default");
            default.map(|(_, source)| Some(source)).ok_or_else(|| Error::file(file, missing))
        }
        Some(_) => Err(Error::file(file, "`chat_template` must be a string or a list of {name, template}")),
    }
}
