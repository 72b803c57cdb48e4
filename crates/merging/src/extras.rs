//! What lies beside the weights of the result: configuration, tokenizer, chat template.

use crate::models::{Model, is_head};
use crate::plan::Plan;
use crate::recipe::Vocabulary;
use crate::tokenizer::TOKENIZER_FILE;
use peft_core::files::{Dtype, read_json, write_atomic};
use peft_core::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// Files of a tokenizer that hold no vocabulary.
const SETTINGS: [&str; 4] = ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"];
/// Files of a tokenizer that hold a vocabulary.
const VOCABULARIES: [&str; 6] = [TOKENIZER_FILE, "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"];
/// What else belongs to a checkpoint.
const OTHERS: [&str; 3] = ["generation_config.json", "preprocessor_config.json", "processor_config.json"];
/// The file of a chat template, which goes before one in `tokenizer_config.json`.
const TEMPLATE_FILE: &str = "chat_template.jinja";
/// What configurations call the number of layers.
const LAYER_KEYS: [&str; 4] = ["num_hidden_layers", "n_layer", "num_layers", "n_layers"];

/// The template of conversations between `<|im_start|>` and `<|im_end|>`.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

impl Plan {
    /// Whether the configuration of the result can be made, which is better known before weights are computed.
    ///
    /// # Errors
    /// As [`write_extras`](Self::write_extras).
    pub(crate) fn check_extras(&self) -> Result<()> {
        self.config()?;
        self.chat_template().map(|_| ())
    }

    /// Writes everything but weights and card into `dir`.
    ///
    /// # Errors
    /// [`Error::File`] if the first model has no `config.json`; [`Error::InvalidConfig`] for a chat template that is none; [`Error::Io`].
    pub(crate) fn write_extras(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join("config.json"), &self.config()?)?;
        let first = &self.models[0].dir;
        copy(first, dir, &OTHERS)?;
        let donor = self.tokenizer_donor();
        copy(&donor.dir, dir, &SETTINGS)?;
        let remade = self.alignment.as_ref().filter(|alignment| is_remade(alignment.tokenizer.ids.len(), donor));
        match remade {
            Some(alignment) => {
                donor.texts().copy_settings(dir)?;
                write_json(&dir.join(TOKENIZER_FILE), &alignment.tokenizer.json)?;
                self.write_added_tokens(dir)?;
            }
            None => {
                copy(&donor.dir, dir, &VOCABULARIES)?;
                donor.texts().copy_vocabulary(dir)?;
                donor.texts().copy_settings(dir)?;
            }
        }
        if let Some(template) = self.chat_template()? {
            write_atomic(&dir.join(TEMPLATE_FILE), template.as_bytes())?;
        }
        Ok(())
    }

    fn tokenizer_donor(&self) -> &Model {
        let named = match self.recipe.tokenizer.as_ref().map(|tokenizer| &tokenizer.source) {
            Some(Vocabulary::Of(name)) => self.models.iter().find(|model| model.name == *name),
            _ => None,
        };
        let with_tokenizer = || self.models.iter().find(|model| model.tokenizer.is_some());
        named.or_else(with_tokenizer).unwrap_or(&self.models[0])
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
        }
        if self.head_comes_apart() {
            config["tie_word_embeddings"] = false.into();
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

    fn chat_template(&self) -> Result<Option<String>> {
        let Some(asked) = &self.recipe.chat_template else { return Ok(None) };
        match asked.as_str() {
            "auto" => Ok(self.commonest_template()),
            "chatml" => Ok(Some(CHATML.into())),
            template if template.contains('{') => Ok(Some(template.into())),
            name => Err(Error::InvalidConfig(format!(
                "chat_template: `{name}` is neither auto, nor chatml, nor a template in Jinja; give its text"
            ))),
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

fn copy(from: &Path, to: &Path, names: &[&str]) -> Result<()> {
    for name in names.iter().filter(|name| from.join(name).is_file()) {
        std::fs::copy(from.join(name), to.join(name)).map_err(|e| Error::io(from.join(name), e))?;
    }
    Ok(())
}

/// Whether a vocabulary of so many tokens is not the donor's as it is.
fn is_remade(tokens: usize, donor: &Model) -> bool {
    donor.tokenizer.as_ref().is_none_or(|donor| donor.ids.len() != tokens)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(&json!(value)).map_err(|e| Error::file(path, e))?;
    write_atomic(path, format!("{text}\n").as_bytes())
}
