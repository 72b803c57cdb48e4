//! From a data file to batches: JSON → examples → chat template → token ids with marked targets → padded tensors.
//!
//! ```no_run
//! use peft_train::data::{Batcher, ChatTemplate, EncodeConfig, Encoder, Position, Sampler, TextTokenizer, read_examples};
//!
//! # fn main() -> peft_core::Result<()> {
//! let checkpoint = "models/base";
//! let tokenizer = TextTokenizer::load(checkpoint)?;
//! let template = ChatTemplate::load(checkpoint)?;
//! let mut encoder = Encoder::new(&tokenizer, template.as_ref(), EncodeConfig::default())?;
//! let rows = encoder.encode_all(&read_examples("train.jsonl")?)?;
//!
//! let batcher = Batcher::new(burn::tensor::Device::default(), tokenizer.pad_id());
//! let sampler = Sampler::new(rows.len(), 8, 0)?;
//! for (_position, indices) in sampler.steps(Position::default()).take(100) {
//!     let _batch = batcher.batch(indices.iter().map(|&i| &rows[i]));
//! }
//! # Ok(())
//! # }
//! ```

mod array;
mod batch;
mod calendar;
mod checkpoint;
mod classify;
mod conversation;
mod declared;
mod encode;
mod examples;
mod instruction;
mod jsonl;
mod keys;
mod labelled;
mod limits;
mod literals;
mod marking;
mod messages;
mod packing;
mod pairs;
mod plan;
mod rendered;
pub(crate) mod row;
mod sampler;
mod shapes;
mod spans;
mod split;
mod stats;
mod stream;
mod template;
mod tokenizer;
mod turns;
mod wordpiece;

pub use batch::{Batch, Batcher, HostBatch};
pub use checkpoint::SpecialTokens;
pub use classify::{Classified, ClassifyStats, LabelledBatch, Targets};
pub use conversation::Conversation;
pub(crate) use encode::encode_inside;
pub use encode::{EncodeConfig, Encoded, Encoder, encode_continuation, encode_example};
pub use examples::Examples;
pub use jsonl::{Content, Example, Message, read_examples};
pub use labelled::{Label, Labelled, Labels, RawLabel, read_labelled, read_texts};
pub use packing::pack;
pub use pairs::Tokens;
pub use plan::Plan;
pub use sampler::{Position, Sampler, Steps};
pub use split::split;
pub use stats::{EncodeStats, Skip, Skipped};
pub use stream::stream_examples;
pub use template::{ChatTemplate, Variables};
pub use tokenizer::{Stream, TextTokenizer};
