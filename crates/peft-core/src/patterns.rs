//! Values of single modules, by regular expressions for the ends of their paths.

use crate::Result;
use crate::expression::Expression;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// What `rank_pattern` and `alpha_pattern` of HF PEFT are: expressions, each with a value, in the order in which they are tried.
///
/// An expression `k` matches a path when `(.*\.)?(k)$` does. The first that matches counts, and the order is that of the file or of
/// the run's settings, as in HF PEFT.
#[derive(Clone, Debug, PartialEq)]
pub struct Patterns<T>(Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Patterns<T> {
    /// Sets the value of an expression. One that is there already keeps its place, as in a dictionary of Python.
    pub fn insert(&mut self, expression: String, value: T) {
        match self.0.iter_mut().find(|(known, _)| *known == expression) {
            Some((_, place)) => *place = value,
            None => self.0.push((expression, value)),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Expressions and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(expression, value)| (expression.as_str(), value))
    }

    /// The values, in order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    /// The same expressions with other values.
    pub fn map<U>(&self, change: impl Fn(&T) -> U) -> Patterns<U> {
        Patterns(self.0.iter().map(|(expression, value)| (expression.clone(), change(value))).collect())
    }

    /// The value of the first expression that matches the path of a module; `setting` is what errors call the whole.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for what is not a regular expression.
    pub fn get(&self, module: &str, setting: &str) -> Result<Option<&T>> {
        for (expression, value) in &self.0 {
            if compiled(expression, setting)?.matches(module)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The expressions that match none of these modules.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn unmatched(&self, modules: &[&str], setting: &str) -> Result<Vec<&str>> {
        let mut unmatched = Vec::new();
        for (expression, _) in &self.0 {
            let compiled = compiled(expression, setting)?;
            let mut found = false;
            for module in modules {
                found |= compiled.matches(module)?;
            }
            if !found {
                unmatched.push(expression.as_str());
            }
        }
        Ok(unmatched)
    }
}

fn compiled(expression: &str, setting: &str) -> Result<Expression> {
    Expression::whole(&format!(r"(?:.*\.)?(?:{expression})"), setting)
}

impl<K: Into<String>, T> FromIterator<(K, T)> for Patterns<T> {
    fn from_iter<I: IntoIterator<Item = (K, T)>>(entries: I) -> Self {
        let mut patterns = Self::default();
        entries.into_iter().for_each(|(expression, value)| patterns.insert(expression.into(), value));
        patterns
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Patterns<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map from expressions to numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Patterns<T>, A::Error> {
                let mut patterns = Patterns::default();
                while let Some((expression, value)) = map.next_entry::<String, T>()? {
                    patterns.insert(expression, value);
                }
                Ok(patterns)
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_expression_as_written_counts() {
        // HF PEFT's `get_pattern_key` on the same entries: the order of the dictionary decides.
        let text = r#"{"q_proj": 16, "layers\\.0\\.self_attn\\.q_proj": 64, "^model\\.v_proj": 2}"#;
        let patterns: Patterns<usize> = serde_json::from_str(text).unwrap();
        let value = |path| patterns.get(path, "rank_pattern").unwrap().copied();
        assert_eq!(value("model.layers.0.self_attn.q_proj"), Some(16));
        assert_eq!(value("model.layers.0.self_attn.eq_proj"), None);
        assert_eq!(value("model.v_proj"), Some(2));
        assert_eq!(value("other.model.v_proj"), None);
        assert_eq!(serde_json::to_string(&patterns).unwrap(), text.replace(": ", ":").replace(", ", ","));
        let turned: Patterns<usize> = patterns.0.into_iter().rev().collect();
        assert_eq!(turned.get("model.layers.0.self_attn.q_proj", "rank_pattern").unwrap(), Some(&64));
    }

    #[test]
    fn an_expression_ends_where_the_path_ends() {
        let patterns = Patterns::from_iter([("q_proj", 1), (r"layers\.1\..*v_proj", 2)]);
        let value = |path| patterns.get(path, "alpha_pattern").unwrap().copied();
        assert_eq!(value("model.layers.0.self_attn.q_proj"), Some(1));
        assert_eq!(value("model.layers.1.self_attn.v_proj"), Some(2));
        assert_eq!(value("model.layers.0.self_attn.v_proj"), None);
        assert_eq!(patterns.unmatched(&["model.q_proj", "model.k_proj"], "alpha_pattern").unwrap(), [r"layers\.1\..*v_proj"]);
        let error = Patterns::from_iter([("(", 1)]).get("x", "rank_pattern").unwrap_err().to_string();
        assert!(error.contains("rank_pattern") && error.contains("is not a regular expression"), "{error}");
    }
}
