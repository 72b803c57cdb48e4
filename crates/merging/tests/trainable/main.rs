//! Merges that are trained, on a network of two layers.

mod errors;
mod invariants;
mod net;
mod oracle;
