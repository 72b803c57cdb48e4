//! Recipes as mergekit reads them.

mod documents;
mod reference;
mod setting;
mod tokens;

use crate::method::{BaseUse, METHODS, Method, Parameter, Unset};
use peft_core::files::{Dtype, nearest, parse_yaml, read_text};
use peft_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use reference::ModelRef;
pub use setting::Setting;
pub use tokens::{TokenSource, TokenizerRecipe, Vocabulary};

/// What is set, by the name of the parameter.
pub type Settings = BTreeMap<String, Setting>;

/// What to merge and how.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The recipe as it was written.
    pub text: String,
    /// What other documents of the same file call the result.
    pub name: Option<String>,
    /// Whether models are merged although they compute in different ways, or their vocabularies cannot be compared. Recipes do not say
    /// this.
    pub allow_incompatible: bool,
    /// How each weight is merged.
    pub method: &'static Method,
    /// The model that others are compared with, and whose configuration the result has.
    pub base: Option<ModelRef>,
    /// What the layers of the result are made of, in their order.
    pub slices: Vec<Slice>,
    /// What holds where a slice or a model says nothing else.
    pub parameters: Settings,
    /// The type of the result, unless `out_dtype` says otherwise.
    pub dtype: Option<Dtype>,
    /// The type of the result.
    pub out_dtype: Option<Dtype>,
    /// The vocabulary of the result; `None` if all models have the same.
    pub tokenizer: Option<TokenizerRecipe>,
    /// A chat template for the result.
    pub chat_template: Option<String>,
}

/// Consecutive layers of the result.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Where each input has them.
    pub sources: Vec<SliceSource>,
    /// Another base than the recipe's.
    pub base: Option<ModelRef>,
    /// What holds where a model says nothing else.
    pub parameters: Settings,
}

/// The layers of one model.
#[derive(Clone, Debug)]
pub struct SliceSource {
    /// The model.
    pub model: ModelRef,
    /// Its layers; `None` for all.
    pub layers: Option<Range<usize>>,
    /// The file of its Fisher information, where it is not beside the model.
    pub fisher: Option<PathBuf>,
    /// What holds for this model.
    pub parameters: Settings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<String>,
    merge_method: String,
    base_model: Option<ModelRef>,
    models: Option<Vec<FileModel>>,
    slices: Option<Vec<FileSlice>>,
    modules: Option<BTreeMap<String, FileModule>>,
    parameters: Option<Settings>,
    dtype: Option<String>,
    out_dtype: Option<String>,
    tokenizer_source: Option<Vocabulary>,
    tokenizer: Option<TokenizerRecipe>,
    chat_template: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileModel {
    model: ModelRef,
    fisher: Option<PathBuf>,
    parameters: Option<Settings>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSlice {
    sources: Vec<FileSource>,
    base_model: Option<ModelRef>,
    /// Never had an effect in mergekit either.
    residual_weight: Option<Value>,
    parameters: Option<Settings>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSource {
    model: ModelRef,
    layer_range: [usize; 2],
    parameters: Option<Settings>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileModule {
    models: Option<Vec<FileModel>>,
    slices: Option<Vec<FileSlice>>,
    parameters: Option<Settings>,
}

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`] as [`parse`](Self::parse) says.
    pub fn read(file: &Path) -> Result<Self> {
        Self::parse(&text(file)?).map_err(|e| Error::file(file, reason(e)))
    }

    /// Understands a recipe.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for what is no recipe: an unknown field, method, parameter or type, models and slices at once, a base
    /// that the method lacks, too few or too many models.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_beside(text, &[])
    }

    /// As [`parse`](Self::parse), where `documents` are names that stand for the results of other documents.
    fn parse_beside(text: &str, documents: &[String]) -> Result<Self> {
        let file: File = parse_yaml(text)?;
        let method = Method::named(&file.merge_method)?;
        let top = file.parameters.unwrap_or_default();
        let (slices, parameters) = slices(file.models, file.slices, file.modules, &top)?;
        let tokenizer = match (file.tokenizer_source, file.tokenizer) {
            (Some(_), Some(_)) => return Err(wrong("tokenizer_source and tokenizer exclude each other: give tokenizer.source")),
            (Some(source), None) => Some(TokenizerRecipe::of(source)),
            (None, tokenizer) => tokenizer,
        };
        let mut recipe = Self {
            text: text.into(),
            name: file.name,
            allow_incompatible: false,
            method,
            base: file.base_model,
            slices,
            parameters,
            dtype: file.dtype.map(|name| dtype("dtype", &name)).transpose()?,
            out_dtype: file.out_dtype.map(|name| dtype("out_dtype", &name)).transpose()?,
            tokenizer,
            chat_template: file.chat_template.filter(|template| !template.is_empty()),
        };
        recipe.unify(documents)?;
        recipe.append_base();
        recipe.check()?;
        Ok(recipe)
    }

    /// All models that take part, each once, the base first.
    pub fn models(&self) -> Vec<&ModelRef> {
        let sources = self.slices.iter().flat_map(|slice| slice.base.iter().chain(slice.sources.iter().map(|source| &source.model)));
        let mut models: Vec<&ModelRef> = Vec::new();
        for model in self.base.iter().chain(sources) {
            if !models.contains(&model) {
                models.push(model);
            }
        }
        models
    }

    /// All models whose directories are needed: those that take part, and the one that gives the tokenizer.
    pub fn directories(&self) -> Vec<&ModelRef> {
        let tokenizer = match self.tokenizer.as_ref().map(|tokenizer| &tokenizer.source) {
            Some(Vocabulary::Of(model)) => Some(model),
            _ => None,
        };
        let mut models = self.models();
        models.extend(tokenizer.filter(|tokenizer| !self.models().contains(tokenizer)));
        models
    }

    /// The models that a slice is made of, its base included, and that base.
    pub fn base_of<'a>(&'a self, slice: &'a Slice) -> Option<&'a ModelRef> {
        slice.base.as_ref().or(self.base.as_ref())
    }

    /// Calls a model that has several names, such as `a` and `./a`, by the first of them.
    fn unify(&mut self, documents: &[String]) -> Result<()> {
        for slice in &self.slices {
            for (i, SliceSource { model, .. }) in slice.sources.iter().enumerate() {
                let before = slice.sources[..i].iter().find(|other| other.model != *model && other.model.is_at(model, documents));
                if let Some(other) = before {
                    return Err(wrong(format!("{model} is listed twice: {} is the same directory", other.model)));
                }
            }
        }
        let slices = self.slices.iter_mut().flat_map(|slice| slice.base.iter_mut().chain(slice.sources.iter_mut().map(|s| &mut s.model)));
        let tokenizer = self.tokenizer.iter_mut().flat_map(TokenizerRecipe::models_mut);
        let mut known: Vec<ModelRef> = Vec::new();
        for model in self.base.iter_mut().chain(slices).chain(tokenizer) {
            match known.iter().find(|known| known.is_at(model, documents)) {
                Some(first) => model.clone_from(first),
                None => known.push(model.clone()),
            }
        }
        Ok(())
    }

    /// A base that is named, but not listed, takes part all the same.
    fn append_base(&mut self) {
        let Some(base) = &self.base else { return };
        for slice in &mut self.slices {
            let whole = slice.sources.iter().all(|source| source.layers.is_none());
            if whole && !slice.sources.iter().any(|source| source.model == *base) {
                slice.sources.push(SliceSource { model: base.clone(), layers: None, fisher: None, parameters: Settings::new() });
            }
        }
    }

    fn check(&self) -> Result<()> {
        self.check_fisher()?;
        if self.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.pad_to_multiple_of == Some(0)) {
            return Err(wrong("tokenizer: pad_to_multiple_of: at least 1, not 0"));
        }
        for slice in &self.slices {
            self.check_slice(slice)?;
        }
        let settings = self.slices.iter().flat_map(|slice| slice.sources.iter().map(|s| &s.parameters).chain([&slice.parameters]));
        settings.chain([&self.parameters]).flat_map(BTreeMap::keys).try_for_each(|name| self.check_name(name))
    }

    /// Fisher information is of whole models of one vocabulary.
    fn check_fisher(&self) -> Result<()> {
        let sources = || self.slices.iter().flat_map(|slice| &slice.sources);
        match self.method.reads_fisher() {
            true if sources().any(|source| source.layers.is_some()) => {
                Err(wrong("fisher merges whole models: list them under models, without slices"))
            }
            true if sources().any(|source| source.model.adapter.is_some()) => Err(wrong(
                "fisher merges models without adapters: put each into its model with `peft merge-adapter`, and run `peft fisher` on the result",
            )),
            true if self.tokenizer.is_some() => Err(wrong("fisher merges models of one vocabulary: it takes no tokenizer_source")),
            false if sources().any(|source| source.fisher.is_some()) => {
                Err(wrong(format!("{} reads no Fisher information: `fisher` beside a model is for merge_method: fisher", self.method.name)))
            }
            _ => Ok(()),
        }
    }

    fn check_slice(&self, slice: &Slice) -> Result<()> {
        let shared = |name: &&String| {
            let shared = |parameter: &Parameter| parameter.name == **name && !parameter.per_model;
            self.method.parameters.iter().any(|parameter| shared(parameter) && matches!(parameter.default, Unset::Required))
        };
        for source in &slice.sources {
            if let Some(name) = source.parameters.keys().find(shared) {
                return Err(wrong(format!("{}: all models share `{name}`; set it under `parameters` at the top", source.model)));
            }
        }
        let Method { name, base, models: (least, most), .. } = *self.method;
        for (i, source) in slice.sources.iter().enumerate() {
            if slice.sources[..i].iter().any(|other| other.model == source.model) {
                return Err(wrong(format!("{} is listed twice", source.model)));
            }
        }
        let told_apart = base != BaseUse::Ordinary;
        let known = self.base_of(slice).filter(|base| slice.sources.iter().any(|source| source.model == **base));
        match self.base_of(slice) {
            None if base == BaseUse::Needed => return Err(wrong(format!("{name} needs a base_model"))),
            Some(base) if told_apart && known.is_none() => {
                return Err(wrong(format!("{name} needs the base_model {base} among the sources of each slice")));
            }
            _ => {}
        }
        let count = slice.sources.len() - usize::from(told_apart && known.is_some());
        if (least..=most).contains(&count) {
            return Ok(());
        }
        let beside = if told_apart { " beside the base_model" } else { "" };
        let asked = match most {
            usize::MAX => format!("at least {least}"),
            _ if least == most => least.to_string(),
            _ => format!("{least} to {most}"),
        };
        Err(wrong(format!("{name} takes {asked} model{}{beside}, not {count}", if least == 1 && most == 1 { "" } else { "s" })))
    }

    /// A name of another method is a leftover; one of no method is a mistake.
    fn check_name(&self, name: &str) -> Result<()> {
        if self.method.parameters.iter().any(|parameter| parameter.name == name) {
            return Ok(());
        }
        if METHODS.iter().flat_map(|method| method.parameters).any(|parameter| parameter.name == name) {
            tracing::warn!("{} has no parameter `{name}`; it is not used", self.method.name);
            return Ok(());
        }
        let known: Vec<_> = self.method.parameters.iter().map(|parameter| parameter.name).collect();
        let meant = nearest(name, known.iter().copied(), 1).first().map_or_else(String::new, |near| format!("; the nearest is `{near}`"));
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        Err(wrong(format!("parameters: {} has no `{name}`; it has: {known}{meant}", self.method.name)))
    }
}

/// The slices of a recipe, and the parameters that hold for all of them.
fn slices(
    models: Option<Vec<FileModel>>,
    slices: Option<Vec<FileSlice>>,
    modules: Option<BTreeMap<String, FileModule>>,
    top: &Settings,
) -> Result<(Vec<Slice>, Settings)> {
    let models = models.filter(|models| !models.is_empty());
    let sliced = slices.filter(|slices| !slices.is_empty());
    match (models, sliced, modules.filter(|modules| !modules.is_empty())) {
        (Some(models), None, None) => {
            let source =
                |m: FileModel| SliceSource { model: m.model, layers: None, fisher: m.fisher, parameters: m.parameters.unwrap_or_default() };
            let sources = models.into_iter().map(source).collect();
            Ok((vec![Slice { sources, base: None, parameters: Settings::new() }], top.clone()))
        }
        (None, Some(list), None) => Ok((list.into_iter().map(slice).collect::<Result<_>>()?, top.clone())),
        (None, None, Some(modules)) => {
            let names: Vec<_> = modules.keys().cloned().collect();
            let [(name, module)] = <[_; 1]>::try_from(modules.into_iter().collect::<Vec<_>>())
                .map_err(|_| wrong(format!("modules: one module, `default`, can be merged, not {}", names.join(", "))))?;
            if name != "default" {
                return Err(wrong(format!("modules: only the module `default` can be merged, not `{name}`; use models or slices")));
            }
            let mut parameters = top.clone();
            parameters.extend(module.parameters.unwrap_or_default());
            slices_of_module(module.models, module.slices, parameters)
        }
        _ => Err(wrong("give exactly one of models, slices and modules")),
    }
}

fn slices_of_module(
    models: Option<Vec<FileModel>>,
    sliced: Option<Vec<FileSlice>>,
    parameters: Settings,
) -> Result<(Vec<Slice>, Settings)> {
    slices(models, sliced, None, &parameters)
}

fn slice(slice: FileSlice) -> Result<Slice> {
    if slice.residual_weight.is_some() {
        tracing::warn!("residual_weight of a slice has no effect, in mergekit neither");
    }
    let source = |source: FileSource| {
        let [first, end] = source.layer_range;
        if first >= end {
            return Err(wrong(format!("{}: layer_range [{first}, {end}] holds no layer", source.model)));
        }
        Ok(SliceSource { model: source.model, layers: Some(first..end), fisher: None, parameters: source.parameters.unwrap_or_default() })
    };
    let sources: Vec<SliceSource> = slice.sources.into_iter().map(source).collect::<Result<_>>()?;
    let lengths: Vec<usize> = sources.iter().filter_map(|source| source.layers.as_ref()).map(ExactSizeIterator::len).collect();
    if lengths.is_empty() {
        return Err(wrong("a slice has no sources"));
    }
    if lengths.iter().any(|length| *length != lengths[0]) {
        let ranges: Vec<_> = sources.iter().filter_map(|s| Some(format!("{} {:?}", s.model, s.layers.as_ref()?))).collect();
        return Err(wrong(format!("the layer_ranges of a slice must be of equal length: {}", ranges.join(", "))));
    }
    Ok(Slice { sources, base: slice.base_model, parameters: slice.parameters.unwrap_or_default() })
}

fn dtype(field: &str, name: &str) -> Result<Dtype> {
    match name.trim_start_matches("torch.") {
        "float32" => Ok(Dtype::F32),
        "bfloat16" => Ok(Dtype::BF16),
        "float16" => Ok(Dtype::F16),
        "float64" => Ok(Dtype::F64),
        _ => Err(wrong(format!("{field}: `{name}` is none of float32, bfloat16, float16 and float64"))),
    }
}

/// The text of a recipe file.
fn text(file: &Path) -> Result<String> {
    if file.is_dir() {
        return Err(Error::file(file, "a directory, where a recipe is asked for: a YAML file that names models and a merge_method"));
    }
    if !file.exists() {
        return Err(Error::file(file, "no such file; a recipe is a YAML file that names models and a merge_method"));
    }
    read_text(file)
}

/// Refuses fields that are none of `known`, naming the nearest.
fn known_fields(fields: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match fields.keys().find(|field| !known.contains(&field.as_str())) {
        None => Ok(()),
        Some(field) => {
            let near = nearest(field, known.iter().copied(), 1).join("");
            Err(format!("unknown field `{field}`, expected one of `{}`; the nearest is `{near}`", known.join("`, `")))
        }
    }
}

/// A mistake in a recipe.
fn wrong(reason: impl ToString) -> Error {
    Error::InvalidConfig(reason.to_string())
}

/// What is wrong, without the words that a file's name takes the place of.
fn reason(error: Error) -> String {
    match error {
        Error::InvalidConfig(reason) => reason,
        error => error.to_string(),
    }
}
