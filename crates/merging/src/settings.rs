//! Looking up what a recipe sets for one weight, and telling what it sets in vain.

use crate::method::{Method, Parameter, Unset};
use crate::recipe::{ModelRef, Recipe, Setting, Settings, Slice};
use peft_core::files::nearest;
use peft_core::{Error, Result};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What is looked up.
pub struct Asked<'a> {
    /// The method whose parameters.
    pub method: &'static Method,
    /// The name that filters see.
    pub name: &'a str,
    /// From 0 in the first layer to 1 in the last.
    pub depth: f64,
    /// Where to look, the first first.
    pub scopes: &'a [&'a Settings],
    /// The model for its own parameters; `None` for those that all share.
    pub model: Option<&'a ModelRef>,
    /// Where is noted what was found.
    pub used: &'a Used,
}

/// What has been looked up so far.
#[derive(Debug, Default)]
pub struct Used {
    /// Settings, by where they are in memory, with the entries of them that gave a value.
    entries: RefCell<HashSet<(*const Setting, usize)>>,
    /// The names that filters saw.
    names: RefCell<BTreeSet<String>>,
    /// The models that have a weight other than zero somewhere.
    weighted: RefCell<BTreeSet<ModelRef>>,
}

/// The values of all parameters of a model, or of all that models share.
///
/// # Errors
/// [`Error::InvalidConfig`] for one that must be set and is not, naming model and weight.
pub fn resolve(asked: &Asked) -> Result<BTreeMap<&'static str, f64>> {
    let mut values = BTreeMap::new();
    asked.used.names.borrow_mut().insert(asked.name.into());
    for parameter in asked.method.parameters.iter().filter(|parameter| parameter.per_model == asked.model.is_some()) {
        let set = asked.scopes.iter().find_map(|scope| {
            let setting = scope.get(parameter.name)?;
            let (entry, value) = setting.chosen(asked.name, asked.depth)?;
            asked.used.entries.borrow_mut().insert((std::ptr::from_ref(setting), entry));
            Some(value)
        });
        let value = match (set, parameter.default) {
            (Some(value), _) | (None, Unset::Value(value)) => value,
            (None, Unset::Nothing) => continue,
            (None, Unset::Required) => {
                let model = asked.model.map_or_else(String::new, |model| format!("{model}: "));
                return Err(Error::InvalidConfig(format!(
                    "{model}`{}`: {} needs the parameter {}",
                    asked.name, asked.method.name, parameter.name
                )));
            }
        };
        if !value.is_finite() || (parameter.flag && value != 0.0 && value != 1.0) {
            let kind = if parameter.flag { "true or false" } else { "a finite number" };
            return Err(Error::InvalidConfig(format!("`{}`: {} is {kind}, not {value}", asked.name, parameter.name)));
        }
        if let (Some(model), "weight", true) = (asked.model, parameter.name, value != 0.0) {
            asked.used.weighted.borrow_mut().insert(model.clone());
        }
        values.insert(parameter.name, value);
    }
    Ok(values)
}

impl Used {
    /// What the recipe sets in vain, as sentences.
    pub fn unused(&self, recipe: &Recipe) -> Vec<String> {
        let mut told = Vec::new();
        self.look(recipe, &recipe.parameters, None, &mut told);
        for slice in &recipe.slices {
            self.look(recipe, &slice.parameters, None, &mut told);
            for source in &slice.sources {
                self.look(recipe, &source.parameters, Some((slice, &source.model)), &mut told);
            }
        }
        if recipe.method.parameters.iter().any(|parameter| parameter.name == "weight") {
            let weighted = self.weighted.borrow();
            let idle = |model: &&ModelRef| !weighted.contains(model) && !is_told_apart(recipe, model);
            told.extend(recipe.models().into_iter().filter(idle).map(|model| format!("{model} has weight 0 everywhere: it has no effect")));
        }
        told
    }

    fn look(&self, recipe: &Recipe, settings: &Settings, of: Option<(&Slice, &ModelRef)>, told: &mut Vec<String>) {
        for (name, setting) in settings {
            // A name of another method is told when the recipe is read.
            let Some(parameter) = recipe.method.parameters.iter().find(|parameter| parameter.name == name) else { continue };
            let place = of.map_or_else(String::new, |(_, model)| format!("{model}: "));
            let used = |entry: usize| self.entries.borrow().contains(&(std::ptr::from_ref(setting), entry));
            let filters = setting.filters();
            if filters.iter().all(Option::is_none) && !(0..filters.len()).any(used) {
                told.push(format!("{place}the parameter `{name}` is not used: {}", reason(recipe, parameter, of)));
                continue;
            }
            for (_, filter) in filters.into_iter().enumerate().filter(|(entry, _)| !used(*entry)) {
                told.push(match filter {
                    Some(filter) => format!("{place}{name}: the filter `{filter}` {}", self.missed(recipe, parameter, of, filter)),
                    None => format!("{place}{name}: the entry without a filter is not used, since others fit all weights"),
                });
            }
        }
    }

    /// Why a filter was never chosen.
    fn missed(&self, recipe: &Recipe, parameter: &Parameter, of: Option<(&Slice, &ModelRef)>, filter: &str) -> String {
        let names = self.names.borrow();
        if names.iter().any(|name| name.contains(filter)) {
            return match is_asked(recipe, parameter, of) {
                true => "is not used: an entry before it, or a setting closer to the model, fits the same weights".into(),
                false => format!("is not used: {}", reason(recipe, parameter, of)),
            };
        }
        let near = nearest(filter, parts(&names, filter.split('.').count()).iter().map(String::as_str), 3).join("`, `");
        format!("fits no weight; the nearest parts of names are `{near}`")
    }
}

/// Whether a parameter is looked for where it is set.
fn is_asked(recipe: &Recipe, parameter: &Parameter, of: Option<(&Slice, &ModelRef)>) -> bool {
    of.is_none_or(|(slice, model)| parameter.per_model && !is_base(recipe, slice, model))
}

fn reason(recipe: &Recipe, parameter: &Parameter, of: Option<(&Slice, &ModelRef)>) -> String {
    match of {
        Some(_) if !parameter.per_model => format!("all models share it; set `{}` under `parameters` at the top", parameter.name),
        Some((slice, model)) if is_base(recipe, slice, model) => format!("{} takes none for the base_model", recipe.method.name),
        _ => "each weight has one that is set closer to the model".into(),
    }
}

/// Whether a model is the base of a slice, and is told apart from the others.
fn is_base(recipe: &Recipe, slice: &Slice, model: &ModelRef) -> bool {
    recipe.method.base != crate::method::BaseUse::Ordinary && recipe.base_of(slice) == Some(model)
}

/// Whether a model is a base in every slice that has it.
fn is_told_apart(recipe: &Recipe, model: &ModelRef) -> bool {
    let takes_part = |slice: &&Slice| slice.sources.iter().any(|source| source.model == *model);
    recipe.slices.iter().filter(takes_part).all(|slice| is_base(recipe, slice, model))
}

/// What names of weights have in `count` parts one after the other, without numbers.
fn parts(names: &BTreeSet<String>, count: usize) -> BTreeSet<String> {
    let split = |name: &String| -> Vec<String> {
        let parts: Vec<&str> = name.split('.').collect();
        let words = |parts: &&[&str]| parts.iter().all(|part| part.parse::<u32>().is_err());
        parts.windows(count.max(1)).filter(words).map(|parts| parts.join(".")).collect()
    };
    names.iter().flat_map(split).collect()
}
