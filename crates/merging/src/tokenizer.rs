//! The tokens of `tokenizer.json`, as far as merging vocabularies needs them.

use peft_core::files::read_json;
use peft_core::{Error, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The file.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// The highest id of a token: an embedding has a row for each id up to it. The largest published vocabularies have a quarter of a million.
const MAX_ID: usize = 1 << 24;

/// A vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// The file's content.
    pub json: Value,
    /// The number of each token.
    pub ids: HashMap<String, usize>,
}

impl Tokenizer {
    /// Reads the tokenizer in `dir`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::File`] if it is no tokenizer.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let file = dir.join(TOKENIZER_FILE);
        if !file.exists() {
            return Ok(None);
        }
        let json: Value = read_json(&file)?;
        let ids = ids(&json).map_err(|reason| Error::file(&file, reason))?;
        let mut tokenizer = Self { json, ids };
        let declared = Self::declared(dir)?;
        if let Some(id) = tokenizer.ids.values().chain(declared.iter().map(|(_, id, _)| id)).find(|id| **id > MAX_ID) {
            return Err(Error::file(&file, format!("a token has the id {id}; ids beyond {MAX_ID} are not supported")));
        }
        for (token, id, entry) in declared {
            if tokenizer.ids.contains_key(&token) {
                continue;
            }
            // A number that is taken is passed by, as transformers does.
            let taken = tokenizer.ids.values().any(|other| *other == id);
            tokenizer.insert(&token, if taken { tokenizer.rows() } else { id }, entry);
        }
        Ok(Some(tokenizer))
    }

    /// Tokens that the files beside `tokenizer.json` add to it, with their numbers and settings, in the order of their numbers.
    ///
    /// # Errors
    /// [`Error::File`] if one of them is no JSON.
    pub fn declared(dir: &Path) -> Result<Vec<(String, usize, Value)>> {
        let mut declared = Vec::new();
        let (settings, added) = (dir.join("tokenizer_config.json"), dir.join("added_tokens.json"));
        if settings.is_file() {
            let settings: Value = read_json(&settings)?;
            for (id, entry) in settings["added_tokens_decoder"].as_object().into_iter().flatten() {
                if let (Ok(id), Some(token)) = (id.parse(), entry["content"].as_str()) {
                    declared.push((token.to_owned(), id, entry.clone()));
                }
            }
        }
        if added.is_file() {
            let added: Value = read_json(&added)?;
            let numbered = added.as_object().into_iter().flatten().filter_map(|(token, id)| Some((token.clone(), id.as_u64()? as usize)));
            declared.extend(numbered.map(|(token, id)| (token.clone(), id, plain(&token))));
        }
        declared.sort_by_key(|(_, id, _)| *id);
        Ok(declared)
    }

    /// How many rows an embedding needs: numbers go from 0 to the highest.
    pub fn rows(&self) -> usize {
        self.ids.values().max().map_or(0, |id| id + 1)
    }

    /// Tokens in the order of their numbers.
    pub fn in_order(&self) -> Vec<(&str, usize)> {
        let mut tokens: Vec<(&str, usize)> = self.ids.iter().map(|(token, id)| (token.as_str(), *id)).collect();
        tokens.sort_unstable_by_key(|(token, id)| (*id, *token));
        tokens
    }

    /// Drops added tokens whose numbers are beyond the `rows` of the embedding.
    ///
    /// # Errors
    /// A sentence if tokens of the vocabulary itself are beyond.
    pub fn strip(&mut self, rows: usize) -> Result<(), String> {
        if self.rows() <= rows {
            return Ok(());
        }
        if let Some(added) = self.json["added_tokens"].as_array_mut() {
            added.retain(|token| token["id"].as_u64().is_some_and(|id| (id as usize) < rows));
        }
        self.ids = ids(&self.json)?;
        match self.rows() <= rows {
            true => Ok(()),
            false => Err(format!("its vocabulary has {} tokens, the embedding {rows} rows", self.rows())),
        }
    }

    /// Adds tokens that are not there, with the next free numbers; as the entry that another tokenizer has for an added token, if any.
    pub fn add(&mut self, token: &str, entry: Option<&Value>) {
        self.insert(token, self.rows(), entry.cloned().unwrap_or_else(|| plain(token)));
    }

    /// Adds a token with this number, unless it is there.
    fn insert(&mut self, token: &str, id: usize, mut entry: Value) {
        if self.ids.contains_key(token) {
            return;
        }
        entry["id"] = id.into();
        match self.json["added_tokens"].as_array_mut() {
            Some(added) => added.push(entry),
            None => self.json["added_tokens"] = json!([entry]),
        }
        self.ids.insert(token.into(), id);
    }

    /// The entry of an added token.
    pub fn added(&self, token: &str) -> Option<&Value> {
        self.json["added_tokens"].as_array()?.iter().find(|entry| entry["content"] == token)
    }
}

/// How an added token is entered of which only its text is known.
fn plain(token: &str) -> Value {
    json!({ "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false })
}

/// The tokens of a vocabulary by their numbers.
#[derive(Debug)]
pub struct Numbered(BTreeMap<usize, String>);

/// The tokens below `rows` by their numbers.
pub fn by_number(ids: &HashMap<String, usize>, rows: usize) -> Numbered {
    Numbered(ids.iter().filter(|(_, id)| **id < rows).map(|(token, id)| (*id, token.clone())).collect())
}

impl Numbered {
    /// What tells two vocabularies apart, for a person; `None` if they are the same.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (Self(ours), Self(theirs)) = (self, other);
        let differs = ours.keys().chain(theirs.keys()).filter(|id| ours.get(id) != theirs.get(id)).min()?;
        let name = |token: Option<&String>| token.map_or_else(|| "nothing".into(), |token| format!("`{token}`"));
        Some(format!("number {differs} is {} in one and {} in the other", name(ours.get(differs)), name(theirs.get(differs))))
    }
}

/// Token to number, of the vocabulary and of added tokens.
fn ids(json: &Value) -> Result<HashMap<String, usize>, String> {
    let number = |value: &Value| value.as_u64().map(|id| id as usize).ok_or_else(|| format!("{value} is no number of a token"));
    let mut ids = HashMap::new();
    match &json["model"]["vocab"] {
        Value::Object(vocab) => {
            for (token, id) in vocab {
                ids.insert(token.clone(), number(id)?);
            }
        }
        // Unigram models list tokens with their scores.
        Value::Array(vocab) => {
            for (id, entry) in vocab.iter().enumerate() {
                let token = entry[0].as_str().ok_or_else(|| format!("entry {id} of model.vocab has no token"))?;
                ids.insert(token.into(), id);
            }
        }
        _ => return Err("no model.vocab".into()),
    }
    for entry in json["added_tokens"].as_array().into_iter().flatten() {
        let token = entry["content"].as_str().ok_or("an added token has no content")?;
        ids.insert(token.into(), number(&entry["id"])?);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(json: Value) -> Tokenizer {
        let ids = ids(&json).unwrap();
        Tokenizer { json, ids }
    }

    #[test]
    fn added_tokens_get_the_next_numbers_and_keep_their_settings() {
        let mut ours = tokenizer(
            json!({ "model": { "vocab": { "a": 0, "b": 1 } }, "added_tokens": [{ "id": 2, "content": "<s>", "special": true }] }),
        );
        ours.add("<x>", Some(&json!({ "id": 77, "content": "<x>", "special": true })));
        ours.add("c", None);
        ours.add("a", None);
        assert_eq!((ours.ids["<x>"], ours.ids["c"], ours.rows()), (3, 4, 5));
        assert_eq!(ours.json["added_tokens"][1], json!({ "id": 3, "content": "<x>", "special": true }));
    }

    #[test]
    fn ids_that_no_embedding_has_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for id in [4_294_967_295u64, u64::MAX] {
            std::fs::write(dir.path().join(TOKENIZER_FILE), json!({ "model": { "vocab": { "a": 0, "b": id } } }).to_string()).unwrap();
            assert!(Tokenizer::read(dir.path()).unwrap_err().to_string().contains(&format!("the id {id}")));
        }
        std::fs::write(dir.path().join(TOKENIZER_FILE), json!({ "model": { "vocab": { "a": 0 } } }).to_string()).unwrap();
        std::fs::write(dir.path().join("added_tokens.json"), json!({ "b": 4_294_967_295u64 }).to_string()).unwrap();
        assert!(Tokenizer::read(dir.path()).unwrap_err().to_string().contains("the id 4294967295"));
    }

    #[test]
    fn a_difference_is_told_by_the_first_number_that_differs() {
        let ours = tokenizer(json!({ "model": { "vocab": [["a", -1.0], ["b", -2.0], ["pad", 0.0]] } }));
        let theirs = tokenizer(json!({ "model": { "vocab": { "a": 0, "c": 1 } } }));
        let difference = |rows: usize| by_number(&ours.ids, rows).difference(&by_number(&theirs.ids, rows));
        assert_eq!(difference(9).unwrap(), "number 1 is `b` in one and `c` in the other");
        assert_eq!(difference(1), None, "rows beyond the embedding do not count");
    }

    #[test]
    fn tokens_without_a_row_are_dropped_where_they_were_added() {
        let mut ours = tokenizer(json!({ "model": { "vocab": { "a": 0, "b": 1 } }, "added_tokens": [{ "id": 2, "content": "<s>" }] }));
        ours.strip(2).unwrap();
        assert_eq!(ours.rows(), 2);
        assert!(ours.strip(1).unwrap_err().contains("2 tokens"));
    }
}
