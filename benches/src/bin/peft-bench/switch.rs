//! One model, many adapters.

use crate::base::{Base, batch, last_logits};
use crate::report::{Report, median, ms_since};
use burn::tensor::Device;
use clap::Args;
use peft_core::{Error, Result, Scope, activate};
use peft_models::CausalLm;
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

/// Load adapters and switch between them.
#[derive(Args)]
pub struct Switch {
    #[command(flatten)]
    base: Base,
    /// A directory of adapter directories.
    #[arg(long, value_name = "DIR")]
    adapters: PathBuf,
    /// Switches that are timed.
    #[arg(long, default_value_t = 200)]
    switches: usize,
    /// Also time a batch of which every row has an adapter of its own.
    #[arg(long)]
    mixed: bool,
}

impl Switch {
    /// Milliseconds to load an adapter and make it active, and to make another active.
    pub fn run(&self) -> Result<Report> {
        let device = self.base.device()?;
        let mut model = self.base.load(&device)?;
        let names = self.names()?;
        let mut load_ms = Vec::new();
        for name in &names {
            let start = Instant::now();
            (model, _, _) = peft_adapters::load(model, &self.adapters.join(name), name)?;
            load_ms.push(ms_since(start));
        }
        let mut switch_ms = Vec::new();
        for name in names.iter().cycle().take(self.switches) {
            let start = Instant::now();
            model = activate(model, &[(name, 1.0)])?;
            switch_ms.push(ms_since(start));
        }
        let mut check = Vec::new();
        for name in &names {
            model = activate(model, &[(name, 1.0)])?;
            check.extend(last_logits(model.logits(batch(1, 16, &model, &device)), 1)?);
        }
        if check.iter().map(|logit| logit.to_bits()).collect::<HashSet<_>>().len() < names.len() {
            return Err(Error::InvalidConfig("two adapters give the same output".into()));
        }
        let metrics = [("load_ms", median(load_ms)), ("switch_ms", median(switch_ms))].into();
        let mut report = Report { metrics, check, ..Report::default() };
        if self.mixed {
            mixed(model, &names[..names.len().min(8)], &device, &mut report)?;
        }
        Ok(report)
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.adapters).map_err(|e| Error::io(&self.adapters, e))?;
        let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }
}

/// A batch with an adapter for each row beside the same batch with one adapter for all.
fn mixed(model: CausalLm, names: &[String], device: &Device, report: &mut Report) -> Result<()> {
    let model = activate(model, &[(&names[0], 1.0)])?;
    let ids = batch(names.len(), 64, &model, device);
    let scope = Scope { adapter_of_row: names.iter().cloned().map(Some).collect(), ..Scope::default() };
    let (mut one_ms, mut mixed_ms, mut logits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..6 {
        let start = Instant::now();
        last_logits(model.logits(ids.clone()), 1)?;
        one_ms.push(ms_since(start));
        let start = Instant::now();
        logits = last_logits(scope.clone().run(|| model.logits(ids.clone())).0, 1)?;
        mixed_ms.push(ms_since(start));
    }
    report.check.extend(logits);
    // The first of each is a warm-up.
    let (one, several) = (median(one_ms.split_off(1)), median(mixed_ms.split_off(1)));
    report.metrics.extend([("one_adapter_ms", one), ("mixed_ms", several), ("mixed_over_one", several / one)]);
    Ok(())
}
