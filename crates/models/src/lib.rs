//! Backbones that read Hugging Face checkpoints into Burn modules.
//!
//! A backbone names its fields as the checkpoint names its tensors, so that a module path is a checkpoint key; it calls
//! [`project`](peft_core::Project::project) and [`lookup`](peft_core::Lookup::lookup) where it multiplies, so that adapters attached
//! to any of its weights take their fast path; and it declares [`Port`](peft_core::Port)s where adapters act on activations.
//!
//! ```no_run
//! use burn::tensor::{Device, Int, Tensor};
//! use peft_models::CausalLm;
//!
//! # fn main() -> peft_core::Result<()> {
//! let device = Device::default();
//! let model = CausalLm::load("SmolLM2-135M", &device, None)?;
//! let logits = model.logits(Tensor::<2, Int>::from_ints([[1, 403, 407]], &device));
//! assert_eq!(logits.dims(), [1, 3, model.config().vocab_size]);
//! # Ok(())
//! # }
//! ```

mod bounds;
pub mod decoder;
pub mod encoder;
mod fields;
mod load;
mod save;

pub use decoder::{CausalLm, DecoderConfig, KvCache};
pub use encoder::{Encoder, EncoderConfig, SequenceClassifier, TokenClassifier};
pub use save::{stored_dtype, weights, write_weights};

/// Whether the checkpoint in `dir` is an encoder, to go by its `config.json`.
pub fn is_encoder(dir: impl AsRef<std::path::Path>) -> bool {
    let config = peft_core::files::read_json::<serde_json::Value>(&dir.as_ref().join("config.json"));
    config.is_ok_and(|config| {
        let name = config["model_type"].as_str();
        encoder::ARCHITECTURES.iter().any(|known| Some(known.model_type) == name || config["architectures"][0] == known.name)
    })
}

/// An architecture that this crate can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Its name in `architectures` of `config.json`.
    pub name: &'static str,
    /// Its name in `model_type` of `config.json`.
    pub model_type: &'static str,
    /// Well-known models that use it.
    pub models: &'static str,
}

/// The supported architectures.
pub fn architectures() -> impl Iterator<Item = &'static Architecture> {
    decoder::ARCHITECTURES.iter().chain(encoder::ARCHITECTURES)
}
