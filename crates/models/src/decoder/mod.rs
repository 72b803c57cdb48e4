//! The Llama family of decoders: Llama, Mistral, Qwen2, Qwen3 and what shares their layout, such as SmolLM.
//!
//! One module serves all of them; [`DecoderConfig`] holds what tells them apart. Shapes use `b` for the batch, `s` for the tokens of
//! this call, `t` for all tokens up to now, `d` for the hidden size, `h` and `kv` for the query and key/value heads and `hd` for the
//! size of a head.

mod activation;
mod attention;
mod block;
mod cache;
mod causal_lm;
mod config;
mod family;
mod mlp;
mod norm;
mod rope;
mod rotary;
mod span;
mod stack;
mod tying;

pub use activation::Activation;
pub use attention::Attention;
pub use block::DecoderLayer;
pub use cache::KvCache;
pub use causal_lm::CausalLm;
pub use config::DecoderConfig;
pub(crate) use family::ARCHITECTURES;
pub use family::Family;
pub use mlp::Mlp;
pub use norm::RmsNorm;
pub use rope::{Rope, RopeScaling};
pub use stack::Decoder;
