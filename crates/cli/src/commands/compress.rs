//! `peft compress`.

use crate::hub::{self, Kind};
use crate::loading::{Text, attach_to_decoder, positive};
use crate::output;
use burn::tensor::{DType, Device};
use clap::{Args, ValueEnum};
use peft_adapters::PeftConfig;
use peft_core::files::{Checkpoint, Inputs, OutputFile, TextFiles};
use peft_core::{CONFIG_FILE, Error, Result, TENSOR_FILE, device, grouped};
use peft_merge::compeft::{Expert, Mode, Scope, Settings, TaskVector};
use peft_models::{CausalLm, DecoderConfig};
use peft_train::evaluate::{DataOptions, Job, Metric, data_job};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Compress an adapter, or what fine-tuning changed in a checkpoint, to a file 8 to 50 times smaller than in bf16 (ComPEFT).
#[derive(Args)]
#[command(after_help = "Examples:\n  peft compress my-adapter --density 0.2 --alpha 2 --out my-adapter.cpft\n  \
    peft compress my-adapter --base SmolLM2-135M --search valid.jsonl --out my-adapter.cpft\n  \
    peft compress my-checkpoint --base SmolLM2-135M --density 0.1 --alpha 3 --out change.cpft\n\n\
    Of the largest entries the signs are kept, and one scalar: alpha times the standard deviation of all entries. An adapter of type LORA\n\
    or IA3 stays usable as it is, --adapter my-adapter.cpft; peft decompress gives the directory back, or the checkpoint with its base.")]
pub struct Compress {
    /// An adapter, or a fine-tuned checkpoint: a directory or a hub id.
    #[arg(value_name = "ADAPTER|CHECKPOINT")]
    source: PathBuf,
    /// The checkpoint that it was fine-tuned from: a directory or a hub id. An adapter needs it for --search alone.
    #[arg(long, value_name = "DIR|ID")]
    base: Option<PathBuf>,
    /// The part of the entries to keep [default: 0.2; with --search 0.05,0.1,0.2,0.3,0.5, of which one is chosen].
    #[arg(long, value_name = "K", value_delimiter = ',')]
    density: Vec<f64>,
    /// Factor of the scalar: 1 for large models, 2 or 3 for small ones [default: 2; with --search 0.5,1,2,3,4,5,6,8,10].
    #[arg(long, value_name = "A", value_delimiter = ',')]
    alpha: Vec<f64>,
    /// Choose density and alpha by the perplexity of a decoder on this file, of the form that eval takes.
    #[arg(long, value_name = "FILE", requires = "base")]
    search: Option<PathBuf>,
    /// What the kept entries become.
    #[arg(long, value_enum, default_value_t)]
    mode: ModeName,
    /// Take each tensor for itself, instead of all as one vector.
    #[arg(long)]
    per_tensor: bool,
    /// The file to write.
    #[arg(long, value_name = "FILE.cpft")]
    out: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    overwrite: bool,
    /// Examples of the search in one batch.
    #[arg(long, default_value_t = 8, requires = "search", value_parser = positive)]
    batch_size: usize,
    /// Search on the first so many lines only.
    #[arg(long, value_name = "N", requires = "search", value_parser = positive)]
    limit: Option<usize>,
    /// Where to compute the search: cpu, vulkan[:n] or cuda[:n].
    #[arg(long, default_value = "cpu")]
    device: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// Signs times alpha times the standard deviation of all entries.
    #[default]
    Compeft,
    /// Signs times alpha times the mean magnitude of the kept entries.
    Stc,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(serialize_with = "output::path")]
    out: PathBuf,
    bytes: u64,
    bf16_bytes: u64,
    times_smaller: f64,
    elements: u64,
    kept: u64,
    density: f64,
    alpha: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<Search>,
}

/// What a search has found.
#[derive(Serialize)]
struct Search {
    perplexity_uncompressed: f64,
    perplexity: f64,
    tried: Vec<Tried>,
}

#[derive(Clone, Serialize)]
struct Tried {
    density: f64,
    alpha: f64,
    /// Nothing where the model's output was not finite.
    perplexity: Option<f64>,
}

impl Compress {
    pub fn run(mut self, json: bool) -> Result<()> {
        self.source = hub::resolve(&self.source, Kind::Any)?.dir;
        if let Some(base) = &mut self.base {
            *base = hub::resolve(base, Kind::Model)?.dir;
        }
        let inputs = Inputs::none().and("what is compressed", &self.source).and_maybe("the base", self.base.as_ref());
        let out = OutputFile::create(&self.out, self.overwrite, &inputs.and_maybe("the data of the search", self.search.as_ref()))?;
        if self.is_adapter() && TextFiles::of(&self.source, Some(&self.source)).has_own() {
            let reason =
                "has a tokenizer or chat template of its own, which the compressed file cannot hold: with it, those of the base are used";
            tracing::warn!("{}: {reason}", self.source.display());
        }
        if self.base.is_some() && self.search.is_none() && self.is_adapter() {
            tracing::warn!("--base has no effect: an adapter needs it for --search alone");
        }
        if self.device != "cpu" && self.search.is_none() {
            tracing::warn!("--device has no effect: it is for --search alone");
        }
        let vector = self.vector()?;
        let grid = self.grid()?;
        let (settings, search) = match (&self.search, grid.as_slice()) {
            (Some(file), grid) => {
                let (settings, search) = self.search(file, grid, &vector)?;
                (settings, Some(search))
            }
            (None, [settings]) => (*settings, None),
            (None, _) => return Err(Error::InvalidConfig("several densities or alphas need --search to choose among them".into())),
        };
        let expert = vector.compress(&settings)?;
        let bytes = expert.write(out.path())?;
        let bf16_bytes = expert.bf16_bytes();
        let outcome = Outcome {
            out: self.out,
            bytes,
            bf16_bytes,
            times_smaller: bf16_bytes as f64 / bytes as f64,
            elements: expert.elements(),
            kept: expert.kept(),
            density: settings.density,
            alpha: settings.alpha,
            search,
        };
        let text = outcome.text();
        output::print_beside(&[out.path()], json, &outcome, text)
    }

    fn is_adapter(&self) -> bool {
        self.source.join(CONFIG_FILE).exists()
    }

    fn vector(&self) -> Result<TaskVector> {
        match (self.is_adapter(), &self.base) {
            (true, _) => TaskVector::of_adapter(&self.source),
            (false, Some(base)) => TaskVector::of_checkpoint(&self.source, base),
            (false, None) => {
                let reason = format!("has no {CONFIG_FILE}, and a checkpoint needs --base, the checkpoint that it was fine-tuned from");
                Err(Error::file(&self.source, reason))
            }
        }
    }

    /// The settings to choose among, those that keep less first.
    fn grid(&self) -> Result<Vec<Settings>> {
        let values = |given: &[f64], grid: &[f64], default: f64| {
            let mut values = match (given, &self.search) {
                ([], Some(_)) => grid.to_vec(),
                ([], None) => vec![default],
                (given, _) => given.to_vec(),
            };
            values.sort_by(f64::total_cmp);
            values
        };
        let defaults = Settings::default();
        let densities = values(&self.density, &[0.05, 0.1, 0.2, 0.3, 0.5], defaults.density);
        let alphas = values(&self.alpha, &[0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0], defaults.alpha);
        let mode = match self.mode {
            ModeName::Compeft => Mode::Compeft,
            ModeName::Stc => Mode::Stc,
        };
        let scope = if self.per_tensor { Scope::PerTensor } else { Scope::Global };
        let pairs = densities.iter().flat_map(|density| alphas.iter().map(move |alpha| (*density, *alpha)));
        let grid: Vec<_> = pairs.map(|(density, alpha)| Settings { density, alpha, mode, scope }).collect();
        grid.iter().try_for_each(Settings::check)?;
        Ok(grid)
    }

    /// The settings of `grid` with the lowest perplexity on `file`; of equal ones those that keep less.
    fn search(&self, file: &Path, grid: &[Settings], vector: &TaskVector) -> Result<(Settings, Search)> {
        let validation = self.validation(file)?;
        let bar = output::bar(grid.len() + 1, "searching");
        let uncompressed = match self.is_adapter() {
            true => Checkpoint::open_file(&self.source.join(TENSOR_FILE))?,
            false => Checkpoint::open(&self.source)?,
        };
        let perplexity_uncompressed = validation.perplexity(&uncompressed)?;
        bar.inc(1);
        let mut tried = Vec::new();
        let mut best: Option<(f64, Settings)> = None;
        for settings in grid {
            let expert = vector.compress(settings)?;
            let perplexity = validation.of_expert(&expert, &self.out)?;
            if let Some(perplexity) = perplexity.filter(|found| best.is_none_or(|(lowest, _)| *found < lowest)) {
                best = Some((perplexity, *settings));
            }
            tried.push(Tried { density: settings.density, alpha: settings.alpha, perplexity });
            bar.inc(1);
        }
        bar.finish_and_clear();
        let reason = || Error::InvalidConfig("the model's output is not finite with any of these densities and alphas".into());
        let (perplexity, settings) = best.ok_or_else(reason)?;
        Ok((settings, Search { perplexity_uncompressed, perplexity, tried }))
    }

    fn validation(&self, file: &Path) -> Result<Validation> {
        let base = self.base.as_deref().ok_or_else(|| Error::InvalidConfig("--search needs --base".into()))?;
        if peft_models::is_encoder(base) {
            let reason = "--search measures perplexity, and this model is an encoder; give --density and --alpha";
            return Err(Error::InvalidConfig(reason.into()));
        }
        let text = Text::load_adapted(base, self.is_adapter().then_some(self.source.as_path()))?;
        let options = DataOptions {
            batch_size: self.batch_size,
            limit: self.limit,
            max_length: None,
            stride: None,
            train_on_prompt: false,
            max_new_tokens: 1,
        };
        let job = data_job(file, Metric::Perplexity, &options, &text.tokenizer, text.template.as_ref())?;
        let device = device::parse(&self.device)?;
        let model = match self.is_adapter() {
            true => {
                let model = CausalLm::load(base, &device, Some(DType::F32))?;
                Model::Adapted(Box::new((model, PeftConfig::read(&self.source)?)))
            }
            false => Model::Whole(Box::new(DecoderConfig::read(&self.source)?), device, base.into()),
        };
        Ok(Validation { text, job, model })
    }
}

/// What a candidate is measured with.
struct Validation {
    text: Text,
    job: Job,
    model: Model,
}

/// What the tensors of a candidate are.
enum Model {
    /// An adapter of this configuration on this model.
    Adapted(Box<(CausalLm, PeftConfig)>),
    /// A model of this configuration, on a device, which differs from the checkpoint at a path.
    Whole(Box<DecoderConfig>, Device, PathBuf),
}

impl Validation {
    /// The perplexity with an expert; nothing if the model's output is not finite.
    fn of_expert(&self, expert: &Expert, path: &Path) -> Result<Option<f64>> {
        let base = match &self.model {
            Model::Adapted(..) => None,
            Model::Whole(_, _, base) => Some(Checkpoint::open(base)?),
        };
        match self.perplexity(&expert.tensors(base.as_ref(), path)?) {
            Ok(perplexity) => Ok(Some(perplexity).filter(|perplexity| perplexity.is_finite())),
            Err(Error::NonFinite { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The perplexity with these tensors.
    fn perplexity(&self, tensors: &Checkpoint) -> Result<f64> {
        let model = match &self.model {
            Model::Adapted(adapted) => attach_to_decoder(adapted.0.clone(), &adapted.1, tensors)?,
            Model::Whole(config, device, _) => CausalLm::from_checkpoint(config.as_ref().clone(), tensors, device, Some(DType::F32))?,
        };
        let report = self.job.run(&model, &self.text.tokenizer, |_, _| ())?;
        let score = report.scores.iter().find(|(name, _)| *name == "perplexity");
        score.map(|(_, score)| score.value).ok_or_else(|| Error::InvalidConfig("the evaluation has no perplexity".into()))
    }
}

impl Outcome {
    fn text(&self) -> String {
        let Self { out, bytes, bf16_bytes, times_smaller, elements, kept, density, alpha, search } = self;
        let mut lines = Vec::new();
        if let Some(search) = search {
            let mut rows = vec![["density", "alpha", "perplexity"].map(String::from).to_vec()];
            let perplexity = |tried: &Tried| tried.perplexity.map_or("not finite".into(), |perplexity| format!("{perplexity:.4}"));
            rows.extend(search.tried.iter().map(|tried| vec![tried.density.to_string(), tried.alpha.to_string(), perplexity(tried)]));
            lines.push(output::table(&rows));
            lines.push(format!("perplexity {:.4}, uncompressed {:.4}", search.perplexity, search.perplexity_uncompressed));
        }
        let (kept, elements) = (grouped(*kept as usize), grouped(*elements as usize));
        lines.push(format!("kept the signs of {kept} of {elements} entries: density {density}, alpha {alpha}"));
        lines.push(format!("wrote {}: {bytes} bytes, {times_smaller:.1} times smaller than {bf16_bytes} bytes in bf16", out.display()));
        lines.join("\n")
    }
}
