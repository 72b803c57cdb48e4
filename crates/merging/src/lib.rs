//! Merging checkpoints: several models of one architecture become one, without training.
//!
//! A [`Recipe`] says what to merge and how, in the dialect of mergekit. A [`Plan`] knows each weight of the result, and writes them one
//! after the other: inputs are mapped, read block by block, and never in memory as a whole. The arithmetic is in [`rules`], which also
//! work on slices. [`adapters`] merges adapters of LoRA with each other, [`fisher`] estimates what models depend on, for averages weighted by
//! it, [`compeft`] compresses task vectors.
//!
//! Merges that are trained work on models in memory: [`adaptive`], [`atlas`] and [`concrete`] learn how much of each task vector a model
//! has, from [`TaskVectors`] and a loss.

pub mod adapters;
pub mod adaptive;
mod alignment;
pub mod atlas;
mod card;
mod changes;
mod compatibility;
pub mod compeft;
mod composition;
pub mod concrete;
mod extras;
pub mod fisher;
mod gram;
mod layers;
mod method;
mod models;
mod plan;
mod recipe;
pub mod rules;
mod run;
mod search;
mod select;
mod settings;
mod source;
mod special_ids;
mod stack;
mod templates;
mod tokenizer;
mod vocabularies;
mod workshop;

pub use alignment::Alignment;
pub use compatibility::{Scope, check_compatible};
pub use composition::{Coefficient, Indices, Loss, Step, Stream, TaskVectors, read_coefficients, write_coefficients};
pub use method::{BaseUse, METHODS, Method, Parameter, TRAINED_METHODS, Unset, Values};
pub use models::{Model, ModelDir};
pub use plan::{Input, Plan, Weight};
pub use recipe::{ModelRef, Recipe, Setting, Settings, Slice, SliceSource, TokenSource, TokenizerRecipe, Vocabulary};
pub use run::Shard;
pub use search::{Candidates, candidates};
pub use source::{Numbers, Row, Rows, Source, Stored};
pub use stack::{Block, Output, Stack};
pub use tokenizer::Tokenizer;
pub use workshop::{Finished, Workshop};
