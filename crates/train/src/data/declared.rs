//! Tokens that are declared beside `tokenizer.json`, as transformers adds them.

use super::checkpoint::{NAMES, read_json};
use peft_core::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;
use tokenizers::{AddedToken, Tokenizer};

/// What the files of a directory declare, in the order in which tokens that the vocabulary lacks get the next free ids.
///
/// transformers 5 reads of `tokenizer_config.json` the tokens with a number (`added_tokens_decoder`), the named special tokens
/// (`bos_token` and so on, any other key that ends in `_token`) and the extra ones (`extra_special_tokens`, `additional_special_tokens`);
/// where there are none with a number, also `special_tokens_map.json` and `added_tokens.json`.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// Those with a number, by it. The numbers themselves have no other meaning.
    numbered: Vec<AddedToken>,
    /// Whether they come from the older file, whose tokens have no properties of their own.
    plain: bool,
    special: Vec<AddedToken>,
}

impl Declared {
    /// Read the files in `dir`, each optional.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is no JSON object, and for a token that is neither a text nor an object with `content`.
    pub fn read(dir: &Path) -> Result<Self> {
        let file = dir.join("tokenizer_config.json");
        let mut settings = object(&file)?;
        let (mut numbered, mut plain) = (Vec::new(), false);
        match settings.remove("added_tokens_decoder") {
            Some(Value::Object(decoder)) => {
                for (id, token) in decoder {
                    let id = id.parse::<u64>().map_err(|_| Error::file(&file, format!("`added_tokens_decoder`: {id:?} is no id")))?;
                    numbered.push((id, token_of(&token, false, &file)?));
                }
            }
            Some(Value::Null) | None => {
                plain = true;
                merge_older(&mut settings, object(&dir.join("special_tokens_map.json"))?);
                let special = special(&settings, &file)?;
                let file = dir.join("added_tokens.json");
                for (content, id) in object(&file)? {
                    let id = id.as_u64().ok_or_else(|| Error::file(&file, format!("the id of {content:?} must be a number")))?;
                    let is_special = special.iter().any(|token| token.content == content);
                    numbered.push((id, AddedToken::from(content, is_special)));
                }
            }
            Some(_) => return Err(Error::file(&file, "`added_tokens_decoder` must be an object")),
        }
        numbered.sort_by_key(|(id, _)| *id);
        let special = special(&settings, &file)?;
        Ok(Self { numbered: numbered.into_iter().map(|(_, token)| token).collect(), plain, special })
    }

    /// Add what the tokenizer lacks. A token that it has keeps its properties, except for those of `added_tokens_decoder`.
    pub fn add_to(self, tokenizer: &mut Tokenizer) {
        let known: Vec<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
        let is_known = |content: &str| known.iter().any(|token| token.content == content);
        let mut added: Vec<AddedToken> = Vec::new();
        for mut token in self.numbered {
            token.special |= self.special.iter().any(|special| special.content == token.content);
            let held = known.contains(&token) || (self.plain && is_known(&token.content));
            if !held {
                added.push(token);
            }
        }
        for token in self.special {
            if !is_known(&token.content) && !added.iter().any(|other| other.content == token.content) {
                added.push(token);
            }
        }
        if !added.is_empty() {
            tokenizer.add_tokens(&added);
        }
    }
}

fn object(file: &Path) -> Result<Map<String, Value>> {
    match read_json(file)? {
        Some(Value::Object(object)) => Ok(object),
        Some(_) => Err(Error::file(file, "must be a JSON object")),
        None => Ok(Map::new()),
    }
}

/// Put what `special_tokens_map.json` says over the settings, except that extra tokens of the settings stay.
fn merge_older(settings: &mut Map<String, Value>, older: Map<String, Value>) {
    let has_extra =
        ["extra_special_tokens", "additional_special_tokens"].iter().any(|key| settings.get(*key).is_some_and(|v| !v.is_null()));
    for (key, value) in older {
        match (key.as_str(), settings.get_mut(&key)) {
            ("extra_special_tokens", Some(Value::Array(list))) => {
                list.extend(value.as_array().into_iter().flatten().cloned());
            }
            ("additional_special_tokens", _) if has_extra => {}
            _ => {
                settings.insert(key, value);
            }
        }
    }
}

/// The special tokens that settings name: the usual names first, then others, then the list of extra ones.
fn special(settings: &Map<String, Value>, file: &Path) -> Result<Vec<AddedToken>> {
    let usual = NAMES.iter().filter_map(|name| settings.get(*name));
    // An object under a name of the model's own is a token if it says so.
    let is_token = |value: &Value| value.is_string() || value.get("__type").is_some_and(|kind| kind == "AddedToken");
    let own = settings.iter().filter(|(name, value)| name.ends_with("_token") && !NAMES.contains(&name.as_str()) && is_token(value));
    let has_any =
        |value: &&Value| value.as_array().is_some_and(|list| !list.is_empty()) || value.as_object().is_some_and(|map| !map.is_empty());
    let extra = settings.get("extra_special_tokens").filter(has_any).or_else(|| settings.get("additional_special_tokens"));
    let extra: Vec<&Value> = match extra {
        Some(Value::Array(list)) => list.iter().collect(),
        Some(Value::Object(named)) => named.values().collect(),
        _ => Vec::new(),
    };
    let declared = usual.chain(own.map(|(_, value)| value)).chain(extra).filter(|value| !value.is_null());
    let tokens = declared.map(|value| token_of(value, true, file)).collect::<Result<Vec<_>>>()?;
    Ok(tokens.into_iter().map(|token| AddedToken { special: true, ..token }).collect())
}

/// A token as text or as an object; one without a word on that is special or not as `special` says.
fn token_of(value: &Value, special: bool, file: &Path) -> Result<AddedToken> {
    let content = value.as_str().or_else(|| value.get("content")?.as_str());
    let content =
        content.ok_or_else(|| Error::file(file, format!("a token must be a text or an object with `content`, found {value:.200}")))?;
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(special);
    Ok(AddedToken {
        content: content.into(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    })
}
