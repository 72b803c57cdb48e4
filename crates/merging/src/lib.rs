//! Merging checkpoints and adapters, and compressed task vectors.

pub mod compeft;
