//! Live comparison with Hugging Face: adapters made on either side must mean the same on the other.
//!
//! Fixtures in the repository hold what some versions of transformers and PEFT said once; this asks them now, through the program as a
//! user runs it, and with models and adapters that no fixture has.

mod adapters;
pub(crate) mod binary;
mod merging;
pub(crate) mod python;

use crate::{Outcome, workspace_root};
use adapters::Kind;
use binary::Binary;
use clap::{Args, ValueEnum};
use python::Peer;
use serde::Serialize;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest difference of two logits over the largest logit.
const TOLERANCE: f64 = 1e-4;
/// An adapter must change the logits by more than this, or the comparison could not tell whether it was read.
const LEAST_EFFECT: f64 = 100.0 * TOLERANCE;
/// What the models read: any ids of the tiny vocabulary do.
const TOKENS: &str = "17,301,4,255,96,410,33,33,128,499,7,260,71,350,12,202,5,444,63,180";

/// Compare with Hugging Face transformers and PEFT, live.
///
/// For every architecture and kind of adapter: an adapter made by PEFT gives the same logits in `peft`; one trained by `peft` gives the
/// same logits in PEFT; a checkpoint merged by `peft` loads in transformers and gives the logits of the adapted model.
#[derive(Args)]
pub struct Parity {
    /// Python with the packages of xtask/parity/requirements.txt [default: $PEFT_PYTHON, else a venv made in target/parity-venv].
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Architectures to compare.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Architecture::value_variants().to_vec())]
    arch: Vec<Architecture>,
    /// Kinds of adapters to compare.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::value_variants().to_vec())]
    kind: Vec<Kind>,
    /// Compare `peft merge` with mergekit instead, which the Python must have too.
    #[arg(long)]
    merge: bool,
    /// Print the results as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// An architecture that both sides have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Architecture {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

impl Architecture {
    fn model_args(self) -> Vec<&'static str> {
        match self {
            Self::Llama => vec!["--arch", "llama"],
            // Shorter than the text, so that it matters.
            Self::Mistral => vec!["--arch", "mistral", "--sliding-window", "8"],
            Self::Qwen2 => vec!["--arch", "qwen2"],
            Self::Qwen3 => vec!["--arch", "qwen3"],
        }
    }
}

/// The outcome of one comparison.
#[derive(Serialize)]
struct Row {
    arch: String,
    kind: String,
    direction: &'static str,
    /// Largest difference of two logits over the largest logit.
    ratio: Option<f64>,
    /// The same between the adapted model and the plain one.
    effect: Option<f64>,
    ok: bool,
    error: Option<String>,
}

/// The two numbers of a comparison.
struct Measured {
    ratio: f64,
    effect: f64,
}

impl Row {
    fn new(arch: &str, kind: &str, direction: &'static str, measured: Result<Measured, String>) -> Self {
        let error = match &measured {
            Ok(Measured { effect, .. }) if *effect < LEAST_EFFECT => Some("the adapter changes too little".into()),
            Ok(Measured { ratio, .. }) if ratio.is_nan() || *ratio > TOLERANCE => Some("the logits differ".into()),
            Ok(_) => None,
            Err(error) => Some(error.clone()),
        };
        let (ratio, effect) = measured.map_or((None, None), |m| (Some(m.ratio), Some(m.effect)));
        Self { arch: arch.into(), kind: kind.into(), direction, ratio, effect, ok: error.is_none(), error }
    }

    fn line(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.1e}"));
        let (arch, kind, direction) = (&self.arch, &self.kind, self.direction);
        let verdict = self.error.as_ref().map_or_else(|| "ok".into(), |error| format!("FAILED: {error}"));
        format!("{arch:<8} {kind:<16} {direction:<14} {:>8} {:>8}  {verdict}", number(self.ratio), number(self.effect))
    }
}

impl Parity {
    /// Compare, and print a table.
    pub fn run(&self) -> Outcome {
        let binary = Binary::build()?;
        let python = python::find(self.python.as_deref())?;
        if self.merge {
            return merging::compare(&binary, &python);
        }
        let work = workspace_root().join("target/parity");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        fs::create_dir_all(&work)?;
        fs::write(work.join("train.jsonl"), adapters::training_data())?;
        let mut session = Session { binary, peer: Peer::start(&python, &work)?, work };

        let mut rows = Vec::new();
        for arch in &self.arch {
            let model = session.make_model(*arch)?;
            for kind in &self.kind {
                eprintln!("comparing {} {}", name(arch), name(kind));
                rows.extend(session.compare(&model, &name(arch), *kind));
            }
        }
        self.report(&rows)
    }

    fn report(&self, rows: &[Row]) -> Outcome {
        if self.json {
            println!("{:#}", json!({ "tolerance": TOLERANCE, "rows": rows }));
        } else {
            println!("{:<8} {:<16} {:<14} {:>8} {:>8}", "arch", "kind", "direction", "ratio", "effect");
            rows.iter().for_each(|row| println!("{}", row.line()));
        }
        match rows.iter().filter(|row| !row.ok).count() {
            0 => Ok(()),
            failed => Err(format!("{failed} of {} comparisons failed", rows.len()).into()),
        }
    }
}

/// The name of a value on the command line.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
}

/// Both sides and where they meet.
struct Session {
    binary: Binary,
    peer: Peer,
    work: PathBuf,
}

impl Session {
    /// A random checkpoint, and beside it the plain model's logits.
    fn make_model(&mut self, arch: Architecture) -> Result<PathBuf, String> {
        let dir = self.work.join(name(&arch));
        let model = dir.join("model");
        let out = text(&model);
        self.peer.call(&[&["make-model", "--out", &out, "--seed", "3"], arch.model_args().as_slice()].concat())?;
        self.peer.call(&["logits", "--model", &out, "--tokens", TOKENS, "--out", &text(&dir.join("plain.safetensors"))])?;
        Ok(model)
    }

    fn compare(&mut self, model: &Path, arch: &str, kind: Kind) -> [Row; 3] {
        let dir = model.with_file_name(name(&kind));
        let theirs = self.theirs(model, &dir, kind);
        let ours = self.ours(model, &dir, kind);
        let merged = self.merged(model, &dir);
        let row = |direction, measured| Row::new(arch, &name(&kind), direction, measured);
        [row("PEFT to peft", theirs), row("peft to PEFT", ours), row("merged by peft", merged)]
    }

    /// An adapter made by PEFT, read by both.
    fn theirs(&mut self, model: &Path, dir: &Path, kind: Kind) -> Result<Measured, String> {
        let adapter = dir.join("theirs");
        let (model_arg, adapter_arg, kind) = (text(model), text(&adapter), name(&kind));
        self.peer.call(&["make-adapter", "--model", &model_arg, "--kind", &kind, "--out", &adapter_arg, "--seed", "5"])?;
        self.both_read(model, &adapter)
    }

    /// An adapter trained by `peft`, read by both.
    fn ours(&mut self, model: &Path, dir: &Path, kind: Kind) -> Result<Measured, String> {
        let adapter = dir.join("ours");
        let data = self.work.join("train.jsonl");
        let mut args = vec!["finetune".into(), "--model".into(), text(model), "--data".into(), text(&data), "--out".into(), text(&adapter)];
        args.extend(kind.finetune_args().iter().map(ToString::to_string));
        if let Some(run_file) = kind.run_file() {
            let path = dir.join("run.yaml");
            fs::create_dir_all(dir).and_then(|()| fs::write(&path, run_file)).map_err(|e| format!("{}: {e}", path.display()))?;
            args.extend(["--config".into(), text(&path)]);
        }
        self.binary.run(&args)?;
        self.both_read(model, &adapter)
    }

    fn both_read(&mut self, model: &Path, adapter: &Path) -> Result<Measured, String> {
        let (here, there) = (adapter.join("logits-here.safetensors"), adapter.join("logits-there.safetensors"));
        let args = |out: &Path| {
            ["logits", "--model", &text(model), "--adapter", &text(adapter), "--tokens", TOKENS, "--out", &text(out)].map(String::from)
        };
        self.binary.run(&args(&here))?;
        self.peer.call(&args(&there))?;
        self.measure(model, &there, &here)
    }

    /// PEFT's adapter put into the weights by `peft`: transformers must load the result and give the logits of the adapted model.
    fn merged(&mut self, model: &Path, dir: &Path) -> Result<Measured, String> {
        let (adapter, merged) = (dir.join("theirs"), dir.join("merged"));
        let args = ["merge-adapter", "--model", &text(model), "--adapter", &text(&adapter), "--out", &text(&merged)];
        self.binary.run(&args.map(String::from))?;
        self.peer.call(&["check-checkpoint", "--model", &text(&merged)])?;
        let logits = dir.join("merged-logits.safetensors");
        self.peer.call(&["logits", "--model", &text(&merged), "--tokens", TOKENS, "--out", &text(&logits)])?;
        self.measure(model, &adapter.join("logits-there.safetensors"), &logits)
    }

    fn measure(&mut self, model: &Path, expected: &Path, found: &Path) -> Result<Measured, String> {
        let plain = model.with_file_name("plain.safetensors");
        Ok(Measured { ratio: self.peer.ratio(expected, found)?, effect: self.peer.ratio(&plain, expected)? })
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(measured: Result<Measured, String>) -> Option<String> {
        let row = Row::new("llama", "lora", "PEFT to peft", measured);
        assert_eq!(row.ok, row.error.is_none());
        row.error
    }

    #[test]
    fn equal_logits_of_an_effective_adapter_pass() {
        assert_eq!(error(Ok(Measured { ratio: 1e-6, effect: 0.5 })), None);
    }

    #[test]
    fn different_logits_fail() {
        for ratio in [2e-4, f64::NAN] {
            assert_eq!(error(Ok(Measured { ratio, effect: 0.5 })).as_deref(), Some("the logits differ"));
        }
    }

    #[test]
    fn an_adapter_without_effect_proves_nothing() {
        assert_eq!(error(Ok(Measured { ratio: 0.0, effect: 1e-5 })).as_deref(), Some("the adapter changes too little"));
    }

    #[test]
    fn a_step_that_fails_is_reported() {
        assert_eq!(error(Err("no such file".into())).as_deref(), Some("no such file"));
    }
}
