//! `peft logits`.

use crate::loaded::Loaded;
use crate::loading::ModelArgs;
use crate::output;
use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use clap::Args;
use peft_core::files::{OutputFile, TensorSource, pytorch_metadata, write_safetensors};
use peft_core::{Error, LanguageModel, Result, TextClassifier, Texts, device};
use peft_models::EncoderConfig;
use std::path::PathBuf;

/// Write a model's logits to a file, to compare with another program.
#[derive(Args)]
#[command(after_help = "Example:\n  peft logits --model SmolLM2-135M --adapter my-adapter --tokens 1,403,407 --out logits.safetensors\n\n\
    The file holds one tensor in f32: `logits: [tokens, vocabulary]` of a decoder; of an encoder `[1, labels]`, or `[tokens, labels]` if it\n\
    labels tokens.")]
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
        if peft_models::is_encoder(&self.model.model) {
            return self.encoder(&out, json);
        }
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
        self.write(&out, logits, "vocabulary", json)
    }

    /// An encoder says which label the text has, or each of its tokens.
    fn encoder(&self, out: &OutputFile, json: bool) -> Result<()> {
        let ModelArgs { model: dir, adapter, device, dtype } = &self.model;
        let device = device::parse(device)?;
        let logits = match Loaded::read(dir, adapter.as_deref(), &device, Some(dtype.dtype()))? {
            Loaded::Texts(model) => model.logits(&self.text(model.config(), &device)?),
            Loaded::Tokens(model) => model.logits(&self.text(model.config(), &device)?).squeeze_dim(0),
            _ => {
                let reason = "is an encoder without a classifier, which has no logits; give the adapter that holds one";
                return Err(Error::file(dir, reason));
            }
        };
        self.write(out, logits, "labels", json)
    }

    /// The tokens as one text for an encoder.
    fn text(&self, config: &EncoderConfig, device: &Device) -> Result<Texts> {
        let (tokens, max) = (self.tokens.len(), config.max_tokens());
        if let Some(id) = self.tokens.iter().find(|id| **id as usize >= config.vocab_size) {
            return Err(Error::InvalidConfig(format!("token {id} is outside the vocabulary of {}", config.vocab_size)));
        }
        if tokens > max {
            return Err(Error::InvalidConfig(format!("{tokens} tokens for an encoder of at most {max}")));
        }
        Ok(Texts::new([(self.tokens.as_slice(), vec![0; tokens].as_slice())], config.pad_token_id, device))
    }

    fn write(&self, out: &OutputFile, logits: Tensor<2>, columns: &str, json: bool) -> Result<()> {
        let [rows, outputs] = logits.dims();
        let source = TensorSource::from_tensor("logits", logits, DType::F32)?;
        write_safetensors(out.path(), [source], &pytorch_metadata())?;
        let outcome = serde_json::json!({ "out": output::shown(&self.out), "tokens": self.tokens.len(), columns: outputs });
        output::print_beside(&[out.path()], json, &outcome, format!("logits [{rows}, {outputs}] written to {}", self.out.display()))
    }
}
