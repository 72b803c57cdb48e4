//! Reading `config.json` key by key, so that what is wrong is said with its key.

use serde_json::{Map, Value};

/// Characters of a wrong value that are shown.
const SHOWN: usize = 60;

/// The keys of a JSON object. A key whose value is null counts as absent.
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// What errors put before a key: the object's own key and a point.
    inside: String,
}

impl Fields {
    pub fn parse(json: &str) -> Result<Self, String> {
        match serde_json::from_str(json).map_err(|e| e.to_string())? {
            Value::Object(map) => Ok(Self { map, inside: String::new() }),
            other => Err(format!("must be a JSON object, found {}", shown(&other))),
        }
    }

    /// All that the object says.
    pub fn into_map(self) -> Map<String, Value> {
        self.map
    }

    /// Whether there is a key, be it with null.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// A count.
    pub fn size(&self, key: &str) -> Result<Option<usize>, String> {
        self.value(key, "a whole number from 0 on", |value| value.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    /// A number, whole or not.
    pub fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.value(key, "a number", Value::as_f64)
    }

    /// Yes or no.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.value(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<String>, String> {
        self.value(key, "a string", |value| value.as_str().map(String::from))
    }

    /// Strings; one alone counts as a list of one.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>, String> {
        let text = |value: &Value| value.as_str().map(String::from);
        self.value(key, "a list of strings", |value| match value {
            Value::Array(all) => all.iter().map(text).collect(),
            one => Some(vec![text(one)?]),
        })
    }

    /// Ids of tokens, one or a list. A negative one, which some files have for "none", and null name no token.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>, String> {
        let id = |value: &Value| match value.as_i64() {
            Some(id) if id < 0 => Some(None),
            Some(id) => u32::try_from(id).ok().map(Some),
            None => value.is_null().then_some(None),
        };
        let ids = self.value(key, "the id of a token, or a list of such", |value| match value {
            Value::Array(all) => all.iter().map(id).collect::<Option<Vec<_>>>(),
            one => Some(vec![id(one)?]),
        })?;
        Ok(ids.unwrap_or_default().into_iter().flatten().collect())
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<Self>, String> {
        let map = self.value(key, "an object", |value| value.as_object().cloned())?;
        Ok(map.map(|map| Self { map, inside: format!("{}{key}.", self.inside) }))
    }

    fn value<T>(&self, key: &str, what: &str, read: impl FnOnce(&Value) -> Option<T>) -> Result<Option<T>, String> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let wrong = || format!("{}{key} must be {what}, found {}", self.inside, shown(value));
                read(value).map(Some).ok_or_else(wrong)
            }
        }
    }
}

/// A value as JSON, without its end where it is long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
