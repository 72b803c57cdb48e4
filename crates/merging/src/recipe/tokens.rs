//! What recipes say of the vocabulary.

use super::ModelRef;
use serde::{Deserialize, Deserializer, de::Error as _};
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

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Kind { kind: String, model: Option<ModelRef>, token_id: Option<usize>, token: Option<String> },
    Model(ModelRef),
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

impl<'de> Deserialize<'de> for TokenSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Model(model) => Ok(Self::Model(model)),
            Written::Kind { kind, .. } if kind == "zero" => Ok(Self::Zero),
            Written::Kind { kind, model: Some(model), token_id, token } if kind == "model_token" => match (token_id, token) {
                (Some(id), None) => Ok(Self::Id(model, id)),
                (None, Some(text)) => Ok(Self::Text(model, text)),
                _ => Err(D::Error::custom("model_token: give one of token and token_id")),
            },
            Written::Kind { kind, .. } => {
                Err(D::Error::custom(format!("`{kind}` is no source of a token; there are zero, and model_token with a model")))
            }
        }
    }
}
