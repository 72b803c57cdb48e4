//! Reproductions on real data: methods beside each other over several seeds, with a criterion that stands before the run.

mod compeft;
mod dm4;
mod fisher_merging;
mod merging;
mod plot;
mod sentiment;
mod shakespeare;
mod table;
mod trained;

use crate::parity::binary;
use crate::{Outcome, workspace_root};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use table::Cell;

/// Run a reproduction and write its report into docs/reproductions.
///
/// Data and checkpoints are not part of the repository: name the directories that hold them.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask repro sentiment --model all-MiniLM-L6-v2 --data sentence_polarity\n  \
    cargo xtask repro shakespeare --model stories260K --data tinyshakespeare.txt --seeds 3\n  \
    cargo xtask repro merging --data digits.csv\n  cargo xtask repro atlas --data digits.csv")]
pub struct Repro {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    Sentiment(sentiment::Sentiment),
    Shakespeare(shakespeare::Shakespeare),
    Merging(merging::Merging),
    FisherMerging(fisher_merging::FisherMerging),
    Compeft(compeft::Compeft),
    #[command(name = "adamerging")]
    AdaMerging(trained::AdaMerging),
    Atlas(trained::Atlas),
    Concrete(trained::Concrete),
}

/// What every experiment takes.
#[derive(Args)]
struct Common {
    /// Directory of the checkpoint.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The data.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Runs of each method, with seeds 0, 1, ….
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// The program [default: built for release].
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where runs leave their files; finished ones found there are not repeated [default: target/repro].
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl Repro {
    /// Run it.
    pub fn run(&self) -> Outcome {
        match &self.experiment {
            Experiment::Sentiment(experiment) => experiment.run(),
            Experiment::Shakespeare(experiment) => experiment.run(),
            Experiment::Merging(experiment) => experiment.run(),
            Experiment::FisherMerging(experiment) => experiment.run(),
            Experiment::Compeft(experiment) => experiment.run(),
            Experiment::AdaMerging(experiment) => experiment.run(),
            Experiment::Atlas(experiment) => experiment.run(),
            Experiment::Concrete(experiment) => experiment.run(),
        }
    }
}

/// A method and its settings.
struct Method {
    name: &'static str,
    /// What the report calls it.
    label: &'static str,
    arguments: &'static [&'static str],
}

/// One run of a method.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measured {
    method: String,
    seed: u64,
    score: f64,
    trainable: f64,
    seconds: f64,
    peak_memory_bytes: f64,
    loss_last: f64,
}

/// The program under test and a place for its files.
struct Bench {
    program: PathBuf,
    scratch: PathBuf,
    model: PathBuf,
    seeds: u64,
}

impl Common {
    fn bench(&self, name: &str) -> Outcome<Bench> {
        let program = match &self.binary {
            Some(binary) => std::path::absolute(binary)?,
            None => binary::build("peft", &["--release", "--workspace"])?,
        };
        let scratch = self.scratch.clone().unwrap_or_else(|| workspace_root().join("target/repro")).join(name);
        fs::create_dir_all(&scratch)?;
        Ok(Bench { program, scratch, model: self.model.clone(), seeds: self.seeds })
    }
}

impl Bench {
    /// Train with each method and seed, and score what comes out with `score`. Runs that were scored before are read back.
    fn measure(&self, methods: &[Method], shared: &[String], score: impl Fn(&Path, &Method) -> Outcome<f64>) -> Outcome<Vec<Measured>> {
        let mut all = Vec::new();
        for method in methods {
            for seed in 0..self.seeds {
                let out = self.scratch.join(format!("{}-{seed}", method.name));
                let result = out.join("measured.json");
                if let Ok(text) = fs::read_to_string(&result) {
                    all.push(serde_json::from_str(&text)?);
                    continue;
                }
                eprintln!("{} with seed {seed}", method.label);
                let mut arguments: Vec<String> = vec!["finetune".into(), "--model".into(), text(&self.model)];
                arguments.extend(method.arguments.iter().chain(&["--overwrite", "--progress", "none", "--seed"]).map(|a| a.to_string()));
                arguments.extend([seed.to_string(), "--out".into(), text(&out)]);
                arguments.extend_from_slice(shared);
                let said = self.json(&arguments)?;
                let number = |key: &str| said[key].as_f64().ok_or(format!("`{key}` is missing in {said}"));
                let measured = Measured {
                    method: method.name.into(),
                    seed,
                    score: score(&out, method)?,
                    trainable: number("trainable_params")?,
                    seconds: number("seconds")?,
                    peak_memory_bytes: number("peak_memory_bytes")?,
                    loss_last: number("train_loss_last")?,
                };
                eprintln!("  score {:.4} in {:.0} s", measured.score, measured.seconds);
                fs::write(&result, serde_json::to_string_pretty(&measured)?)?;
                all.push(measured);
            }
        }
        Ok(all)
    }

    /// What the program says with `--json`.
    fn json(&self, arguments: &[String]) -> Outcome<Value> {
        let output = Command::new(&self.program).args(arguments).arg("--json").output()?;
        if !output.status.success() {
            return Err(format!("peft {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// The mean and deviation of a method's scores.
fn scores(all: &[Measured], method: &str) -> Cell {
    Cell::of(all.iter().filter(|m| m.method == method).map(|m| m.score).collect())
}

/// Write the page, the numbers and the plot of an experiment.
fn publish(name: &str, page: &str, svg: &str, all: &[impl Serialize]) -> Outcome {
    let pages = workspace_root().join("docs/src/reproductions");
    let numbers = workspace_root().join("docs/reproductions");
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&numbers)?;
    fs::write(pages.join(format!("{name}.md")), page)?;
    fs::write(pages.join(format!("{name}.svg")), svg)?;
    let text = serde_json::to_string_pretty(&json!({ "experiment": name, "runs": all }))?;
    fs::write(numbers.join(format!("{name}.json")), text + "\n")?;
    println!("{page}");
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn verdict(passed: bool) -> &'static str {
    if passed { "**Reproduced.**" } else { "**Not reproduced.**" }
}
