//! Adapters for any Burn module.
//!
//! | module | methods |
//! |---|---|
//! | [`low_rank`] | LoRA, rsLoRA, DoRA, PiSSA, VeRA |
//! | [`scaling`] | (IA)³ |
//! | [`bitfit`] | BitFit: the biases alone |
//!
//! A configuration is a [`peft_core::Method`]; [`peft_core::adapt`] attaches it to a model. [`PeftConfig`] is any of them, as
//! `adapter_config.json` holds it.
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::{Device, Tensor, activation::relu};
//! use peft_adapters::low_rank::LoraConfig;
//! use peft_core::{Context, Names, Project, adapt};
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     up: Linear,
//!     down: Linear,
//! }
//!
//! impl Net {
//!     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
//!         self.down.project(relu(self.up.project(x)))
//!     }
//! }
//!
//! let device = Device::flex().autodiff();
//! let net = Net { up: LinearConfig::new(16, 64).init(&device), down: LinearConfig::new(64, 10).init(&device) };
//! let lora = LoraConfig { r: 4, ..LoraConfig::for_modules(Names::list(["up", "down"])) };
//! let (net, summary) = adapt(net, &lora, &Context::default())?;
//! assert_eq!(summary.trainable, 4 * (16 + 64) + 4 * (64 + 10));
//! assert_eq!(net.forward(Tensor::ones([1, 16], &device)).dims(), [1, 10]);
//! # Ok::<(), peft_core::Error>(())
//! ```

pub mod bitfit;
mod config;
pub mod low_rank;
pub mod scaling;

pub use config::{Common, PeftConfig, attach, changes, load, load_from};
