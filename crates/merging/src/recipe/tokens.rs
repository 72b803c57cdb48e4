//! What recipes say of the vocabulary.

use super::{ModelRef, known_fields};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use std::collections::BTreeMap;

/// The vocabulary of the result and what its tokens mean.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecipe {
    /// Where the vocabulary comes from.
    #[serde(default)]
    pub source: Vocabulary,
    /// Where the rows of single tokens come from.
    #[serde(default)]
    pub tokens: BTreeMap<String, Token>,
    /// The number of rows is a multiple of this.
    pub pad_to_multiple_of: Option<usize>,
}

impl TokenizerRecipe {
    /// The vocabulary alone.
    pub fn of(source: Vocabulary) -> Self {
        Self { source, tokens: BTreeMap::new(), pad_to_multiple_of: None }
    }

    /// The models that it names.
    pub(super) fn models_mut(&mut self) -> impl Iterator<Item = &mut ModelRef> {
        let source = match &mut self.source {
            Vocabulary::Of(model) => Some(model),
            Vocabulary::Union | Vocabulary::Base => None,
        };
        source.into_iter().chain(self.tokens.values_mut().filter_map(|token| token.source.as_mut()?.model_mut()))
    }
}

/// Where a vocabulary comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Vocabulary {
    /// The tokens of all models.
    #[default]
    Union,
    /// The base model's.
    Base,
    /// Another model's.
    Of(ModelRef),
}

/// What is said of one token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Where its row comes from in models that lack it.
    pub source: Option<TokenSource>,
    /// Whether models that have it take that row too.
    #[serde(default)]
    pub force: bool,
}

/// Where a row comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// Zeros.
    Zero,
    /// The same token of a model.
    Model(ModelRef),
    /// A token of a model by its text.
    Text(ModelRef, String),
    /// A token of a model by its number.
    Id(ModelRef, usize),
}

impl TokenSource {
    fn model_mut(&mut self) -> Option<&mut ModelRef> {
        match self {
            Self::Model(model) | Self::Text(model, _) | Self::Id(model, _) => Some(model),
            Self::Zero => None,
        }
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let model = ModelRef::deserialize(deserializer)?;
        Ok(match (model.model.as_str(), &model.adapter) {
            ("union", None) => Self::Union,
            ("base", None) => Self::Base,
            _ => Self::Of(model),
        })
    }
}

impl TokenSource {
    fn of(value: &Value) -> Result<Self, String> {
        let Some(parts) = value.as_object().filter(|parts| parts.contains_key("kind")) else {
            return ModelRef::of(value).map(Self::Model);
        };
        known_fields(parts, &["kind", "model", "token", "token_id"])?;
        match parts["kind"].as_str() {
            Some("zero") => Ok(Self::Zero),
            Some("model_token") => {
                let model = ModelRef::of(parts.get("model").ok_or("model_token: give the `model` that has the token")?)?;
                let set = |field: &str| parts.get(field).filter(|value| !value.is_null());
                match (set("token_id"), set("token")) {
                    (Some(id), None) => {
                        let id = id.as_u64().ok_or_else(|| format!("token_id: {id} is no number of a token"))?;
                        Ok(Self::Id(model, id as usize))
                    }
                    (None, Some(Value::String(text))) => Ok(Self::Text(model, text.clone())),
                    (None, Some(other)) => Err(format!("token: {other} is no text")),
                    _ => Err("model_token: give one of token and token_id".into()),
                }
            }
            _ => Err(format!("kind: {} is no source of a token; there are zero, and model_token with a model", parts["kind"])),
        }
    }
}

impl<'de> Deserialize<'de> for TokenSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
