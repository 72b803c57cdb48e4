//! One or several numbers for a whole text: its label, or a score.

use super::base::{Encoder, first_token};
use super::config::EncoderConfig;
use super::family::Family;
use super::keys::Keys;
use super::labels::Problem;
use super::named::named_module;
use super::save;
use crate::load;
use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::activation::tanh;
use burn::tensor::{DType, Device, Tensor};
use peft_core::files::Checkpoint;
use peft_core::{Project, Result, TextClassifier, Texts, ops};
use std::path::Path;
use std::sync::Arc;

/// An encoder with a classifier of texts.
#[derive(Clone, Debug)]
pub struct SequenceClassifier {
    /// Everything below the classifier; `bert` or `roberta` in a checkpoint.
    pub encoder: Encoder,
    /// The classifier.
    pub classifier: Head,
    problem: Problem,
}

named_module!(SequenceClassifier { encoder: |model| model.encoder.config().family.prefix(), classifier: |_| "classifier" });

/// What makes logits of a text's first token.
#[derive(Clone, Debug)]
pub struct Head {
    /// `[d, d]`; BERT has the pooler in its place.
    pub dense: Option<Linear>,
    /// `[d, labels]`; `out_proj` in a checkpoint, or without a name of its own where it is alone.
    pub out_proj: Linear,
    /// On the input of both.
    pub dropout: Dropout,
}

named_module!(Head { dense: |_| "dense", out_proj: |head| if head.dense.is_some() { "out_proj" } else { "" }, dropout: |_| "dropout" });

impl Head {
    fn new(config: &EncoderConfig, device: &Device) -> Self {
        let (d, outputs) = (config.hidden_size, config.labels.len());
        let dense = config.family != Family::Bert;
        Self {
            dense: dense.then(|| LinearConfig::new(d, d).init(device)),
            out_proj: LinearConfig::new(d, outputs).init(device),
            dropout: DropoutConfig::new(config.classifier_dropout).init(),
        }
    }

    /// `[b, d]` to `[b, labels]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = ops::dropout(&self.dropout, x);
        let x = match &self.dense {
            Some(dense) => ops::dropout(&self.dropout, tanh(dense.project(x))),
            None => x,
        };
        self.out_proj.project(x)
    }
}

impl SequenceClassifier {
    /// Read a trained classifier; its labels are those of `config.json`. The parameters are frozen. `dtype` as in [`Encoder::load`].
    ///
    /// # Errors
    /// Those of [`Encoder::load`]; also [`Error::File`](peft_core::Error::File) if the checkpoint has no classifier, and [`Error::InvalidConfig`](peft_core::Error::InvalidConfig) for a
    /// problem that is not supported.
    pub fn load(dir: impl AsRef<Path>, device: &Device, dtype: Option<DType>) -> Result<Self> {
        let config = EncoderConfig::read(&dir)?;
        Self::from_checkpoint(config, &Checkpoint::open(dir.as_ref())?, None, device, dtype)
    }

    /// Read an encoder from a checkpoint of any kind and put a new classifier with these labels on it.
    ///
    /// # Errors
    /// Those of [`from_checkpoint`](Self::from_checkpoint).
    pub fn load_with_labels<S: Into<String>>(
        dir: impl AsRef<Path>,
        labels: impl IntoIterator<Item = S>,
        seed: u64,
        device: &Device,
        dtype: Option<DType>,
    ) -> Result<Self> {
        let config = EncoderConfig::read(&dir)?.with_labels(labels);
        Self::from_checkpoint(config, &Checkpoint::open(dir.as_ref())?, Some(seed), device, dtype)
    }

    /// Read the weights of `config` from a checkpoint.
    ///
    /// With a seed, the classifier is new and trainable: normal with deviation `initializer_range`, biases zero; and so is BERT's pooler
    /// if the checkpoint has none. All else is frozen.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](peft_core::Error::InvalidConfig) for labels that make no problem; [`Error::File`](peft_core::Error::File) if there is no classifier and no seed; [`Error::Tensor`](peft_core::Error::Tensor)
    /// for tensors that are missing or do not have the shape that the configuration says.
    pub fn from_checkpoint(
        config: EncoderConfig,
        checkpoint: &Checkpoint,
        new_head: Option<u64>,
        device: &Device,
        dtype: Option<DType>,
    ) -> Result<Self> {
        let (keys, std) = (Keys::new(checkpoint, config.family), config.initializer_range);
        keys.load_under_head(Self::lazy(config, device)?, new_head, std, device, dtype)
    }

    /// A classifier with random weights, trainable.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](peft_core::Error::InvalidConfig) for labels that make no problem.
    pub fn init(config: EncoderConfig, device: &Device, seed: u64) -> Result<Self> {
        let std = config.initializer_range;
        Ok(load::randomize(Self::lazy(config, device)?, std, seed, device, |_| true))
    }

    /// Whether a checkpoint holds a trained classifier of texts, so that [`load`](Self::load) has something to read.
    pub fn is_in(checkpoint: &Checkpoint) -> bool {
        // BERT's classifier of tokens goes by the same name, but reads no pooler.
        let pooler = checkpoint.keys().any(|key| key.ends_with("pooler.dense.weight"));
        checkpoint.contains("classifier.out_proj.weight") || (checkpoint.contains("classifier.weight") && pooler)
    }

    /// The configuration, with the labels.
    pub fn config(&self) -> &EncoderConfig {
        self.encoder.config()
    }

    /// The names of the outputs.
    pub fn labels(&self) -> &[String] {
        &self.config().labels
    }

    /// What the outputs mean.
    pub fn problem(&self) -> Problem {
        self.problem
    }

    /// Train the classifier and nothing else: linear probing.
    pub fn train_classifier_alone(self) -> Self {
        let mut model = self.no_grad();
        model.classifier = model.classifier.set_require_grad(true);
        model
    }

    /// Whether the backward pass computes each block again instead of keeping what it computed (gradient checkpointing).
    pub fn gradient_checkpointing(mut self, recompute: bool) -> Self {
        self.encoder.recompute = recompute;
        self
    }

    /// Write `config.json` and the weights; see [`Encoder::save`].
    ///
    /// # Errors
    /// Those of [`write_weights`](crate::write_weights).
    pub fn save(&self, dir: impl AsRef<Path>, dtype: DType) -> Result<u64> {
        save::save(self, self.config(), "ForSequenceClassification", dir.as_ref(), dtype)
    }

    fn lazy(config: EncoderConfig, device: &Device) -> Result<Self> {
        let problem = config.problem()?;
        let classifier = Head::new(&config, device);
        let pooler = config.family == Family::Bert;
        Ok(Self { encoder: Encoder::lazy(&Arc::new(config), pooler, device), classifier, problem })
    }
}

impl TextClassifier for SequenceClassifier {
    fn logits(&self, texts: &Texts) -> Tensor<2> {
        let hidden = self.encoder.forward(texts);
        let features = match &self.classifier.dense {
            Some(_) => first_token(hidden),
            None => self.encoder.pooled(hidden).expect("a classifier without a layer of its own has the pooler"),
        };
        self.classifier.forward(features)
    }
}
