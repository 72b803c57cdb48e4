//! What merges that are trained have in common: models composed of task vectors, and descent on the few numbers that say how.
//!
//! A model is composed without autodiff, block by block, so that no graph grows over the task vectors. One backward pass for each batch
//! gives `∂L/∂θ_b`; what a method trains gets its gradient from that by inner products or a closed form.

mod adam;
mod coefficient;
mod config;
mod descent;
mod guard;
mod inner;
mod stream;
mod vectors;

pub(crate) use adam::Adam;
pub use coefficient::{Coefficient, read_coefficients, write_coefficients};
pub(crate) use config::{above_zero, at_least_one};
pub(crate) use descent::{Descent, host};
pub use descent::{Loss, Step};
pub(crate) use inner::InnerProducts;
pub use stream::{Indices, Stream};
pub use vectors::TaskVectors;
