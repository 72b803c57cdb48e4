//! `peft merge`.

use super::merge_parts::Parts;
use super::merge_search::{Found, Search};
use crate::commands::merge_trained::{self, Arguments};
use crate::hub::{self, Kind};
use crate::output;
use clap::Args;
use indicatif::HumanBytes;
use peft_core::files::{Inputs, OutputDir};
use peft_core::{Error, Result};
use peft_merge::{Finished, ModelDir, ModelRef, Plan, Recipe, Workshop};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Merge several models of one architecture into one.
#[derive(Args)]
#[command(after_help = "Examples:\n  peft merge recipe.yaml --out merged\n  peft merge recipe.yaml --out merged --dry-run\n\n\
    A recipe for mergekit is one for this command:\n\n  \
    merge_method: ties\n  base_model: org/base\n  models:\n    - model: org/first\n      parameters: {weight: 0.5, density: 0.5}\n    \
    - model: org/second\n      parameters: {weight: 0.5, density: 0.5}\n  dtype: bfloat16\n\n\
    Weights can be chosen on held-out data, for fisher and linear:\n  peft merge recipe.yaml --out merged --evaluate valid.jsonl\n\n\
    Methods that learn how to merge (adamerging, atlas, concrete_task_arithmetic, concrete_adamerging) take a base_model, models, parameters, and\n\
    data with a file for each task:\n\n  \
    data:\n    - {task: first, file: first.jsonl}\n\n\
    A recipe of several documents, each but the last with a `name`, merges merges (mergekit-multi).\n\n\
    Models are directories or hub ids; `model+adapter` is a model with an adapter of LoRA in it. A merge that is cut goes on where it was when the command is given again.")]
pub struct Merge {
    /// What to merge and how, as YAML.
    #[arg(value_name = "RECIPE")]
    recipe: PathBuf,
    /// Directory for the merged checkpoint.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the output directory if peft has written it.
    #[arg(long)]
    overwrite: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// What random numbers start from, for the methods that draw some (dare, della, those that are trained) and for weights drawn with
    /// --evaluate [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Merge models although their configurations or tokenizers say that they compute in different ways (mergekit's --allow-crimes).
    #[arg(long)]
    allow_incompatible: bool,
    /// The largest file of the checkpoint, such as 500MB or 5GB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    shard_size: u64,
    /// Where evaluations and methods that are trained compute: cpu, vulkan[:n] or cuda[:n].
    #[arg(long, default_value = "cpu")]
    device: String,
    #[command(flatten)]
    search: Search,
}

#[derive(Serialize)]
struct Outcome<'a> {
    #[serde(serialize_with = "output::path")]
    out: &'a Path,
    method: &'a str,
    weights: usize,
    bytes: u64,
    /// Files that an earlier run had completed.
    kept_files: usize,
    /// Numbers for which no model had any Fisher information, so that the target's were taken.
    undecided: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<Found>,
    seconds: f64,
}

#[derive(Serialize)]
struct DryRun<'a> {
    method: &'a str,
    models: Vec<String>,
    files: Vec<String>,
    bytes: u64,
    memory: u64,
    weights: Vec<PlannedWeight<'a>>,
}

#[derive(Serialize)]
struct PlannedWeight<'a> {
    name: &'a str,
    dtype: String,
    shape: &'a [usize],
    bytes: u64,
    inputs: Vec<String>,
    /// The parameters of the method; what differs between models has a value for each but the base.
    settings: &'a str,
}

impl Merge {
    pub fn run(self, json: bool) -> Result<()> {
        if merge_trained::is_trained(&self.recipe) {
            return self.run_trained(json);
        }
        let started = Instant::now();
        let mut recipes = Recipe::read_all(&self.recipe)?;
        recipes.iter_mut().for_each(|recipe| recipe.allow_incompatible = self.allow_incompatible);
        let Some(recipe) = recipes.pop() else { return Err(Error::file(&self.recipe, "holds no recipe")) };
        if self.dry_run {
            if let Some(earlier) = recipes.first().and_then(|recipe| recipe.name.as_ref()) {
                let reason = format!(
                    "--dry-run is for recipes of one document; models of this one are merges, such as {earlier}, that do not exist yet"
                );
                return Err(Error::file(&self.recipe, reason));
            }
            let plan = self.plan(recipe, &Parts::default())?;
            let planned = DryRun::of(&plan, self.shard_size)?;
            return output::print(json, &planned, planned.text());
        }
        // What is wrong with the place of the result is better known before the first of several merges.
        let out = OutputDir::create(&self.out, self.overwrite, &self.inputs(&recipes, &recipe)?)?;
        let mut parts = Parts::default();
        for recipe in recipes {
            let name = recipe.name.clone().unwrap_or_default();
            let place = parts.place(&self.out, &name)?;
            let plan = self.plan(recipe, &parts)?;
            output::note(format_args!("merging {name} first"));
            write(&plan, OutputDir::create(&place, self.overwrite, &plan.inputs())?, self.shard_size)?;
            parts.done.insert(name, place);
        }
        let plan = self.plan(recipe, &parts)?;
        plan.inputs().check_dir(&self.out)?;
        if self.device != "cpu" && !self.search.is_asked_for() {
            tracing::warn!("--device has no effect: nothing is evaluated or trained");
        }
        let (plan, search) = self.search.choose(plan, self.seed.unwrap_or(0), &self.device)?;
        let finished = write(&plan, out, self.shard_size)?;
        let outcome = Outcome {
            out: &finished.out,
            method: plan.recipe.method.name,
            weights: plan.weights.len(),
            bytes: finished.bytes,
            kept_files: finished.kept,
            undecided: plan.undecided(),
            search,
            seconds: started.elapsed().as_secs_f64(),
        };
        let kept = if finished.kept > 0 { format!(", {} files of an earlier run kept", finished.kept) } else { String::new() };
        let search = outcome.search.as_ref().map_or_else(String::new, Found::table);
        let undecided = match outcome.undecided {
            0 => String::new(),
            count => format!("; {count} numbers without Fisher information are those of {}", plan.models[0].name),
        };
        let text = format!(
            "{search}{}: {} weights of {} models, {}, in {:.1} s{kept}{undecided}, written to {}",
            outcome.method,
            outcome.weights,
            plan.models.len(),
            HumanBytes(outcome.bytes),
            outcome.seconds,
            outcome.out.display()
        );
        output::print(json, &outcome, text)
    }

    fn plan(&self, recipe: Recipe, parts: &Parts) -> Result<Plan> {
        let directories = directories(&recipe, parts)?;
        let plan = Plan::new(recipe, &directories, self.seed.unwrap_or(0))?;
        if self.seed.is_some() && parts.done.is_empty() && !plan.is_random() && !self.search.is_asked_for() {
            tracing::warn!("--seed has no effect: {} draws no random numbers", plan.recipe.method.name);
        }
        Ok(plan)
    }

    /// What the merge reads, results of earlier documents of the recipe aside.
    fn inputs(&self, earlier: &[Recipe], last: &Recipe) -> Result<Inputs> {
        let is_part = |name: &ModelRef| earlier.iter().any(|recipe| recipe.name.as_ref() == Some(&name.model));
        let names = earlier.iter().chain([last]).flat_map(Recipe::directories).filter(|name| !is_part(name));
        let recipe = self.search.inputs(Inputs::none().and("the recipe", &self.recipe));
        names.into_iter().try_fold(recipe, |all, name| {
            let place = directory(name, &Parts::default())?;
            let all = all.and_named("a model of the recipe", &name.model, place.model);
            Ok(all.and_maybe("an adapter of the recipe", place.adapter))
        })
    }

    fn run_trained(&self, json: bool) -> Result<()> {
        let Self { recipe, out, overwrite, dry_run, seed, allow_incompatible, shard_size, device, search } = self;
        search.refuse("a method that is trained: its `data` says what it learns from")?;
        let (overwrite, dry_run, allow_incompatible) = (*overwrite, *dry_run, *allow_incompatible);
        let arguments = Arguments { recipe, out, overwrite, dry_run, seed: *seed, allow_incompatible, shard_size: *shard_size, device };
        merge_trained::run(&arguments, json)
    }
}

impl<'a> DryRun<'a> {
    fn of(plan: &'a Plan, shard_bytes: u64) -> Result<Self> {
        let weight = |weight: &'a peft_merge::Weight| PlannedWeight {
            name: &weight.name,
            dtype: weight.info.dtype.to_string(),
            shape: &weight.info.shape,
            bytes: weight.num_bytes(),
            inputs: weight.inputs.iter().map(|input| format!("{}: {}", plan.models[input.model].name, input.key)).collect(),
            settings: if weight.rule.is_some() { &weight.settings } else { "copied" },
        };
        Ok(Self {
            method: plan.recipe.method.name,
            models: plan.models.iter().map(|model| model.name.to_string()).collect(),
            files: plan.shards(shard_bytes)?.into_iter().map(|shard| shard.name).collect(),
            bytes: plan.bytes(),
            memory: plan.memory(shard_bytes)?,
            weights: plan.weights.iter().map(weight).collect(),
        })
    }

    fn text(&self) -> String {
        let row = |weight: &PlannedWeight| vec![weight.name.into(), format!("{} {:?}", weight.dtype, weight.shape), weight.settings.into()];
        let rows: Vec<Vec<String>> = self.weights.iter().map(row).collect();
        format!(
            "{}\n\n{} of {}: {} weights, {} in {} files, about {} of memory",
            output::table(&rows),
            self.method,
            self.models.join(", "),
            self.weights.len(),
            HumanBytes(self.bytes),
            self.files.len(),
            HumanBytes(self.memory)
        )
    }
}

/// Where the models of a recipe and their adapters lie; hub ids are downloaded.
fn directories(recipe: &Recipe, parts: &Parts) -> Result<BTreeMap<ModelRef, ModelDir>> {
    recipe.directories().into_iter().map(|name| Ok((name.clone(), directory(name, parts)?))).collect()
}

fn directory(name: &ModelRef, parts: &Parts) -> Result<ModelDir> {
    let model = match parts.done.get(&name.model) {
        Some(part) => part.clone(),
        None => hub::resolve(Path::new(&name.model), Kind::Model)?.dir,
    };
    let adapter = name.adapter.as_ref().map(|adapter| hub::resolve(Path::new(adapter), Kind::Adapter)).transpose()?;
    Ok(ModelDir { model, adapter: adapter.map(|adapter| adapter.dir) })
}

fn write(plan: &Plan, out: OutputDir, shard_bytes: u64) -> Result<Finished> {
    let bar = output::byte_bar(plan.bytes(), "merging");
    let finished = Workshop::at(plan, out, shard_bytes)?.run(&|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    Ok(finished)
}

/// A number of bytes as people write it: 300MB, 5GB, or without a unit.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "K" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        unit => return Err(format!("`{unit}` is no unit; use KB, MB or GB")),
    };
    let number: f64 = digits.parse().map_err(|_| "a number with a unit, such as 5GB".to_owned())?;
    match (number * factor) as u64 {
        0 => Err("must be above zero".into()),
        bytes => Ok(bytes),
    }
}
