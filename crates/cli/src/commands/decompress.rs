//! `peft decompress`.

use crate::hub::{self, Kind as Source};
use crate::output;
use clap::Args;
use peft_core::files::{Checkpoint, Inputs, OutputDir, copy_checkpoint_files};
use peft_core::{Error, Result};
use peft_merge::compeft::{Expert, Kind};
use std::path::PathBuf;

/// Make an adapter's directory, or a checkpoint, of a file of peft compress.
#[derive(Args)]
#[command(after_help = "Examples:\n  peft decompress my-adapter.cpft --out my-adapter-again\n  \
    peft decompress change.cpft --base SmolLM2-135M --out my-checkpoint-again\n\n\
    The adapter loads in HF PEFT. A checkpoint gets the base's tokenizer.")]
pub struct Decompress {
    /// The compressed expert.
    #[arg(value_name = "FILE.cpft")]
    file: PathBuf,
    /// The checkpoint that a checkpoint was compressed against: a directory or a hub id.
    #[arg(long, value_name = "DIR|ID")]
    base: Option<PathBuf>,
    /// The directory to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the output directory if peft has written it.
    #[arg(long)]
    overwrite: bool,
}

impl Decompress {
    pub fn run(self, json: bool) -> Result<()> {
        let expert = Expert::read(&self.file)?;
        let base = match (&self.base, expert.kind) {
            (Some(base), _) => Some(hub::resolve(base, Source::Model)?.dir),
            (None, Kind::Adapter) => None,
            (None, Kind::Checkpoint) => {
                return Err(Error::file(&self.file, "is the change of a checkpoint; give the one it was compressed against with --base"));
            }
        };
        let inputs = Inputs::none().and("the compressed file", &self.file).and_maybe("the base", base.as_ref());
        let out = OutputDir::create(&self.out, self.overwrite, &inputs)?;
        let checkpoint = base.as_deref().map(Checkpoint::open).transpose()?;
        if let Some(base) = base.as_deref().filter(|base| base.is_dir()) {
            copy_checkpoint_files(base, out.path())?;
        }
        let bytes = expert.restore(checkpoint.as_ref(), out.path())?;
        let path = out.commit()?;
        let what = match expert.kind {
            Kind::Adapter => "adapter",
            Kind::Checkpoint => "checkpoint",
        };
        let outcome = serde_json::json!({ "out": output::shown(&path), "kind": what, "bytes": bytes });
        output::print(json, &outcome, format!("{what} of {bytes} bytes written to {}", path.display()))
    }
}
