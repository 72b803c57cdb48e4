//! CPU kernels on plain slices, each with its backward pass.
//!
//! These are the inner loops of adapted transformers that eager execution does in many passes over memory: projections on frozen
//! weights with a low-rank branch, normalisation, rotary positions, activations, dropout, attention, and the output head with its
//! cross-entropy. They know nothing of tensors or graphs; `peft-core` makes differentiable operations of them.
//!
//! All arithmetic is f32. Work is shared among the threads of the current Rayon pool, and every loop is compiled for the instruction
//! sets that the machine may have and chosen at run time.

#![warn(unsafe_op_in_unsafe_fn)]

pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod gated;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod matrix;
pub mod norm;
pub mod rotary;
mod simd;

pub use linear::Weight;
pub use matrix::{Matrix, MatrixMut};
