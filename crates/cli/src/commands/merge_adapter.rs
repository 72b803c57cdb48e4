//! `peft merge-adapter`.

use crate::commands::finetune::copy_checkpoint_files;
use crate::hub::{self, Kind};
use crate::loading::{load_adapted, stored_dtype};
use crate::output;
use clap::Args;
use peft_core::files::{Checkpoint, OutputDir, TextFiles};
use peft_core::{Error, Result, device, merge, visit_slots};
use std::path::PathBuf;

/// Largest file of a written checkpoint, in bytes; what transformers uses.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Put an adapter into its base model and write a complete checkpoint.
#[derive(Args)]
#[command(after_help = "Example:\n  peft merge-adapter --model SmolLM2-135M --adapter my-adapter --out SmolLM2-135M-mine\n\n\
    The result has the base's files and number types, and loads in transformers without PEFT.\n\
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
    /// Replace the output directory if it exists.
    #[arg(long)]
    overwrite: bool,
    /// Where to compute: cpu, vulkan[:n] or cuda[:n].
    #[arg(long, default_value = "cpu")]
    device: String,
}

impl MergeAdapter {
    pub fn run(self, json: bool) -> Result<()> {
        let out = OutputDir::create(&self.out, self.overwrite)?;
        let device = device::parse(&self.device)?;
        let base = hub::resolve(&self.model, Kind::Model)?.dir;
        let adapter = hub::resolve(&self.adapter, Kind::Adapter)?.dir;
        let checkpoint = Checkpoint::open(&base)?;
        let model = load_adapted(&base, Some(&adapter), &device, None)?;
        let mut embedding_changes = false;
        visit_slots(&model, |path, slot| embedding_changes |= path.ends_with("embed_tokens.weight") && slot.active().next().is_some());
        if embedding_changes && model.config().tie_word_embeddings {
            return Err(Error::InvalidConfig(
                "the adapter changes the embedding, to which this model ties its output head: merged, it would change the head too".into(),
            ));
        }
        let model = merge(model)?;
        copy_checkpoint_files(&base, out.path())?;
        let text = TextFiles::of(&base, Some(&adapter));
        text.copy_vocabulary(out.path())?;
        text.copy_settings(out.path())?;
        let bytes = peft_models::write_weights(&model, out.path(), |key| stored_dtype(checkpoint.info(key)), SHARD_BYTES)?;
        let path = out.commit()?;
        let outcome = serde_json::json!({ "out": path, "bytes": bytes });
        output::print(json, &outcome, format!("merged checkpoint of {bytes} bytes written to {}", path.display()))
    }
}
