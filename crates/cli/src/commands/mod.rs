//! One file for each command.

pub mod classify;
pub mod compress;
pub mod decompress;
pub mod eval;
pub mod finetune;
pub mod fisher;
pub mod generate;
pub mod inspect;
pub mod logits;
pub mod merge;
pub mod merge_adapter;
pub mod merge_adapters;
pub mod merge_parts;
pub mod merge_search;
pub mod merge_trained;
pub mod methods;
pub mod quickstart;
pub mod report;
