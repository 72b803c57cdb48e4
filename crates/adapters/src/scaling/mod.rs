//! Changes that scale activations.

mod ia3;

pub use ia3::{Ia3, Ia3Config};
