//! `adapter_config.json`: its form, HF PEFT's nulls, and what is refused.

use super::fields::{Fate, Form, fields};
use crate::files::read_json;
use crate::targets::nearest;
use crate::{CONFIG_FILE, Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The kinds of adapters that are read: `peft_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// LoRA with its variants.
    Lora,
    /// (IA)³.
    Ia3,
    /// VeRA.
    Vera,
    /// BitFit, which HF PEFT does not have.
    BitFit,
}

const KINDS: [(&str, Kind); 4] = [("LORA", Kind::Lora), ("IA3", Kind::Ia3), ("VERA", Kind::Vera), ("BITFIT", Kind::BitFit)];

impl Kind {
    /// The kind as `peft_type` spells it.
    pub fn name(self) -> &'static str {
        KINDS.into_iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// The content of an `adapter_config.json` that has been checked: every setting has the form that it should have, and none means
/// what this library does not do.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The kind of adapter.
    pub kind: Kind,
    /// The content of the file, as it stands there.
    pub value: Value,
    /// The settings without `peft_type`, nulls replaced where HF PEFT takes them for a value.
    settings: Map<String, Value>,
    file: PathBuf,
}

impl AdapterConfig {
    /// Reads the configuration in the directory `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none; those of [`new`](Self::new).
    pub fn read(dir: &Path) -> Result<Self> {
        let file = dir.join(CONFIG_FILE);
        if dir.is_dir() && !file.exists() {
            return Err(Error::file(dir, format!("is no adapter: it has no {CONFIG_FILE}")));
        }
        Self::new(read_json(&file)?, &file)
    }

    /// Takes the content of `file`.
    ///
    /// # Errors
    /// [`Error::File`] naming the setting if one has another form than it should, or is refused; for another `peft_type` than those of
    /// [`Kind`].
    pub fn new(value: Value, file: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::file(file, reason);
        let map = value.as_object().ok_or_else(|| wrong("is no JSON object".into()))?;
        let name = map.get("peft_type").and_then(Value::as_str).unwrap_or("nothing");
        let kind = KINDS.into_iter().find(|(known, _)| *known == name).map(|(_, kind)| kind);
        let kind = kind.ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
            wrong(format!("peft_type is `{name}`; supported: {}", known.join(", ")))
        })?;
        let mut settings = map.clone();
        settings.shift_remove("peft_type");
        check_settings(kind, &settings).map_err(wrong)?;
        for (name, fate) in fields(kind) {
            if let (Fate::Read(form), Some(value)) = (fate, settings.get_mut(*name)) {
                *value = formed(*form, value).map_err(|expected| wrong(format!("`{name}` is {value}; expected {expected}")))?;
            }
        }
        let file = file.into();
        Ok(Self { kind, value, settings, file })
    }

    /// The settings as a type of the one who asks; settings that the file lacks get the defaults of that type.
    ///
    /// # Errors
    /// [`Error::File`] if they do not fit.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(Value::Object(self.settings.clone())).map_err(|e| Error::file(&self.file, e))
    }

    /// The file, or what stands for it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Name or path of the model that the adapter was made for.
    pub fn base(&self) -> Option<&str> {
        self.value["base_model_name_or_path"].as_str()
    }
}

/// Refuses settings of HF PEFT that would change what the adapter means and are not implemented, and settings that no adapter of this
/// kind has, if they are set.
///
/// # Errors
/// What is wrong, with the name of the first such setting.
pub fn check_settings(kind: Kind, settings: &Map<String, Value>) -> Result<(), String> {
    for (name, value) in settings.iter().filter(|(_, value)| is_set(value)) {
        match fields(kind).find(|(known, _)| known == name) {
            Some((_, Fate::Refused(_))) if name == "ensure_weight_tying" && !names_vocabulary(settings) => {}
            Some((_, Fate::Refused(reason))) => return Err(format!("`{name}` is not supported: {reason}")),
            Some(_) => {}
            // A note of whoever made the file.
            None if name.starts_with('_') => {}
            None => {
                let known: Vec<&str> = fields(kind).map(|(name, _)| *name).collect();
                let nearest = nearest(std::slice::from_ref(name), known.into_iter());
                return Err(format!(
                    "`{name}` is {value}, and an adapter of type {} has no such setting in HF PEFT 0.21; the nearest is `{}`; if it means \
                     nothing, take it out",
                    kind.name(),
                    nearest.first().map_or("", String::as_str)
                ));
            }
        }
    }
    Ok(())
}

/// Whether the settings may name an embedding or a head among the modules that are trained.
fn names_vocabulary(settings: &Map<String, Value>) -> bool {
    let is_vocabulary = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        matches!(name.rsplit('.').next(), Some("embed_tokens" | "lm_head" | "word_embeddings" | "wte"))
    };
    let named = |setting: &str| match settings.get(setting) {
        Some(Value::Array(names)) => names.iter().any(is_vocabulary),
        Some(Value::String(expression)) => !expression.eq_ignore_ascii_case("all-linear"),
        _ => false,
    };
    !settings.contains_key("target_modules") || named("target_modules") || named("modules_to_save")
}

/// Whether a value says more than that there is nothing.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !matches!(text.as_str(), "" | "none"),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
    }
}

/// The value in the form that a setting has, or what that form is.
fn formed(form: Form, value: &Value) -> Result<Value, &'static str> {
    let is_count = |value: &Value| value.as_u64().is_some();
    let is_list = |value: &Value, of: &dyn Fn(&Value) -> bool| value.as_array().is_some_and(|items| items.iter().all(of));
    let is_map = |value: &Value, of: &dyn Fn(&Value) -> bool| value.as_object().is_some_and(|entries| entries.values().all(of));
    let (fits, expected) = match form {
        Form::Flag => (value.is_boolean(), "true or false"),
        Form::Count => (is_count(value), "a whole number that is not negative"),
        Form::Number => (value.is_number(), "a number"),
        Form::Dropout => (value.as_f64().is_some_and(|share| share <= 1.0), "a share of at most 1"),
        Form::Text => (value.is_string(), "a text"),
        Form::Names => (value.is_string() || is_list(value, &Value::is_string), "a list of names, or an expression"),
        Form::List => (is_list(value, &Value::is_string), "a list of names"),
        Form::Layers => (is_count(value) || is_list(value, &is_count), "the number of a layer, or a list of them"),
        Form::Counts => (is_map(value, &is_count), "expressions, each with a whole number that is not negative"),
        Form::Numbers => (is_map(value, &Value::is_number), "expressions, each with a number"),
        Form::Bias => (matches!(value.as_str(), Some("none" | "all" | "lora_only")), "none, all or lora_only"),
        Form::Start => (value.is_boolean() || value.is_string(), "true, false or a name"),
    };
    match (value, form) {
        (Value::Null, Form::Flag | Form::Start) => Ok(false.into()),
        (Value::Null, Form::Counts | Form::Numbers) => Ok(Map::new().into()),
        (Value::Null, Form::Bias) => Ok("none".into()),
        (Value::Null, Form::Text | Form::Names | Form::List | Form::Layers) => Ok(Value::Null),
        (share, Form::Dropout) if share.as_f64().is_some_and(|share| share < 0.0) => Ok(0.0.into()),
        (value, _) if fits => Ok(value.clone()),
        _ => Err(expected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(more: Value) -> Result<AdapterConfig> {
        let mut value = json!({ "peft_type": "LORA", "r": 4, "target_modules": ["q"] });
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        AdapterConfig::new(value, Path::new("adapter_config.json"))
    }

    fn refused(more: Value) -> String {
        read(more).unwrap_err().to_string()
    }

    #[test]
    fn a_null_is_what_python_takes_it_for() {
        let flags = ["use_rslora", "use_dora", "inference_mode", "fan_in_fan_out", "init_lora_weights", "lora_bias"];
        for name in flags {
            assert_eq!(read(json!({ name: null })).unwrap().settings[name], json!(false), "{name}");
        }
        for name in ["target_modules", "exclude_modules", "layers_to_transform", "modules_to_save", "task_type"] {
            assert_eq!(read(json!({ name: null })).unwrap().settings[name], Value::Null, "{name}");
        }
        assert_eq!(read(json!({ "rank_pattern": null })).unwrap().settings["rank_pattern"], json!({}));
        assert!(refused(json!({ "r": null })).contains("`r` is null; expected a whole number"));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_setting() {
        assert!(refused(json!({ "r": "four" })).contains("adapter_config.json: `r` is \"four\"; expected a whole number"));
        assert!(refused(json!({ "lora_alpha": [1] })).contains("`lora_alpha` is [1]; expected a number"));
        assert!(refused(json!({ "bias": "some" })).contains("`bias` is \"some\"; expected none, all or lora_only"));
        assert!(refused(json!({ "rank_pattern": { "q": -1 } })).contains("`rank_pattern`"));
        assert!(refused(json!({ "layers_to_transform": [-1] })).contains("`layers_to_transform` is [-1]"));
        assert!(refused(json!({ "modules_to_save": "lm_head" })).contains("`modules_to_save` is \"lm_head\"; expected a list"));
        assert!(refused(json!({ "use_dora": 1 })).contains("`use_dora` is 1; expected true or false"));
        assert!(AdapterConfig::new(json!([]), Path::new("x")).unwrap_err().to_string().contains("no JSON object"));
    }

    #[test]
    fn what_would_change_the_meaning_is_refused_and_a_note_is_kept() {
        let said = refused(json!({ "use_hyperlora": true }));
        assert!(said.contains("`use_hyperlora` is true") && said.contains("the nearest is `use_"), "{said}");
        assert!(refused(json!({ "feedforward_modules": ["q"] })).contains("adapter of type LORA has no such setting"));
        assert!(refused(json!({ "use_qalora": true })).contains("`use_qalora` is not supported: the inputs of groups are averaged"));
        for more in [
            json!({ "use_hyperlora": null, "x": [], "y": false, "z": {}, "n": 0, "lora_dtype": "float32", "_note": "made on a Monday" }),
            json!({ "eva_config": { "rho": 2.0 }, "corda_config": { "a": 1 }, "qalora_group_size": 16, "megatron_core": "megatron.core" }),
            json!({ "ensure_weight_tying": true }),
            json!({ "use_qalora": false, "layer_replication": null, "trainable_token_indices": [] }),
        ] {
            assert_eq!(read(more.clone()).unwrap().value["r"], 4, "{more}");
        }
        let tied = json!({ "ensure_weight_tying": true, "modules_to_save": ["lm_head"] });
        assert!(refused(tied).contains("`ensure_weight_tying` is not supported"));
        let vera = json!({ "peft_type": "VERA", "bias": "vera_only" });
        assert!(AdapterConfig::new(vera, Path::new("x")).unwrap_err().to_string().contains("`bias` is not supported"));
    }
}
