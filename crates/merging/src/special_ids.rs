//! The numbers of special tokens in the files of the result, by the tokenizer that lies beside them.

use crate::models::Model;
use crate::plan::Plan;
use crate::tokenizer::Tokenizer;
use peft_core::Result;
use peft_core::files::read_json;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Settings that hold numbers of tokens, besides those that say so by their ends.
const LISTS: [&str; 6] = ["suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "lang_to_id", "task_to_id"];
/// The tokens that end a text, of which there may be several.
const EOS: &str = "eos_token_id";
/// The file of the settings of generation.
pub const GENERATION_FILE: &str = "generation_config.json";
/// Where a tokenizer says which of its tokens is the end of a text and so on.
const ROLE_FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
/// What it calls them; configurations have the same with `_id` behind.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"];

/// How numbers of the first model become those of the tokenizer of the result.
struct Translation<'a> {
    /// The tokens of the first model by their numbers.
    from: HashMap<usize, &'a str>,
    /// The tokenizer of the result.
    to: &'a Tokenizer,
    /// What the tokenizer of the result says of its own tokens, where it is not the first model's.
    roles: BTreeMap<String, u64>,
    /// Settings of which the tokenizer of the result lacks all tokens.
    lost: RefCell<Vec<String>>,
}

impl Plan {
    /// Lets the numbers of special tokens in `config.json` fit the tokenizer of the result: those of the model that gives the tokenizer,
    /// or else the first model's token by token. Gives the settings that have no token left.
    ///
    /// # Errors
    /// [`peft_core::Error::File`] for a file of that model that is no JSON.
    pub(crate) fn fit_config(&self, config: &mut Value) -> Result<Vec<String>> {
        let Some(translation) = self.translation()? else { return Ok(Vec::new()) };
        translation.fit(config, self.donor_config(false)?.as_ref());
        Ok(translation.lost.into_inner())
    }

    /// `generation_config.json` of the result: the first model's, with numbers that fit the tokenizer. Where only the model of the
    /// tokenizer has one, its numbers alone.
    ///
    /// # Errors
    /// [`peft_core::Error::File`] for a file that is no JSON.
    pub(crate) fn generation_config(&self) -> Result<Option<Value>> {
        let file = self.models[0].dir.join(GENERATION_FILE);
        let ours: Option<Value> = file.is_file().then(|| read_json(&file)).transpose()?;
        let Some(translation) = self.translation()? else { return Ok(ours) };
        if ours.is_none() && !self.tokenizer_dir().join(GENERATION_FILE).is_file() {
            return Ok(None);
        }
        let mut config = ours.unwrap_or_else(|| Value::Object(Map::new()));
        translation.fit(&mut config, self.donor_config(true)?.as_ref());
        Ok(Some(config))
    }

    /// What says the special tokens of the tokenizer's own model, if that is not the first.
    fn donor_config(&self, generation: bool) -> Result<Option<Value>> {
        let dir = self.tokenizer_dir();
        if dir == self.models[0].dir {
            return Ok(None);
        }
        let names = if generation { [GENERATION_FILE, "config.json"].as_slice() } else { &["config.json"] };
        names.iter().map(|name| dir.join(name)).find(|file| file.is_file()).map(|file| read_json(&file)).transpose()
    }

    /// `None` where there is nothing to translate: the tokenizer is the first model's as it is, or there is none.
    fn translation(&self) -> Result<Option<Translation<'_>>> {
        let dir = self.tokenizer_dir();
        let of_donor = || self.models.iter().find(|model| model.dir == dir)?.tokenizer.as_ref();
        let Some(to) = self.alignment.as_ref().map(|alignment| &alignment.tokenizer).or_else(of_donor) else { return Ok(None) };
        let first: &Model = &self.models[0];
        let from = first.tokenizer.iter().flat_map(|tokenizer| &tokenizer.ids).map(|(token, id)| (*id, token.as_str())).collect();
        let roles = if dir == first.dir { BTreeMap::new() } else { roles(&dir, to)? };
        Ok(Some(Translation { from, to, roles, lost: RefCell::default() }))
    }
}

impl Translation<'_> {
    /// Goes through a configuration; `donor` is the same of the model that gives the tokenizer.
    fn fit(&self, config: &mut Value, donor: Option<&Value>) {
        let Value::Object(config) = config else { return };
        let donor = donor.and_then(Value::as_object);
        for (name, value) in config.iter_mut() {
            let theirs = donor.and_then(|donor| donor.get(name)).filter(|theirs| !theirs.is_null());
            if !is_id(name) {
                if value.is_object() {
                    self.fit(value, theirs);
                }
            } else if let Some(theirs) = theirs {
                *value = match value {
                    // A text may end with any of them, and the result has learned from both models.
                    Value::Array(_) if name == EOS => joined(theirs, self.translated(value)),
                    _ => theirs.clone(),
                };
            } else if !value.is_null() || self.roles.contains_key(name) {
                *value = self.value(name, value);
            }
        }
        for (name, theirs) in donor.into_iter().flatten().filter(|(name, _)| is_id(name)) {
            config.entry(name).or_insert_with(|| theirs.clone());
        }
    }

    /// A number, or several, as the tokenizer of the result has the tokens.
    fn value(&self, name: &str, value: &Value) -> Value {
        let translated = self.translated(value);
        match (self.roles.get(name), translated) {
            (Some(role), Some(ids @ Value::Array(_))) => joined(&(*role).into(), Some(ids)),
            (Some(role), _) => (*role).into(),
            (None, Some(translated)) => translated,
            (None, None) => {
                self.lost.borrow_mut().push(format!("{name} ({value})"));
                Value::Null
            }
        }
    }

    /// `None` if the result lacks the token, or all of several.
    fn translated(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Number(number) => match number.as_u64().and_then(|id| self.from.get(&(id as usize))) {
                Some(token) => self.to.ids.get(*token).map(|id| Value::from(*id)),
                // A number that stands for no token, such as -1.
                None => Some(value.clone()),
            },
            Value::Array(items) => {
                let kept: Vec<Value> = items.iter().filter_map(|item| self.translated(item)).collect();
                (!kept.is_empty() || items.is_empty()).then_some(Value::Array(kept))
            }
            Value::Object(fields) => {
                let kept = fields.iter().filter_map(|(name, item)| Some((name.clone(), self.translated(item)?)));
                Some(Value::Object(kept.collect()))
            }
            _ => Some(value.clone()),
        }
    }
}

/// One or several numbers, and behind them others, each once.
fn joined(first: &Value, others: Option<Value>) -> Value {
    let listed = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    let mut ids: Vec<Value> = Vec::new();
    for id in listed(first).into_iter().chain(others.iter().flat_map(listed)) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids.into()
}

fn is_id(name: &str) -> bool {
    ["_token_id", "_token_ids", "_token_index"].iter().any(|end| name.ends_with(end)) || LISTS.contains(&name)
}

/// The numbers of the tokens that a tokenizer names as special, as configurations name them.
fn roles(dir: &Path, tokenizer: &Tokenizer) -> Result<BTreeMap<String, u64>> {
    let mut roles = BTreeMap::new();
    for file in ROLE_FILES.into_iter().map(|name| dir.join(name)).filter(|file| file.is_file()) {
        let settings: Value = read_json(&file)?;
        for role in ROLES {
            let token = settings[role].as_str().or_else(|| settings[role]["content"].as_str());
            if let Some(id) = token.and_then(|token| tokenizer.ids.get(token)) {
                roles.entry(format!("{role}_id")).or_insert(*id as u64);
            }
        }
    }
    Ok(roles)
}
