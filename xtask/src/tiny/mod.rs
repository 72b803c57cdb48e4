//! The tiny checkpoint that the quickstart and the end-to-end tests use: a model of 0.7 million parameters, trained from scratch on
//! generated text, so that it belongs to the repository without anybody's data or licence.

pub mod pretrain;
mod tasks;
mod tokenizer;
