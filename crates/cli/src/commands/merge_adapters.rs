//! `peft merge-adapters`.

use crate::hub::{self, Kind};
use crate::output;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::HumanBytes;
use peft_core::Result;
use peft_core::files::{Inputs, OutputDir, TextFiles};
use peft_merge::adapters::{AdapterMerge, COMBINATIONS, Combination, Lora, MergedModule, Settings};
use peft_merge::rules::Majority;
use serde::Serialize;
use std::path::PathBuf;

/// The smaller side of a weight whose exact decomposition takes long.
const LARGE: usize = 2048;

/// Merge several LoRA adapters of one model into one adapter.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    peft merge-adapters french poems --weights 0.7,0.3 --out french-poems\n  \
    peft merge-adapters french poems --weights 1,1 --combination ties --density 0.5 --out french-poems\n  \
    peft merge-adapters french poems --weights 1,-0.5 --combination cat --out french-unpoetic\n\n\
    svd adds up the changes and keeps the largest components; cat keeps all, at the sum of the ranks. linear, and what has no _svd, \
    adds up the matrices themselves: quick, and rough. ties elects a sign for each number, dare drops numbers at random, magnitude_prune \
    the smallest. These are the combinations of HF PEFT's add_weighted_adapter, and give what it gives; the result loads there too.\n\n\
    To put one adapter into its model: peft merge-adapter.")]
pub struct MergeAdapters {
    /// Adapters: directories, hub ids, or files of peft compress.
    #[arg(value_name = "ADAPTER", required = true)]
    adapters: Vec<PathBuf>,
    /// What each adapter counts, in their order; may be negative.
    #[arg(long, value_name = "W,W,…", required = true, value_delimiter = ',', allow_hyphen_values = true)]
    weights: Vec<f64>,
    /// How they are combined.
    #[arg(long, value_name = "NAME", default_value = "svd", value_parser = combination())]
    combination: Combination,
    /// The share of the numbers that is kept, above 0 and at most 1; for ties, dare and magnitude_prune.
    #[arg(long, value_name = "SHARE")]
    density: Option<f64>,
    /// How the sign is elected: that of the sum (total), or the commonest (frequency) [default: total].
    #[arg(long, value_name = "METHOD", value_parser = PossibleValuesParser::new(["total", "frequency"]))]
    majority_sign_method: Option<String>,
    /// The highest rank of the result [default: the highest of the adapters]; for svd and what ends in _svd.
    #[arg(long, value_name = "R")]
    svd_rank: Option<usize>,
    /// For what ends in _svd: N iterations on a random subspace instead of an exact decomposition, many times as fast on large weights.
    #[arg(long, value_name = "N")]
    svd_iterations: Option<usize>,
    /// What random numbers start from, for dare.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Directory for the merged adapter.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the output directory if peft has written it.
    #[arg(long)]
    overwrite: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "output::some_path")]
    out: Option<PathBuf>,
    combination: &'static str,
    adapters: Vec<String>,
    weights: Vec<f64>,
    /// The highest rank.
    rank: usize,
    modules: usize,
    /// Modules that only some of the adapters change.
    partial_modules: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Vec<Row>>,
}

#[derive(Serialize)]
struct Row {
    module: String,
    shape: [usize; 2],
    rank: usize,
    adapters: Vec<String>,
}

/// The names that exist, which `--help` lists and a wrong one is answered with.
fn combination() -> impl TypedValueParser<Value = Combination> {
    PossibleValuesParser::new(COMBINATIONS.map(|combination| combination.name)).try_map(|name| Combination::named(&name))
}

impl MergeAdapters {
    pub fn run(self, json: bool) -> Result<()> {
        let merge = AdapterMerge::new(self.open()?, self.settings())?;
        let mut outcome = Outcome::of(&merge);
        if self.seed != 0 && self.svd_iterations.is_none() && !self.combination.is_random() {
            tracing::warn!("--seed has no effect: {} draws no random numbers", self.combination.name);
        }
        if self.dry_run {
            outcome.plan = Some(merge.modules.iter().map(|module| row(&merge, module)).collect());
            return output::print(json, &outcome, outcome.planned());
        }
        let adapters =
            merge.adapters.iter().fold(Inputs::none(), |all, adapter| all.and_named("one of the adapters", &adapter.name, &adapter.path));
        let out = OutputDir::create(&self.out, self.overwrite, &adapters)?;
        self.note_slow(&merge);
        let bar = output::bar(merge.modules.len(), "merging");
        outcome.bytes = Some(merge.write(out.path(), &|| bar.inc(1))?);
        // Adapters of one base have one tokenizer and template, if any: the first one's.
        let text = TextFiles::of(out.path(), Some(&merge.adapters[0].path));
        text.copy_vocabulary(out.path())?;
        text.copy_settings(out.path())?;
        bar.finish_and_clear();
        outcome.out = Some(out.commit()?);
        output::print(json, &outcome, outcome.done())
    }

    fn open(&self) -> Result<Vec<Lora>> {
        let open = |name: &PathBuf| Lora::open(&name.to_string_lossy(), &hub::resolve(name, Kind::Adapter)?.dir);
        self.adapters.iter().map(open).collect()
    }

    fn settings(&self) -> Settings {
        let majority = self.majority_sign_method.as_deref().map(|name| match name {
            "frequency" => Majority::Frequency,
            _ => Majority::Total,
        });
        Settings {
            combination: self.combination,
            weights: self.weights.clone(),
            density: self.density,
            majority,
            svd_rank: self.svd_rank,
            svd_iterations: self.svd_iterations,
            seed: self.seed,
        }
    }

    /// Exact decompositions of large weights take long, which is better known before.
    fn note_slow(&self, merge: &AdapterMerge) {
        let exact = self.combination.drops() && self.combination.decomposes() && self.svd_iterations.is_none();
        let large = merge.modules.iter().filter(|module| module.site.rows.min(module.site.columns) >= LARGE).count();
        if exact && large > 0 {
            output::note(format_args!(
                "note: exact decompositions of large weights ({large} here) take long; --svd-iterations 8 is much faster and nearly as close"
            ));
        }
    }
}

fn row(merge: &AdapterMerge, module: &MergedModule) -> Row {
    let site = &module.site;
    let adapters = module.inputs.iter().map(|i| merge.adapters[*i].name.clone()).collect();
    Row { module: module.name.clone(), shape: [site.rows, site.columns], rank: site.rank, adapters }
}

impl Outcome {
    fn of(merge: &AdapterMerge) -> Self {
        Self {
            out: None,
            combination: merge.settings.combination.name,
            adapters: merge.adapters.iter().map(|adapter| adapter.name.clone()).collect(),
            weights: merge.settings.weights.clone(),
            rank: merge.rank(),
            modules: merge.modules.len(),
            partial_modules: merge.partial(),
            bytes: None,
            plan: None,
        }
    }

    fn summary(&self) -> String {
        let partial = match self.partial_modules {
            0 => String::new(),
            count => format!(" ({count} of them in some of the adapters only)"),
        };
        let plural = if self.adapters.len() == 1 { "" } else { "s" };
        format!("{} of {} adapter{plural}: {} modules{partial}, rank {}", self.combination, self.adapters.len(), self.modules, self.rank)
    }

    fn planned(&self) -> String {
        let row = |row: &Row| vec![row.module.clone(), format!("{:?}", row.shape), format!("rank {}", row.rank), row.adapters.join(", ")];
        let rows: Vec<Vec<String>> = self.plan.iter().flatten().map(row).collect();
        format!("{}\n\n{}", output::table(&rows), self.summary())
    }

    fn done(&self) -> String {
        let out = self.out.as_ref().map_or_else(String::new, |out| out.display().to_string());
        format!("{}, {}, written to {out}", self.summary(), HumanBytes(self.bytes.unwrap_or(0)))
    }
}
