//! Measurements beside Hugging Face: the same job, on this machine, in turns.
//!
//! Each run is a process of its own: `peft-bench` on one side, `xtask/bench/peer.py` (transformers and PEFT) on the other. They share the
//! checkpoint, the shapes, the number of threads and the command line, and say some results, which must agree.

mod chart;
mod facts;
mod job;
mod page;
mod record;
mod side;
mod spread;

use crate::{Outcome, workspace_root};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use job::{Job, Settings, Shape};
use record::{Measure, Record};
use side::{Run, Side};
use std::path::{Path, PathBuf};

/// Largest difference of two results over the largest result.
const TOLERANCE: f64 = 1e-4;

/// Measure a job, alone or in turns with Hugging Face transformers and PEFT.
///
/// A comparison (--peer) is stored as JSON in docs/performance, and the table and the chart of docs/src/performance.md are made anew
/// from all that is stored there.
#[derive(Args)]
pub struct Bench {
    /// What to measure.
    #[arg(value_enum)]
    job: Job,
    /// Measure transformers and PEFT too, in turns, and store the comparison.
    #[arg(long)]
    peer: bool,
    /// The shape of the model [default: small, for merges 500m].
    #[arg(long, value_enum)]
    shape: Option<Shape>,
    /// Runs of each side; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads of each side.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// train: sequences in a batch [default: 4].
    #[arg(long)]
    batch: Option<u32>,
    /// train: tokens in a sequence [default: 128, 135m 256].
    #[arg(long)]
    seq: Option<u32>,
    /// train: timed steps [default: 20, 135m 8].
    #[arg(long)]
    steps: Option<u32>,
    /// merge-linear, merge-ties: checkpoints to merge, up to 5 [default: 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=5))]
    models: Option<u32>,
    /// switch: also time a batch of which every row has an adapter of its own.
    #[arg(long)]
    mixed: bool,
    /// Python with the packages of xtask/parity/requirements.txt, for merges with mergekit 0.1.5 [default: $PEFT_PYTHON, else a venv made in target/parity-venv].
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// This `peft-bench` in place of one built for release.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Print the result as JSON on stdout.
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Measure, print, and store a comparison.
    pub fn run(&self) -> Outcome {
        let shape = self.shape()?;
        let settings = self.settings(shape)?;
        // Before the build, which takes longer.
        let peer = self.peer.then(|| Side::peer(self.job, crate::parity::python::find(self.python.as_deref())?)).transpose()?;
        let ours = Side::ours(self.binary.as_deref())?;
        let dir = workspace_root().join("target/bench").join(shape.to_string());
        ours.prepare(shape, &dir)?;
        let args = self.job.args(&settings, &dir, self.mixed);
        let (ours, peer) = self.measure(shape, &ours, peer.as_ref(), &args)?;
        let record = self.record(shape, settings, &ours, &peer);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&record)?);
        } else {
            print!("{}", page::text(&record));
        }
        if self.peer {
            record.store()?;
            page::renew()?;
        }
        Ok(())
    }

    fn shape(&self) -> Outcome<Shape> {
        let merges = self.job.merge().is_some();
        match self.shape.unwrap_or(if merges { Shape::M500 } else { Shape::Small }) {
            shape if (shape == Shape::M500) == merges => Ok(shape),
            shape => Err(format!("{shape} is no shape of {}", self.job).into()),
        }
    }

    fn settings(&self, shape: Shape) -> Outcome<Settings> {
        let mut settings = self.job.settings(shape);
        for (name, value) in [("batch", self.batch), ("seq", self.seq), ("steps", self.steps), ("models", self.models)] {
            match (value, settings.get_mut(name)) {
                (Some(value), Some(setting)) => *setting = value,
                (Some(_), None) => return Err(format!("--{name} is no setting of {}", self.job).into()),
                (None, _) => {}
            }
        }
        match self.mixed && self.job != Job::Switch {
            true => Err(format!("--mixed is no setting of {}", self.job).into()),
            false => Ok(settings),
        }
    }

    /// The runs of each side, taken in turns.
    fn measure(&self, shape: Shape, ours: &Side, peer: Option<&Side>, args: &[String]) -> Outcome<(Vec<Run>, Vec<Run>)> {
        let sides: Vec<&Side> = [ours].into_iter().chain(peer).collect();
        let bar = ProgressBar::new(u64::from(self.rounds) * sides.len() as u64);
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}")?);
        let mut runs = [Vec::new(), Vec::new()];
        for round in 1..=self.rounds {
            for (side, runs) in sides.iter().zip(&mut runs) {
                let message = format!("{} {shape}: {}, round {round} of {}", self.job, side.name(), self.rounds);
                match bar.is_hidden() {
                    true => eprintln!("{message}"),
                    false => bar.set_message(message),
                }
                runs.push(side.run(args, self.threads)?);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        let [ours, peer] = runs;
        for theirs in &peer {
            agree(&ours[0].check, &theirs.check)?;
        }
        Ok((ours, peer))
    }

    fn record(&self, shape: Shape, settings: Settings, ours: &[Run], peer: &[Run]) -> Record {
        let measures = self.job.quantities().into_iter().filter_map(|quantity| Measure::of(quantity, ours, peer));
        Record {
            job: self.job,
            shape,
            rounds: self.rounds,
            settings,
            facts: facts::Facts::gather(self.threads, peer.first().map(|run| run.versions.clone()).unwrap_or_default()),
            measures: measures.collect(),
        }
    }
}

/// Two implementations that do the same give the same numbers.
fn agree(ours: &[f64], theirs: &[f64]) -> Outcome {
    let largest = theirs.iter().fold(0.0, |max: f64, value| max.max(value.abs()));
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= TOLERANCE * largest;
    if ours.len() == theirs.len() && ours.iter().zip(theirs).all(close) {
        return Ok(());
    }
    Err(format!("the two sides do not compute the same: {ours:?} here, {theirs:?} there").into())
}

/// The name of a value on the command line.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
}

fn docs() -> PathBuf {
    workspace_root().join("docs")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_agree_within_the_tolerance() {
        agree(&[1.0, 100.005], &[1.001, 100.0]).unwrap();
        for ours in [&[1.0, 100.02][..], &[1.0], &[f64::NAN, 100.0]] {
            let message = agree(ours, &[1.0, 100.0]).unwrap_err().to_string();
            assert!(message.starts_with("the two sides do not compute the same"), "{message}");
        }
    }
}
