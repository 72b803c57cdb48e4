//! Recipes of merges that are trained.

use crate::hub::{self, Kind};
use peft_core::files::{Inputs, parse_yaml, read_text};
use peft_core::{Error, Result};
use peft_merge::adaptive::AdaMergingConfig;
use peft_merge::atlas::{AtlasConfig, Objective};
use peft_merge::concrete::{Algorithm, ConcreteConfig};
use peft_merge::{Model, ModelDir, ModelRef, Scope, TRAINED_METHODS, check_compatible};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What to merge, how, and what to learn it from.
#[derive(Debug)]
pub struct Recipe {
    /// The recipe as it was written.
    pub text: String,
    pub method: String,
    /// The name of the base and where it lies.
    pub base: (String, PathBuf),
    /// The same of the fine-tuned models.
    pub models: Vec<(String, PathBuf)>,
    /// What the loss is.
    pub objective: Objective,
    pub settings: Settings,
    pub data: Vec<Data>,
    /// Tokens of an example.
    pub max_length: usize,
}

/// The settings of a method.
#[derive(Debug)]
pub enum Settings {
    AdaMerging(AdaMergingConfig),
    Atlas(AtlasConfig),
    Concrete(ConcreteConfig),
}

/// The data of one task.
#[derive(Debug)]
pub struct Data {
    pub task: String,
    /// The checkpoint whose head the task has.
    pub model: Option<PathBuf>,
    pub file: PathBuf,
    /// How many examples, or what share of them, are left out.
    pub leave_out: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    merge_method: String,
    base_model: Option<String>,
    #[serde(default)]
    models: Vec<FileModel>,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(default)]
    data: Vec<FileData>,
    max_length: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileModel {
    model: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileData {
    task: Option<String>,
    model: Option<String>,
    file: PathBuf,
    leave_out: Option<f64>,
}

#[derive(Deserialize)]
struct Peek {
    merge_method: Option<String>,
}

/// Whether the recipe in `file` names a method that is trained. What is wrong with a file that is no recipe is for others to tell.
pub fn is_trained(file: &Path) -> bool {
    let peek = read_text(file).ok().and_then(|text| serde_saphyr::from_str::<Peek>(&text).ok());
    peek.and_then(|peek| peek.merge_method).is_some_and(|method| TRAINED_METHODS.contains(&method.as_str()))
}

impl Recipe {
    /// Read a recipe and look up its models; `seed` takes the place of the recipe's if there is one.
    pub fn read(file: &Path, seed: Option<u64>) -> Result<Self> {
        let text = read_text(file)?;
        let wrong = |reason: String| Error::file(file, reason);
        let written: File = parse_yaml(&text).map_err(|e| match e {
            Error::InvalidConfig(reason) => wrong(reason),
            e => e,
        })?;
        let method = written.merge_method;
        let base = written.base_model.ok_or_else(|| wrong(format!("{method} needs a base_model")))?;
        if written.models.is_empty() {
            return Err(wrong(format!("{method} needs at least one of models beside the base_model")));
        }
        if written.data.is_empty() {
            return Err(wrong(format!("{method} is trained: it needs `data`, a list with a `file` for each task")));
        }
        let mut parameters = written.parameters;
        if let Some(seed) = seed {
            parameters.insert("seed".into(), seed.into());
        }
        let (objective, settings) = settings(&method, parameters).map_err(wrong)?;
        let resolve = |name: String| {
            let place = ModelRef::from(name.as_str());
            if let Some(adapter) = &place.adapter {
                return Err(wrong(format!(
                    "{name}: {method} takes whole models; make one with `peft merge-adapter --model {} --adapter {adapter} --out DIR`",
                    place.model
                )));
            }
            Ok((name.clone(), hub::resolve(Path::new(&name), Kind::Model)?.dir))
        };
        let base = resolve(base)?;
        let models = written.models.into_iter().map(|model| resolve(model.model)).collect::<Result<Vec<_>>>()?;
        let data = written.data.into_iter().enumerate().map(|(index, data)| {
            let own = data.model.map(resolve).transpose()?;
            let model = own.or_else(|| models.get(index).cloned());
            let stem = || data.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let task = data.task.unwrap_or_else(stem);
            Ok(Data { task, model: model.map(|(_, dir)| dir), file: data.file, leave_out: data.leave_out })
        });
        let data = data.collect::<Result<Vec<_>>>()?;
        if let Some(index) = (1..data.len()).find(|index| data[..*index].iter().any(|other| other.task == data[*index].task)) {
            return Err(wrong(format!("data: two tasks are called `{}`; name them by `task`", data[index].task)));
        }
        Ok(Self { text, method, base, models, objective, settings, data, max_length: written.max_length.unwrap_or(512) })
    }

    /// Compare the models, and those whose heads tasks have, with the base: what a forward pass does, and what tokens mean.
    pub fn check_models(&self, is_encoder: bool, allow: bool) -> Result<()> {
        let heads = self.data.iter().filter_map(|data| data.model.as_ref()).map(|dir| (dir.to_string_lossy().into_owned(), dir.clone()));
        let mut models: Vec<Model> = Vec::new();
        for (name, dir) in [self.base.clone()].into_iter().chain(self.models.iter().cloned()).chain(heads) {
            if !models.iter().any(|model| model.dir == dir) {
                let name = ModelRef { model: name, adapter: None };
                models.push(Model::open(name, &ModelDir { model: dir, adapter: None })?);
            }
        }
        // Each task keeps the head of its own encoder.
        let scope = Scope { heads: !is_encoder, layers: true, vocabularies: true };
        for warning in check_compatible(&models, scope, allow)? {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    /// What is read: the models and the data.
    pub fn inputs(&self) -> Inputs {
        let models = std::iter::once(&self.base).chain(&self.models);
        let inputs = models.fold(Inputs::none(), |all, (name, dir)| all.and_named("a model of the recipe", name, dir));
        self.data.iter().fold(inputs, |all, data| {
            all.and(format!("the data of {}", data.task), &data.file).and_maybe(format!("the model of {}", data.task), data.model.as_ref())
        })
    }

    /// Examples of each task in a step.
    pub fn batch(&self) -> usize {
        match &self.settings {
            Settings::AdaMerging(config) => config.batch,
            Settings::Atlas(config) => config.batch,
            Settings::Concrete(config) => config.batch,
        }
    }

    /// What random numbers start from.
    pub fn seed(&self) -> u64 {
        match &self.settings {
            Settings::AdaMerging(config) => config.seed,
            Settings::Atlas(config) => config.seed,
            Settings::Concrete(config) => config.seed,
        }
    }
}

fn settings(method: &str, mut parameters: Map<String, Value>) -> Result<(Objective, Settings), String> {
    if method == "atlas" {
        let config: AtlasConfig = parsed(parameters)?;
        if config.objective == Objective::Ufm {
            return Err("parameters: objective: ufm learns from two views of each input, which texts do not have; use the library".into());
        }
        return Ok((config.objective, Settings::Atlas(config)));
    }
    // What the others learn from, they leave to the caller.
    let objective = match parameters.remove("objective") {
        None => Objective::Entropy,
        Some(Value::String(name)) if name == "entropy" => Objective::Entropy,
        Some(Value::String(name)) if name == "ce" => Objective::Ce,
        Some(other) => return Err(format!("parameters: objective: entropy or ce, not {other}")),
    };
    let settings = match method {
        "adamerging" => Settings::AdaMerging(parsed(parameters)?),
        _ => {
            if parameters.contains_key("algorithm") {
                return Err("parameters: merge_method says the algorithm".into());
            }
            let algorithm = if method == "concrete_adamerging" { Algorithm::AdaMerging } else { Algorithm::TaskArithmetic };
            Settings::Concrete(ConcreteConfig { algorithm, ..parsed(parameters)? })
        }
    };
    Ok((objective, settings))
}

fn parsed<T: DeserializeOwned>(parameters: Map<String, Value>) -> Result<T, String> {
    let understood = |parameters: Map<String, Value>| serde_json::from_value::<T>(Value::Object(parameters));
    understood(parameters.clone()).map_err(|e| {
        // Each has a default, so that one alone is understood unless it is what is wrong.
        let alone =
            |(name, value): (&String, &Value)| understood(Map::from_iter([(name.clone(), value.clone())])).err().map(|e| (name.clone(), e));
        match parameters.iter().find_map(alone) {
            // A number that is not finite is no number of JSON.
            Some((name, _)) if parameters[&name].is_null() => format!("parameters: {name}: no value, or one that is not a finite number"),
            Some((name, e)) if !e.to_string().contains(&name) => format!("parameters: {name}: {e}"),
            _ => format!("parameters: {e}"),
        }
    })
}
