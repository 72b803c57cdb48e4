//! The files that make a checkpoint, beside its weights.
//!
//! One list for every command that writes a checkpoint after another: what transformers and sentence-transformers load of a directory, and
//! nothing else. An `adapter_config.json` beside the weights, for one, would make transformers look for an adapter.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::{INDEX_FILE, MODEL_FILE, disk, read_json, write_atomic};
use crate::{CONFIG_FILE, Error, Result, TENSOR_FILE};

pub(super) const CONFIG: &str = "config.json";
/// What says how the model is used, beside `config.json`.
const MODEL_SETTINGS: [&str; 5] = [
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "audio_tokenizer_config.json",
];
/// What makes a model one of sentence-transformers, beside the directories that [`MODULES`] names.
const SENTENCE_SETTINGS: [&str; 3] = [MODULES, "config_sentence_transformers.json", "sentence_bert_config.json"];
const MODULES: &str = "modules.json";
/// Chat templates by name, besides the usual one.
const TEMPLATES: &str = "additional_chat_templates";
/// Files of a tokenizer that hold no vocabulary.
const TOKENIZER_SETTINGS: [&str; 4] = ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"];
/// Files of a tokenizer that hold a vocabulary: the names that the tokenizers of transformers have for them.
const VOCABULARIES: [&str; 22] = [
    "tokenizer.json",
    "tokenizer.model",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "spm_char.model",
    "source.spm",
    "target.spm",
    "bpe.codes",
    "bpe.model",
    "vocab.bpe",
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "byte_maps.json",
    "tekken.json",
    "prophetnet.tokenizer",
];

/// Copies what belongs to the checkpoint in `from` beside its weights into the directory `to`: configuration, tokenizer, chat templates, and
/// the model's own code where its configuration names some.
///
/// # Errors
/// [`Error::File`] for a link that leads out of the checkpoint; [`Error::Io`].
pub fn copy_checkpoint_files(from: &Path, to: &Path) -> Result<()> {
    copy_files(from, to, &[CONFIG])?;
    copy_model_files(from, to)?;
    copy_tokenizer_settings(from, to)?;
    copy_vocabularies(from, to)
}

/// Copies what belongs to the tokenizer in `from` beside its vocabulary into the directory `to`: its settings and chat templates.
///
/// # Errors
/// As [`copy_checkpoint_files`].
pub fn copy_tokenizer_settings(from: &Path, to: &Path) -> Result<()> {
    copy_files(from, to, &TOKENIZER_SETTINGS)?;
    copy_directory(from, to, Path::new(TEMPLATES))
}

/// Copies the vocabulary of the tokenizer in `from` into the directory `to`.
///
/// # Errors
/// As [`copy_checkpoint_files`].
pub fn copy_vocabularies(from: &Path, to: &Path) -> Result<()> {
    copy_files(from, to, &VOCABULARIES)?;
    copy_matching(from, to, |name| name.ends_with(".tiktoken"))
}

/// Copies what belongs to the checkpoint in `from` beside weights, `config.json` and tokenizer into the directory `to`.
///
/// # Errors
/// As [`copy_checkpoint_files`].
pub fn copy_model_files(from: &Path, to: &Path) -> Result<()> {
    copy_files(from, to, &MODEL_SETTINGS)?;
    copy_files(from, to, &SENTENCE_SETTINGS)?;
    sentence_modules(from)?.iter().try_for_each(|dir| copy_directory(from, to, dir))?;
    match has_code(from) {
        true => copy_matching(from, to, |name| name.ends_with(".py")),
        false => Ok(()),
    }
}

/// Copies those of the files `names` that the checkpoint in `from` has into the directory `to`.
fn copy_files(from: &Path, to: &Path, names: &[&str]) -> Result<()> {
    names.iter().try_for_each(|name| copy(from, to, Path::new(name)))
}

fn copy_matching(from: &Path, to: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let entries = fs::read_dir(from).map_err(|e| Error::io(from, e))?;
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_wanted(name));
    names.sort();
    names.iter().try_for_each(|name| copy(from, to, Path::new(name)))
}

fn copy_directory(from: &Path, to: &Path, dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(from.join(dir)) else { return Ok(()) };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    names.iter().try_for_each(|name| copy(from, to, &dir.join(name)))
}

/// Copies the file `name` if there is one.
pub(super) fn copy(from: &Path, to: &Path, name: &Path) -> Result<()> {
    let path = from.join(name);
    if !path.is_file() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    let place = inside(from, &path)?;
    File::open(place).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|e| Error::io(&path, e))?;
    let copied = to.join(name);
    disk::create_dir_all(super::parent(&copied))?;
    write_atomic(&copied, &bytes)
}

/// Where a file of a checkpoint really is: in its directory, or in the store of the hub's cache to which the links of a snapshot lead. A
/// checkpoint from elsewhere could have a link to anything, and what is copied into a result is shown to others.
fn inside(from: &Path, path: &Path) -> Result<PathBuf> {
    let resolve = |path: &Path| path.canonicalize().map_err(|e| Error::io(path, e));
    let (dir, place) = (resolve(from)?, resolve(path)?);
    // <repository>/snapshots/<commit>, whose links lead to <repository>/blobs.
    let is_snapshot = dir.parent().and_then(Path::file_name).is_some_and(|name| name == "snapshots");
    let blobs = dir.parent().and_then(Path::parent).map(|repository| repository.join("blobs")).filter(|_| is_snapshot);
    if place.starts_with(&dir) || blobs.is_some_and(|blobs| place.parent() == Some(&blobs)) {
        return Ok(place);
    }
    Err(Error::file(
        path,
        format!("is a link to {}, outside the model's directory, and is not copied; put the file in its place", place.display()),
    ))
}

/// The directories of the parts of a model of sentence-transformers, such as `1_Pooling`.
fn sentence_modules(dir: &Path) -> Result<Vec<PathBuf>> {
    let file = dir.join(MODULES);
    if !file.is_file() {
        return Ok(Vec::new());
    }
    let modules: Value = read_json(&file)?;
    let paths = modules.as_array().into_iter().flatten().filter_map(|module| Some(PathBuf::from(module["path"].as_str()?)));
    let is_plain = |path: &PathBuf| path.components().map(|part| matches!(part, Component::Normal(_))).eq([true]);
    Ok(paths.filter(is_plain).collect())
}

/// Whether the configuration names code of the model's own, as `auto_map` does.
fn has_code(dir: &Path) -> bool {
    let names_code = |name: &&str| read_json::<Value>(&dir.join(name)).is_ok_and(|value| value.get("auto_map").is_some());
    [CONFIG, TOKENIZER_SETTINGS[0], MODEL_SETTINGS[1], MODEL_SETTINGS[3]].iter().any(names_code)
}

/// Whether a file of this name in the directory of a model or an adapter is a part of it.
pub(super) fn is_part_of_a_model(dir: &Path, name: &str) -> bool {
    let lists: [&[&str]; 5] = [
        &[CONFIG, CONFIG_FILE, TENSOR_FILE, MODEL_FILE, INDEX_FILE, "labels.json"],
        &MODEL_SETTINGS,
        &SENTENCE_SETTINGS,
        &TOKENIZER_SETTINGS,
        &VOCABULARIES,
    ];
    let is_listed = lists.iter().any(|list| list.contains(&name));
    let is_weights = ["model-", "model.", "pytorch_model", "adapter_model"].iter().any(|start| name.starts_with(start))
        && [".safetensors", ".bin", ".json"].iter().any(|end| name.ends_with(end));
    let is_indexed = || fs::read_to_string(dir.join(INDEX_FILE)).is_ok_and(|index| index.contains(&format!("\"{name}\"")));
    is_listed || is_weights || name.ends_with(".tiktoken") || name.ends_with(".py") || is_indexed()
}
