//! `peft merge` by methods that are trained: the models are loaded, and learn how to be merged from data.

mod decoder;
mod encoder;
mod recipe;

use crate::output;
use burn::module::Module;
use peft_core::files::{OutputDir, write_atomic};
use peft_core::{Result, device};
use peft_merge::adaptive::AdaMerging;
use peft_merge::atlas::Atlas;
use peft_merge::concrete::Concrete;
use peft_merge::{Coefficient, Loss, Step, Stream, TaskVectors, write_coefficients};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use recipe::{Recipe, Settings};

pub use recipe::is_trained;

/// What the command line says.
pub struct Arguments<'a> {
    pub recipe: &'a Path,
    pub out: &'a Path,
    pub overwrite: bool,
    pub dry_run: bool,
    pub seed: Option<u64>,
    pub allow_incompatible: bool,
    pub shard_size: u64,
    pub device: &'a str,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(serialize_with = "output::path")]
    out: PathBuf,
    method: String,
    tasks: Vec<String>,
    steps: usize,
    /// The sum of the tasks' losses in the first and the last step.
    loss_first: f64,
    loss_last: f64,
    /// Where complete checkpoints lie.
    checkpoints: Vec<String>,
    bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Planned {
    method: String,
    models: Vec<String>,
    /// Examples of each task.
    tasks: Vec<(String, usize)>,
    merged_parameters: usize,
    merged_tensors: usize,
    steps: usize,
}

/// Merge, or say what would be done.
pub fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let started = Instant::now();
    let device = device::parse(arguments.device)?;
    let recipe = Recipe::read(arguments.recipe, arguments.seed)?;
    let device = device.autodiff();
    device.seed(recipe.seed());
    let is_encoder = peft_models::is_encoder(&recipe.base.1);
    recipe.check_models(is_encoder, arguments.allow_incompatible)?;
    if arguments.dry_run {
        let planned = if is_encoder { encoder::plan(&recipe, &device)? } else { decoder::plan(&recipe, &device)? };
        return output::print(json, &planned, planned.text());
    }
    let out = OutputDir::create(arguments.out, arguments.overwrite, &recipe.inputs().and("the recipe", arguments.recipe))?;
    let mut session = Session {
        recipe: &recipe,
        out: out.path(),
        target: arguments.out,
        shard_size: arguments.shard_size,
        first: 0.0,
        last: 0.0,
        steps: 0,
    };
    let written = if is_encoder { encoder::merge(&mut session, &device)? } else { decoder::merge(&mut session, &device)? };
    write_atomic(&out.path().join("merge_recipe.yaml"), recipe.text.as_bytes())?;
    let Session { first, last, steps, .. } = session;
    let path = out.commit()?;
    let outcome = Outcome {
        checkpoints: written.iter().map(|(name, _)| output::shown(&if name.is_empty() { path.clone() } else { path.join(name) })).collect(),
        bytes: written.iter().map(|(_, bytes)| bytes).sum(),
        out: path,
        method: recipe.method.clone(),
        tasks: recipe.data.iter().map(|data| data.task.clone()).collect(),
        steps,
        loss_first: first,
        loss_last: last,
        seconds: started.elapsed().as_secs_f64(),
    };
    let text = format!(
        "{}: {} steps, loss {first:.4} to {last:.4}, in {:.1} s, written to {}",
        outcome.method,
        outcome.steps,
        outcome.seconds,
        outcome.out.display()
    );
    output::print(json, &outcome, text)
}

impl Planned {
    fn of<M: Module>(recipe: &Recipe, vectors: &TaskVectors<M>, examples: &[usize]) -> Result<Self> {
        let steps = match &recipe.settings {
            Settings::AdaMerging(config) => config.check().map(|()| config.steps)?,
            Settings::Atlas(config) => config.check(vectors.tasks()).map(|()| config.steps)?,
            Settings::Concrete(config) => config.check().map(|()| config.all_steps())?,
        };
        Ok(Self {
            method: recipe.method.clone(),
            models: recipe.models.iter().map(|(name, _)| name.clone()).collect(),
            tasks: recipe.data.iter().map(|data| data.task.clone()).zip(examples.iter().copied()).collect(),
            merged_parameters: vectors.blocks().map(|site| site.shape.iter().product::<usize>()).sum(),
            merged_tensors: vectors.blocks().len(),
            steps,
        })
    }

    fn text(&self) -> String {
        let tasks: Vec<_> = self.tasks.iter().map(|(task, examples)| format!("{task} ({examples} examples)")).collect();
        format!(
            "{} of {}: {} parameters in {} tensors, {} steps on {}",
            self.method,
            self.models.join(", "),
            self.merged_parameters,
            self.merged_tensors,
            self.steps,
            tasks.join(", ")
        )
    }
}

/// A merge that goes on.
pub struct Session<'a> {
    pub recipe: &'a Recipe,
    /// Where the result is written before it is complete.
    pub out: &'a Path,
    /// Where it will be.
    target: &'a Path,
    pub shard_size: u64,
    first: f64,
    last: f64,
    steps: usize,
}

/// How well a model does on the target and on the control of a negation.
pub type Accuracies<'a, M> = dyn Fn(&M) -> Result<[f64; 2]> + 'a;

impl Session<'_> {
    /// Learn, write what was learned beside the result, and give the merged model. `accuracies` are needed for a negation.
    pub fn learn<M: Module, B>(
        &mut self,
        vectors: TaskVectors<M>,
        streams: &mut [Stream<'_, B>],
        objective: &impl Fn(&M, &B) -> Loss,
        accuracies: Option<&Accuracies<'_, M>>,
    ) -> Result<M> {
        let recipe = self.recipe;
        match &recipe.settings {
            Settings::AdaMerging(config) => {
                let mut merge = AdaMerging::new(vectors, config.clone())?;
                let trained = merge.train(streams, objective, |step| self.tell(step));
                self.keep(trained, &merge.coefficients())?;
                Ok(merge.merged())
            }
            Settings::Atlas(config) => {
                let mut merge = Atlas::new(vectors, config.clone())?;
                let every = config.steps.div_ceil(20).max(1);
                let trained = match accuracies {
                    Some(accuracies) => {
                        let negated = merge.negate(every, streams, objective, accuracies, &mut |step| self.tell(step));
                        negated.map(|[target, control]| {
                            crate::output::note(format_args!("accuracy of the target {target:.4}, of the control {control:.4}"))
                        })
                    }
                    None => merge.train(streams, objective, |step| self.tell(step)),
                };
                self.keep(trained, &merge.coefficients())?;
                Ok(merge.merged())
            }
            Settings::Concrete(config) => {
                let mut merge = Concrete::new(vectors, config.clone())?;
                let trained = merge.train(streams, objective, |step| self.tell(step));
                self.keep(trained, &merge.coefficients())?;
                merge.write_mask(&self.out.join("mask_logits.safetensors"))?;
                Ok(merge.merged())
            }
        }
    }

    fn tell(&mut self, step: &Step) {
        let each: Vec<_> = step.losses.iter().map(|(task, loss)| format!("{task} {loss:.4}")).collect();
        crate::output::note(format_args!(
            "step {}/{} ({}): loss {:.4} ({})",
            step.step,
            step.steps,
            step.trained,
            step.loss(),
            each.join(", ")
        ));
        if self.steps == 0 {
            self.first = step.loss();
        }
        (self.last, self.steps) = (step.loss(), step.step);
    }

    /// Write the coefficients into the result; those of a run that failed beside it, since they are the last good ones.
    fn keep(&self, trained: Result<()>, coefficients: &[Coefficient]) -> Result<()> {
        let Err(error) = trained else { return write_coefficients(&self.out.join("coefficients.json"), coefficients) };
        if self.steps > 0 {
            let mut name = self.target.file_name().unwrap_or_default().to_owned();
            name.push(".coefficients.json");
            let file = self.target.with_file_name(name);
            write_coefficients(&file, coefficients)?;
            crate::output::note(format_args!("the last good coefficients are in {}", file.display()));
        }
        Err(error)
    }
}

/// The numbers of the examples that are learned from.
fn learned(examples: usize, data: &recipe::Data, seed: u64) -> Result<Vec<usize>> {
    match data.leave_out {
        Some(part) => {
            let split = peft_train::data::split(examples, part, seed);
            let reason = |e| peft_core::Error::file(&data.file, format!("leave_out, taken as an eval_split: {e}"));
            Ok(split.map_err(reason)?.0)
        }
        None => Ok((0..examples).collect()),
    }
}
