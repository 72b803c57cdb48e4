//! The contract of burn-peft.
//!
//! An [`Adapter`] is a trainable change to one weight; a [`Slot`] is its home on a parameter; a [`Method`] is a configuration that builds
//! adapters for the sites that [`Targets`] select, and [`adapt`] puts them there. [`Port`]s are the places on activations. [`Tap`] and
//! [`Statistics`] feed methods that look at data, [`Scope`] is the context of one call, [`files`] reads and writes what the Python
//! ecosystem uses.

mod adapter;
mod adapter_file;
mod base_tensors;
pub mod device;
mod erased;
mod error;
mod expression;
pub mod files;
pub mod hf;
mod language;
pub mod linalg;
mod method;
pub mod ops;
mod parameters;
mod patterns;
mod port;
mod project;
mod replacement;
mod scope;
pub mod seed;
mod shared;
mod site;
mod slot;
mod slots;
mod summary;
mod tap;
mod targets;
mod texts;

pub use adapter::{Adapter, AnyAdapter, Base, Stored, as_type};
pub use adapter_file::{CONFIG_FILE, TENSOR_FILE, load_tensors, load_tensors_from, save_adapter};
pub use base_tensors::resize_vocabulary;
pub use error::{Error, Result};
pub use language::{LanguageModel, Packed};
pub use method::{Biases, Builder, Context, Extras, Method, adapt, is_inside};
pub use parameters::{Parameter, for_each_parameter, gradients, parameters, with_parameters};
pub use patterns::Patterns;
pub use port::{ActivationAdapter, Port};
pub use project::{Lookup, Project};
pub use replacement::Replacement;
pub use scope::Scope;
pub use shared::{has_shared, retie};
pub use site::{Site, sites};
pub use slot::{Slot, matricise, unmatricise};
pub use slots::{activate, adapter_names, adapters_named, edit_slots, merge, penalty, set, unload, unmerge, visit_slots};
pub use summary::{Summary, grouped};
pub use tap::{Inputs, Needs, Statistics, Tap, WeightGradients, weight_gradients};
pub use targets::{Layers, Miss, Names, Selection, Targets, ends_with_component, is_output_head};
pub use texts::{TextClassifier, Texts};
