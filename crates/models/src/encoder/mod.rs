//! Encoders: BERT, RoBERTa and what shares their layout, such as XLM-R, CamemBERT and MiniLM.
//!
//! One module serves all of them; [`EncoderConfig`] holds what tells them apart. Shapes use `b` for the batch, `s` for the tokens of the
//! longest text and `d` for the hidden size. Every pass takes [`Texts`](peft_core::Texts): rows padded on the right.
//!
//! ```no_run
//! use peft_core::{TextClassifier, Texts};
//! use peft_models::encoder::SequenceClassifier;
//!
//! # fn main() -> peft_core::Result<()> {
//! let device = burn::tensor::Device::default();
//! let model = SequenceClassifier::load_with_labels("bert-base-uncased", ["negative", "positive"], 0, &device, None)?;
//! let texts = Texts::new([(&[101, 2307, 102][..], &[0, 0, 0][..])], model.config().pad_token_id, &device);
//! assert_eq!(model.logits(&texts).dims(), [1, 2]);
//! # Ok(())
//! # }
//! ```

mod attention;
mod base;
mod classifier;
mod config;
mod embeddings;
mod family;
mod keys;
mod labels;
mod layer;
mod named;
mod norm;
mod save;
mod sentence;
mod tokens;

pub use attention::{Attention, SelfAttention};
pub use base::{Encoder, Pooler, UnderHead};
pub use classifier::{Head, SequenceClassifier};
pub use config::EncoderConfig;
pub use embeddings::Embeddings;
pub(crate) use family::ARCHITECTURES;
pub use family::Family;
pub use labels::Problem;
pub use layer::{Intermediate, Layer, Layers, Output};
pub use norm::LayerNorm;
pub use sentence::{Pooling, SentenceConfig};
pub use tokens::TokenClassifier;
