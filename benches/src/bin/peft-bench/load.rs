//! From nothing to the first result.

use crate::base::{Base, CHECKED, batch, last_logits};
use crate::report::{Report, now};
use clap::Args;
use peft_core::Result;

/// Load a model and run it once, on 8 tokens.
#[derive(Args)]
pub struct Load {
    #[command(flatten)]
    base: Base,
}

impl Load {
    /// When the result was there.
    pub fn run(&self) -> Result<Report> {
        let device = self.base.device()?;
        let model = self.base.load(&device)?;
        let check = last_logits(model.logits(batch(1, 8, &model, &device)), CHECKED)?;
        Ok(Report { ready_at: Some(now()), check, ..Report::default() })
    }
}
