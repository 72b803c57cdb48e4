//! Changes of low rank: `ΔW` is a product of two thin matrices.

mod dora;
mod lora;
mod lora_config;
mod pissa;
mod vera;

pub use dora::Dora;
pub use lora::Lora;
pub use lora_config::{Bias, Init, LoraConfig};
pub use pissa::Pissa;
pub use vera::{Vera, VeraConfig};
