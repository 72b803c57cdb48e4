//! Diagonal Fisher information: how much a model's predictions depend on each of its parameters.
//!
//! [`Fisher`] estimates it over any Burn module, one example at a time; [`write`] and [`FisherFile`] keep it beside the checkpoint; the
//! recipe `merge_method: fisher` averages models by it ("Merging Models with Fisher-Weighted Averaging", Matena and Raffel, 2022,
//! <https://arxiv.org/abs/2111.09832>).
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::tensor::Tensor;
//! use peft_merge::fisher::{Fisher, FisherConfig, Prediction};
//!
//! # fn main() -> peft_core::Result<()> {
//! let device = peft_core::device::host().autodiff();
//! let classifier = LinearConfig::new(2, 3).init(&device);
//! let mut fisher = Fisher::new(classifier, FisherConfig::default(), |_| true)?;
//! for row in [[1.0, -0.5], [0.3, 2.0]] {
//!     let x = Tensor::<2>::from_floats([row], &device);
//!     fisher.add(|model| Prediction::logits(model.forward(x.clone())))?;
//! }
//! let diagonal = fisher.diagonal()?;
//! assert_eq!(diagonal["weight"].dims(), [6]);
//! # Ok(())
//! # }
//! ```

mod estimate;
mod file;
mod measure;
mod prediction;
mod resume;

pub use estimate::{Estimator, Fisher, FisherConfig};
pub use file::{FISHER_FILE, FisherFile, FisherMeta, checksum, model_hash, write};
pub(crate) use measure::{Fishers, Role};
pub use measure::{Scale, Shared};
pub use prediction::Prediction;
