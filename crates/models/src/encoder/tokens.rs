//! A label for every token of a text.

use super::base::Encoder;
use super::config::EncoderConfig;
use super::keys::Keys;
use super::named::named_module;
use super::save;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use peft_core::files::Checkpoint;
use peft_core::{Error, Project, Result, Texts, ops};
use std::path::Path;
use std::sync::Arc;

/// An encoder with a classifier of tokens.
#[derive(Clone, Debug)]
pub struct TokenClassifier {
    /// Everything below the classifier; `bert` or `roberta` in a checkpoint.
    pub encoder: Encoder,
    /// `[d, labels]`.
    pub classifier: Linear,
    /// On the classifier's input.
    pub dropout: Dropout,
}

named_module!(TokenClassifier {
    encoder: |model| model.encoder.config().family.prefix(),
    dropout: |_| "dropout",
    classifier: |_| "classifier",
});

impl TokenClassifier {
    /// Read a trained classifier; its labels are those of `config.json`. The parameters are frozen. `dtype` as in [`Encoder::load`].
    ///
    /// # Errors
    /// Those of [`Encoder::load`]; also [`Error::File`] if the checkpoint has no classifier.
    pub fn load(dir: impl AsRef<Path>, device: &Device, dtype: Option<DType>) -> Result<Self> {
        let config = EncoderConfig::read(&dir)?;
        Self::from_checkpoint(config, &Checkpoint::open(dir.as_ref())?, None, device, dtype)
    }

    /// Read the weights of `config` from a checkpoint. With a seed, the classifier is new and trainable, for the labels of `config`: normal
    /// with deviation `initializer_range`, biases zero. All else is frozen.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if there are no labels; [`Error::File`] if there is no classifier and no seed; [`Error::Tensor`] for tensors
    /// that are missing or do not have the shape that the configuration says.
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

    /// The configuration, with the labels.
    pub fn config(&self) -> &EncoderConfig {
        self.encoder.config()
    }

    /// The names of the outputs.
    pub fn labels(&self) -> &[String] {
        &self.config().labels
    }

    /// Logits `[b, s, labels]`. What stands at padding has no meaning.
    pub fn logits(&self, texts: &Texts) -> Tensor<3> {
        self.classifier.project(ops::dropout(&self.dropout, self.encoder.forward(texts)))
    }

    /// Write `config.json` and the weights; see [`Encoder::save`].
    ///
    /// # Errors
    /// Those of [`write_weights`](crate::write_weights).
    pub fn save(&self, dir: impl AsRef<Path>, dtype: DType) -> Result<u64> {
        save::save(self, self.config(), "ForTokenClassification", dir.as_ref(), dtype)
    }

    fn lazy(config: EncoderConfig, device: &Device) -> Result<Self> {
        if config.labels.is_empty() {
            return Err(Error::InvalidConfig("a classifier needs labels, and there are none".into()));
        }
        let classifier = LinearConfig::new(config.hidden_size, config.labels.len()).init(device);
        let dropout = DropoutConfig::new(config.classifier_dropout).init();
        Ok(Self { encoder: Encoder::lazy(&Arc::new(config), false, device), classifier, dropout })
    }
}
