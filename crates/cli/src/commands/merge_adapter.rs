//! `peft merge-adapter`.

use crate::hub::{self, Kind};
use crate::loaded::Loaded;
use crate::output;
use crate::run_state::write_json;
use clap::Args;
use peft_core::files::{Inputs, OutputDir, TextFiles, copy_checkpoint_files, read_json};
use peft_core::{Result, device};
use peft_train::data::{SpecialTokens, TextTokenizer};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Largest file of a written checkpoint, in bytes; what transformers uses.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Put an adapter into its base model and write a complete checkpoint.
#[derive(Args)]
#[command(after_help = "Example:\n  peft merge-adapter --model SmolLM2-135M --adapter my-adapter --out SmolLM2-135M-mine\n\n\
    The result has the base's files and number types, and loads in transformers without PEFT. An encoder keeps its head, or gets the\n\
    classifier that the adapter holds. Where head and embedding are one weight and the adapter changes one, both are stored.\n\
    To merge several adapters into one adapter: peft merge-adapters.")]
pub struct MergeAdapter {
    /// Base checkpoint: a directory or a hub id, org/name[@revision].
    #[arg(long, value_name = "DIR|ID")]
    model: PathBuf,
    /// Adapter: a directory or a hub id.
    #[arg(long, value_name = "DIR|ID")]
    adapter: PathBuf,
    /// Directory for the merged checkpoint.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the output directory if peft has written it.
    #[arg(long)]
    overwrite: bool,
    /// Where to compute: cpu, vulkan[:n] or cuda[:n].
    #[arg(long, default_value = "cpu")]
    device: String,
}

impl MergeAdapter {
    pub fn run(self, json: bool) -> Result<()> {
        let device = device::parse(&self.device)?;
        let base = hub::resolve(&self.model, Kind::Model)?.dir;
        let adapter = hub::resolve(&self.adapter, Kind::Adapter)?.dir;
        let inputs = Inputs::none().and("the model", &base).and("the adapter", &adapter);
        let out = OutputDir::create(&self.out, self.overwrite, &inputs)?;
        let model = Loaded::read(&base, Some(&adapter), &device, None)?.merged()?;
        copy_checkpoint_files(&base, out.path())?;
        let text = TextFiles::of(&base, Some(&adapter));
        text.copy_vocabulary(out.path())?;
        text.copy_settings(out.path())?;
        let bytes = model.save(out.path(), &base, SHARD_BYTES)?;
        if text.vocabulary() != base || text.settings() != base {
            fit_special_ids(out.path())?;
        }
        let path = out.commit()?;
        let outcome = serde_json::json!({ "out": output::shown(&path), "bytes": bytes });
        output::print(json, &outcome, format!("merged checkpoint of {bytes} bytes written to {}", path.display()))
    }
}

/// Lets a checkpoint whose tokenizer came with the adapter begin, end and pad its texts as `peft generate` does with that adapter: with the
/// tokenizer's own tokens. Besides, texts end at those of the base.
fn fit_special_ids(dir: &Path) -> Result<()> {
    if !dir.join("tokenizer.json").is_file() {
        return Ok(());
    }
    let (tokenizer, named) = (TextTokenizer::load(dir)?, SpecialTokens::load(dir)?);
    let own = |name: &str, id: Option<u32>| id.filter(|_| named.get(name).is_some());
    let singles = [("bos_token_id", own("bos_token", tokenizer.bos_id())), ("pad_token_id", own("pad_token", Some(tokenizer.pad_id())))];
    for file in ["config.json", "generation_config.json"].map(|name| dir.join(name)).iter().filter(|file| file.is_file()) {
        let before: Value = read_json(file)?;
        let mut config = before.clone();
        fit_ends(&mut config, tokenizer.eos_ids());
        for (name, id) in singles {
            if let Some(id) = id {
                config[name] = id.into();
            }
        }
        if config != before {
            write_json(file, &config)?;
        }
    }
    Ok(())
}

/// Adds to a configuration the ends that it does not say.
fn fit_ends(config: &mut Value, ends: &[u32]) {
    let said =
        |end: &u32| config["eos_token_id"] == *end || config["eos_token_id"].as_array().is_some_and(|ids| ids.contains(&(*end).into()));
    if ends.iter().all(said) {
        return;
    }
    config["eos_token_id"] = match ends {
        [one] => Value::from(*one),
        several => Value::from(several),
    };
}
