//! Looking up what a recipe sets for one weight.

use crate::method::{Method, Unset};
use crate::recipe::{ModelRef, Settings};
use peft_core::{Error, Result};
use std::collections::BTreeMap;

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
}

/// The values of all parameters of a model, or of all that models share.
///
/// # Errors
/// [`Error::InvalidConfig`] for one that must be set and is not, naming model and weight.
pub fn resolve(asked: &Asked) -> Result<BTreeMap<&'static str, f64>> {
    let mut values = BTreeMap::new();
    for parameter in asked.method.parameters.iter().filter(|parameter| parameter.per_model == asked.model.is_some()) {
        let set = asked.scopes.iter().find_map(|scope| scope.get(parameter.name)?.at(asked.name, asked.depth));
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
        values.insert(parameter.name, value);
    }
    Ok(values)
}
