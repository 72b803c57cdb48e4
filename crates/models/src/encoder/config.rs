//! `config.json` of an encoder, checked before anything is allocated.

use super::family::Family;
use super::labels::{self, Problem};
use crate::bounds::{MAX_LAYERS, MAX_PARAMS, at_most, dtype, fraction, positive, size};
use crate::decoder::Activation;
use crate::fields::Fields;
use burn::tensor::DType;
use peft_core::{Error, Result, files};
use serde_json::{Map, Value};
use std::path::Path;

/// The shape of an encoder and what tells the architectures apart.
///
/// Made by [`read`](Self::read) or [`parse`](Self::parse), which check every number.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// The branch of the family.
    pub family: Family,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Number of types of tokens: the texts of a pair.
    pub type_vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of heads; divides the hidden size.
    pub num_attention_heads: usize,
    /// Rows of the table of positions; see [`max_tokens`](Self::max_tokens) for what fits.
    pub max_position_embeddings: usize,
    /// The non-linearity of the feed-forward block.
    pub activation: Activation,
    /// The `ε` of the normalisation.
    pub layer_norm_eps: f64,
    /// Standard deviation of random weights.
    pub initializer_range: f64,
    /// The share of activations that training zeroes, below 1.
    pub hidden_dropout_prob: f64,
    /// The share of attention weights that training zeroes, below 1. Above 0 the weights are held in memory, which costs time too.
    pub attention_probs_dropout_prob: f64,
    /// The share of a classifier's input that training zeroes, below 1.
    pub classifier_dropout: f64,
    /// The token that fills short rows; in the RoBERTa family, positions begin behind it.
    pub pad_token_id: u32,
    /// The names of a classifier's outputs.
    pub labels: Vec<String>,
    /// The type in which the weights were saved, if the file says.
    pub dtype: Option<DType>,
    problem_type: Option<String>,
    /// All that the file says, for writing it again.
    json: Map<String, Value>,
}

impl EncoderConfig {
    /// Whether the `config.json` in a checkpoint directory describes an encoder that this module reads, going by `model_type` or
    /// `architectures` alone.
    pub fn describes(dir: impl AsRef<Path>) -> Result<bool> {
        let file = dir.as_ref().join("config.json");
        let json = Fields::parse(&files::read_text(&file)?).map_err(|reason| Error::file(&file, reason))?;
        Ok(family(&json).is_ok())
    }

    /// Read and check `config.json` in a checkpoint directory.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let file = dir.as_ref().join("config.json");
        Self::check(&files::read_text(&file)?).map_err(|reason| Error::file(&file, reason))
    }

    /// Check the text of a `config.json`.
    pub fn parse(json: &str) -> Result<Self> {
        Self::check(json).map_err(Error::InvalidConfig)
    }

    /// The same encoder for another classification, with one output for each label.
    pub fn with_labels<S: Into<String>>(mut self, labels: impl IntoIterator<Item = S>) -> Self {
        self.labels = labels.into_iter().map(Into::into).collect();
        self.problem_type = None;
        self
    }

    /// The same encoder for the prediction of a number.
    pub fn for_regression(self) -> Self {
        self.with_labels(["LABEL_0"])
    }

    /// The same encoder with no dropout anywhere.
    pub fn without_dropout(self) -> Self {
        Self { hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0, classifier_dropout: 0.0, ..self }
    }

    /// What a classifier with these labels learns.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a `problem_type` that is not supported or does not fit the number of labels.
    pub fn problem(&self) -> Result<Problem> {
        Problem::of(self.problem_type.as_deref(), self.labels.len()).map_err(Error::InvalidConfig)
    }

    /// The longest row, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_position_embeddings - self.first_position()
    }

    /// Whether the file names an encoder with a classifier of tokens.
    pub fn is_for_tokens(&self) -> bool {
        self.json.get("architectures").and_then(|names| names[0].as_str()).is_some_and(|name| name.ends_with("ForTokenClassification"))
    }

    /// What the file calls the model; the encoder's family where it does not say.
    pub fn architecture(&self) -> String {
        let named = self.json.get("architectures").and_then(|names| names[0].as_str());
        named.map_or_else(|| format!("{}Model", self.family.class()), String::from)
    }

    /// The position of a row's first token.
    pub(super) fn first_position(&self) -> usize {
        if self.family == Family::Bert { 0 } else { self.pad_token_id as usize + 1 }
    }

    /// The `config.json` of this encoder with `head`, as `ForSequenceClassification`; `Model` without one.
    pub(super) fn to_json(&self, head: &str) -> Value {
        let mut json = self.json.clone();
        json.insert("architectures".into(), Value::from(vec![format!("{}{head}", self.family.class())]));
        json.insert("model_type".into(), self.family.model_type().into());
        labels::write(&self.labels, &mut json);
        match self.problem() {
            Ok(problem) if head == "ForSequenceClassification" => json.insert("problem_type".into(), problem.name().into()),
            _ => json.shift_remove("problem_type"),
        };
        Value::Object(json)
    }

    fn check(text: &str) -> Result<Self, String> {
        let json = Fields::parse(text)?;
        let family = family(&json)?;
        refuse(&json)?;
        let bert = family == Family::Bert;
        let hidden_size = size("hidden_size", json.size("hidden_size")?.unwrap_or(768))?;
        let num_attention_heads = size("num_attention_heads", json.size("num_attention_heads")?.unwrap_or(12))?;
        if !hidden_size.is_multiple_of(num_attention_heads) {
            return Err(format!("hidden_size {hidden_size} must be a multiple of num_attention_heads {num_attention_heads}"));
        }
        let hidden_dropout_prob = dropout("hidden_dropout_prob", json.number("hidden_dropout_prob")?.unwrap_or(0.1))?;
        let classifier_dropout = json.number("classifier_dropout")?.map(|p| dropout("classifier_dropout", p)).transpose()?;
        let stored_as = json.text("dtype")?.map_or_else(|| json.text("torch_dtype"), |name| Ok(Some(name)))?;
        let config = Self {
            family,
            vocab_size: size("vocab_size", json.size("vocab_size")?.unwrap_or(if family == Family::Roberta { 50_265 } else { 30_522 }))?,
            type_vocab_size: size("type_vocab_size", json.size("type_vocab_size")?.unwrap_or(2))?,
            hidden_size,
            intermediate_size: size("intermediate_size", json.size("intermediate_size")?.unwrap_or(3072))?,
            num_hidden_layers: at_most("num_hidden_layers", json.size("num_hidden_layers")?.unwrap_or(12), MAX_LAYERS)?,
            num_attention_heads,
            max_position_embeddings: size("max_position_embeddings", json.size("max_position_embeddings")?.unwrap_or(512))?,
            activation: Activation::from_name(json.text("hidden_act")?.as_deref().unwrap_or("gelu"))?,
            layer_norm_eps: positive("layer_norm_eps", json.number("layer_norm_eps")?.unwrap_or(1e-12))?,
            initializer_range: fraction("initializer_range", json.number("initializer_range")?.unwrap_or(0.02))?,
            hidden_dropout_prob,
            attention_probs_dropout_prob: dropout(
                "attention_probs_dropout_prob",
                json.number("attention_probs_dropout_prob")?.unwrap_or(0.1),
            )?,
            classifier_dropout: classifier_dropout.unwrap_or(hidden_dropout_prob),
            pad_token_id: json.ids("pad_token_id")?.first().copied().unwrap_or(if bert { 0 } else { 1 }),
            labels: labels::read(json.object("id2label")?.map(Fields::into_map), json.size("num_labels")?)?,
            dtype: stored_as.map(|name| dtype(&name)).transpose()?,
            problem_type: json.text("problem_type")?,
            json: json.into_map(),
        };
        config.check_whole()?;
        Ok(config)
    }

    fn check_whole(&self) -> Result<(), String> {
        if self.first_position() >= self.max_position_embeddings {
            let (max, pad) = (self.max_position_embeddings, self.pad_token_id);
            return Err(format!("max_position_embeddings {max} leaves no position behind pad_token_id {pad}"));
        }
        match self.count_params() {
            count if count > MAX_PARAMS => Err(format!("describes {count} parameters, more than the limit of {MAX_PARAMS}")),
            _ => Ok(()),
        }
    }

    // Every size is below 2^31 and there are at most 10 000 layers, so that 128 bits cannot overflow.
    fn count_params(&self) -> u128 {
        let [vocab, types, positions] = [self.vocab_size, self.type_vocab_size, self.max_position_embeddings].map(|n| n as u128);
        let [d, inner, layers] = [self.hidden_size, self.intermediate_size, self.num_hidden_layers].map(|n| n as u128);
        let layer = 4 * (d * d + d) + 2 * d * inner + inner + d + 4 * d;
        (vocab + types + positions + 2) * d + layers * layer + d * d + d
    }
}

fn dropout(key: &str, value: f64) -> Result<f64, String> {
    if (0.0..1.0).contains(&value) {
        return Ok(value);
    }
    Err(format!("{key} must be at least 0 and below 1, found {value}"))
}

/// The branch that a file describes.
fn family(json: &Fields) -> Result<Family, String> {
    Family::detect(&json.texts("architectures")?.unwrap_or_default(), json.text("model_type")?.as_deref())
}

/// What changes the computation and is not supported.
fn refuse(json: &Fields) -> Result<(), String> {
    if let Some(quantization) = json.object("quantization_config")? {
        let method = quantization.text("quant_method")?.unwrap_or_else(|| "unknown method".into());
        return Err(format!("the checkpoint is quantised ({method}); convert it to a floating-point one first"));
    }
    if let Some(kind) = json.text("position_embedding_type")?.filter(|kind| kind != "absolute") {
        return Err(format!("position_embedding_type `{kind}` is not supported; supported: `absolute`"));
    }
    if json.flag("is_decoder")? == Some(true) || json.flag("add_cross_attention")? == Some(true) {
        return Err("is_decoder and add_cross_attention make a decoder of the model, which is not supported".into());
    }
    Ok(())
}
