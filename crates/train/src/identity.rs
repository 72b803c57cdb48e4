//! Which run a checkpoint belongs to.

use crate::config::TrainConfig;
use crate::parameters::parameter_paths;
use burn::module::Module;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What makes a run the one it is: a checkpoint is continued with these alone.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct Identity {
    /// The settings that determine its losses.
    settings: Map<String, Value>,
    /// Batches of one step, on all devices together.
    batches_per_step: usize,
    /// The training data's fingerprint.
    data: String,
    /// Paths and shapes of the trained parameters.
    trained: Vec<String>,
}

impl Identity {
    /// Of a run with these settings, this model and these data.
    pub fn new<M: Module>(config: &TrainConfig, batches_per_step: usize, model: &M, data: u64) -> Self {
        let settings = serde_json::to_value(config.decisive()).ok().and_then(|settings| settings.as_object().cloned());
        let trained = parameter_paths(model).into_iter().map(|(path, shape)| format!("{path} {shape:?}")).collect();
        Self { settings: settings.unwrap_or_default(), batches_per_step, data: format!("{data:016x}"), trained }
    }

    /// Whether `now` is the same run; the reason says what differs.
    pub fn check(&self, now: &Self) -> Result<(), String> {
        let changed = changed(&self.settings, &now.settings);
        if !changed.is_empty() {
            return Err(format!("belongs to a run with other settings: {}", changed.join("; ")));
        }
        let (before, after) = (self.batches_per_step, now.batches_per_step);
        if before != after {
            return Err(format!("belongs to a run with {before} batches in one step on all devices together, and now there are {after}"));
        }
        let other = |these: &[String], those: &[String]| these.iter().find(|name| !those.contains(name)).cloned();
        if let Some(name) = other(&now.trained, &self.trained) {
            return Err(format!("belongs to a run that did not train `{name}`, which this one does"));
        }
        if let Some(name) = other(&self.trained, &now.trained) {
            return Err(format!("belongs to a run that trained `{name}`, which this one does not"));
        }
        match self.data == now.data {
            true => Ok(()),
            false => Err("belongs to a run with other training data: their tokens, or their order, are not those of this file".into()),
        }
    }
}

/// What differs between two sets of settings, each with the value that it has and the one that it had.
pub fn changed(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    // As JSON text on both sides: a number that was read from a file may differ in its last bit from the one that was written.
    let text = |value: Option<&Value>| value.filter(|value| !value.is_null()).map(plain);
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    let difference = |key: &String| {
        let (old, new) = (text(before.get(key)), text(now.get(key)));
        let show = |value: Option<String>| value.unwrap_or_else(|| "not set".into());
        (old != new).then(|| format!("`{key}` is {} and was {}", show(new), show(old)))
    };
    keys.into_iter().filter_map(difference).collect()
}

fn plain(value: &Value) -> String {
    let text = value.to_string();
    serde_json::from_str::<Value>(&text).map_or(text, |again| again.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_is_named_with_both_values() {
        let map = |value: Value| value.as_object().unwrap().clone();
        let (before, now) = (map(json!({ "lr": 0.1, "r": 8, "eval": null })), map(json!({ "lr": 0.2, "r": 8, "packing": true })));
        assert_eq!(changed(&before, &now), ["`lr` is 0.2 and was 0.1", "`packing` is true and was not set"]);
        assert!(changed(&before, &before).is_empty());
    }
}
