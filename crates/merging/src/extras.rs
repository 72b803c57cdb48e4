//! What lies beside the weights of the result: configuration, tokenizer, chat template.

use crate::alignment::Alignment;
use crate::models::{Model, is_embedding, is_head, ties};
use crate::plan::Plan;
use crate::special_ids::GENERATION_FILE;
use crate::templates;
use crate::tokenizer::{TOKENIZER_FILE, Tokenizer};
use peft_core::files::{Dtype, copy_model_files, copy_tokenizer_settings, copy_vocabularies, read_json, write_atomic};
use peft_core::{Error, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The file of a chat template, which goes before one in `tokenizer_config.json`.
const TEMPLATE_FILE: &str = "chat_template.jinja";
/// What configurations call the number of layers.
const LAYER_KEYS: [&str; 4] = ["num_hidden_layers", "n_layer", "num_layers", "n_layers"];

impl Plan {
    /// Whether the configuration of the result can be made, which is better known before weights are computed.
    ///
    /// # Errors
    /// As [`write_extras`](Self::write_extras).
    pub(crate) fn check_extras(&self) -> Result<()> {
        self.config()?;
        for lost in self.fit_config(&mut self.models[0].config.clone())? {
            tracing::warn!("{}: the tokenizer of the result lacks the token of {lost}; the result says none", self.models[0].name);
        }
        self.generation_config()?;
        let template = self.chat_template()?.unwrap_or_default();
        let donor = Tokenizer::read(&self.tokenizer_dir())?;
        if let Some(tokenizer) = self.alignment.as_ref().map(|alignment| &alignment.tokenizer).or(donor.as_ref()) {
            for token in templates::special_tokens(&template).filter(|token| !tokenizer.ids.contains_key(*token)) {
                tracing::warn!("chat_template: it writes `{token}`, which is no token of the result and is spelled in several");
            }
        }
        Ok(())
    }

    /// Writes everything but weights and card into `dir`.
    ///
    /// # Errors
    /// [`Error::File`] if the first model has no `config.json`; [`Error::InvalidConfig`] for a chat template that is none; [`Error::Io`].
    pub fn write_extras(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join("config.json"), &self.config()?)?;
        let first = &self.models[0].dir;
        copy_model_files(first, dir)?;
        if let Some(generation) = self.generation_config()? {
            write_json(&dir.join(GENERATION_FILE), &generation)?;
        }
        let donor = self.tokenizer_dir();
        let texts = self.models.iter().find(|model| model.dir == donor).unwrap_or(&self.models[0]).texts();
        copy_tokenizer_settings(&donor, dir)?;
        match self.remade()? {
            Some(alignment) => {
                texts.copy_settings(dir)?;
                write_json(&dir.join(TOKENIZER_FILE), &alignment.tokenizer.json)?;
                self.write_added_tokens(dir)?;
            }
            None => {
                copy_vocabularies(&donor, dir)?;
                texts.copy_vocabulary(dir)?;
                texts.copy_settings(dir)?;
            }
        }
        if let Some(template) = self.chat_template()? {
            write_atomic(&dir.join(TEMPLATE_FILE), template.as_bytes())?;
        }
        Ok(())
    }

    /// The directory of the tokenizer that the result has.
    pub(crate) fn tokenizer_dir(&self) -> PathBuf {
        let with_tokenizer = || self.models.iter().find(|model| model.tokenizer.is_some()).unwrap_or(&self.models[0]).dir.clone();
        self.alignment.as_ref().map_or_else(with_tokenizer, |alignment| alignment.donor.clone())
    }

    /// The vocabulary of the result, if it is not the donor's as it is.
    fn remade(&self) -> Result<Option<&Alignment>> {
        let Some(alignment) = &self.alignment else { return Ok(None) };
        let donor = Tokenizer::read(&alignment.donor)?;
        Ok(Some(alignment).filter(|alignment| donor.is_none_or(|donor| donor.json != alignment.tokenizer.json)))
    }

    /// Some versions of transformers read added tokens from the settings of the tokenizer.
    fn write_added_tokens(&self, dir: &Path) -> Result<()> {
        let (file, Some(alignment)) = (dir.join("tokenizer_config.json"), &self.alignment) else { return Ok(()) };
        if !file.exists() {
            return Ok(());
        }
        let mut settings: Value = read_json(&file)?;
        let added = alignment.tokenizer.json["added_tokens"].as_array().into_iter().flatten();
        let entries = added.map(|entry| {
            let mut entry = entry.clone();
            let id = entry.as_object_mut().and_then(|entry| entry.remove("id")).unwrap_or_default();
            (id.to_string(), entry)
        });
        settings["added_tokens_decoder"] = Value::Object(entries.collect());
        write_json(&file, &settings)
    }

    fn config(&self) -> Result<Value> {
        let first = &self.models[0];
        let mut config = first.config.clone();
        if !config.is_object() {
            return Err(Error::file(first.dir.join("config.json"), "not found; the merged model has the configuration of this one"));
        }
        if let Some(layers) = self.layers() {
            self.set_layers(&mut config, layers)?;
        }
        if let Some(alignment) = &self.alignment {
            text_part(&mut config, "vocab_size")["vocab_size"] = alignment.rows.into();
            // Configurations of several parts may say it twice.
            if let Some(size) = config.get_mut("text_config").and_then(|text| text.get_mut("vocab_size")) {
                *size = alignment.rows.into();
            }
        }
        self.fit_config(&mut config)?;
        if self.head_comes_apart() || (ties(&config) && self.has_own_head()) {
            config["tie_word_embeddings"] = false.into();
            if config["text_config"].get("tie_word_embeddings").is_some() {
                config["text_config"]["tie_word_embeddings"] = false.into();
            }
        }
        if let Some(dtype) = self.weights.iter().filter(|weight| weight.rule.is_some()).find_map(|weight| dtype_name(weight.info.dtype)) {
            let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
            config[key] = dtype.into();
        }
        Ok(config)
    }

    fn set_layers(&self, config: &mut Value, layers: usize) -> Result<()> {
        let Some(key) = LAYER_KEYS.into_iter().find(|key| text_part(config, key).get(key).is_some()) else {
            return Err(Error::file(
                self.models[0].dir.join("config.json"),
                format!("names no number of layers: {}", LAYER_KEYS.join(", ")),
            ));
        };
        let part = text_part(config, key);
        part[key] = layers.into();
        if part.get("layer_types").is_some() {
            part["layer_types"] = self.layer_types();
        }
        Ok(())
    }

    /// What kind each layer is, taken along from where the layer comes from.
    fn layer_types(&self) -> Value {
        let kinds = self.recipe.slices.iter().flat_map(|slice| {
            let source = &slice.sources[0];
            let model = self.models.iter().find(|model| model.name == source.model);
            let range = source.layers.clone().unwrap_or(0..0);
            range.map(move |layer| model.map_or(Value::Null, |model| layer_type(model, layer)))
        });
        kinds.collect()
    }

    /// Whether some models share the embedding's weight with their head, and others do not: then the result does not.
    fn head_comes_apart(&self) -> bool {
        let heads = self.weights.iter().filter(|weight| is_head(&weight.name));
        heads.into_iter().any(|weight| {
            let shared = weight.inputs.iter().filter(|input| !is_head(&input.key)).count();
            shared > 0 && shared < weight.inputs.len()
        })
    }

    /// Whether the result holds a head beside its embedding, so that they are two weights.
    fn has_own_head(&self) -> bool {
        let holds = |wanted: fn(&str) -> bool| self.weights.iter().any(|weight| wanted(&weight.name));
        holds(is_head) && holds(is_embedding)
    }

    fn chat_template(&self) -> Result<Option<String>> {
        let Some(asked) = &self.recipe.chat_template else { return Ok(None) };
        match asked.as_str() {
            "auto" => Ok(self.commonest_template()),
            template if template.contains('{') => Ok(Some(template.into())),
            name => templates::named(name).map(|template| Some(template.into())),
        }
    }

    fn commonest_template(&self) -> Option<String> {
        let templates: Vec<String> = self.models.iter().filter_map(template_of).collect();
        let count = |template: &String| templates.iter().filter(|other| *other == template).count();
        // The first of those that are equally common.
        templates.iter().rev().max_by_key(|template| count(template)).cloned()
    }
}

/// The configuration, or the part of it that is about the language model, whichever has `key`.
fn text_part<'c>(config: &'c mut Value, key: &str) -> &'c mut Value {
    let nested = config.get(key).is_none() && config["text_config"].get(key).is_some();
    if nested { &mut config["text_config"] } else { config }
}

fn layer_type(model: &Model, layer: usize) -> Value {
    let types = model.config.get("layer_types").or_else(|| model.config.get("text_config")?.get("layer_types"));
    types.and_then(|types| types.get(layer)).cloned().unwrap_or_default()
}

fn template_of(model: &Model) -> Option<String> {
    let (template, _) = model.texts().chat_template().ok()??;
    Some(template.trim().into())
}

fn dtype_name(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::F64 => Some("float64"),
        Dtype::F32 => Some("float32"),
        Dtype::F16 => Some("float16"),
        Dtype::BF16 => Some("bfloat16"),
        _ => None,
    }
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(&json!(value)).map_err(|e| Error::file(path, e))?;
    write_atomic(path, format!("{text}\n").as_bytes())
}
