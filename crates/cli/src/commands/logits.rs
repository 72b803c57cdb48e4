//! `peft logits`.

use crate::loading::ModelArgs;
use crate::output;
use burn::module::Module;
use burn::tensor::{DType, Int, Tensor, TensorData};
use clap::Args;
use peft_core::files::{OutputFile, TensorSource, pytorch_metadata, write_safetensors};
use peft_core::{Error, LanguageModel, Result};
use std::path::PathBuf;

/// Write a model's logits to a file, to compare with another program.
#[derive(Args)]
#[command(after_help = "Example:\n  peft logits --model SmolLM2-135M --adapter my-adapter --tokens 1,403,407 --out logits.safetensors\n\n\
    The file holds one tensor, `logits: [tokens, vocabulary]` in f32.")]
pub struct Logits {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',', required = true, value_name = "ID,ID")]
    tokens: Vec<u32>,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Logits {
    pub fn run(mut self, json: bool) -> Result<()> {
        self.model.resolve()?;
        let out = OutputFile::create(&self.out, true, &self.model.inputs())?;
        let model = self.model.load()?;
        let vocabulary = model.vocab_size();
        if let Some(id) = self.tokens.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::InvalidConfig(format!("token {id} is outside the vocabulary of {vocabulary}")));
        }
        let device = model.devices().into_iter().next().unwrap_or_default();
        let length = self.tokens.len();
        let ids: Vec<i64> = self.tokens.iter().map(|id| i64::from(*id)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, length]), &device);
        let hidden = model.hidden(ids);
        let d = hidden.dims()[2];
        let logits = model.head(hidden.reshape([length, d]));
        let source = TensorSource::from_tensor("logits", logits, DType::F32)?;
        write_safetensors(out.path(), [source], &pytorch_metadata())?;
        let outcome = serde_json::json!({ "out": self.out, "tokens": length, "vocabulary": vocabulary });
        output::print_beside(&[out.path()], json, &outcome, format!("logits [{length}, {vocabulary}] written to {}", self.out.display()))
    }
}
