//! What a merge computes: each weight of the result, from where, and how.

use crate::alignment::{Alignment, Table, embedding_rows};
use crate::fisher::{Fishers, Role, Shared};
use crate::layers::{Place, depth, is_before_layers, is_ignored, key_of, place, suffixes};
use crate::method::{BaseUse, Values};
use crate::models::{Model, ModelDir, is_by_token, is_head, open_all};
use crate::recipe::{ModelRef, Recipe, Slice, SliceSource, Vocabulary};
use crate::rules::{Passthrough, Rule};
use crate::settings::{Asked, resolve};
use crate::source::{Numbers, Source};
use crate::tokenizer::Tokenizer;
use peft_core::files::{Dtype, TensorInfo};
use peft_core::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// A merge that is ready to run.
#[derive(Debug)]
pub struct Plan {
    /// What was asked for.
    pub recipe: Recipe,
    /// The models that take part; the first gives the configuration and the tokenizer.
    pub models: Vec<Model>,
    /// The weights of the result.
    pub weights: Vec<Weight>,
    /// The vocabulary of the result, where it is made anew.
    pub alignment: Option<Alignment>,
    /// What random numbers start from.
    pub seed: u64,
    /// The models' Fisher information, where the method reads it.
    pub(crate) fishers: Option<Fishers>,
}

/// One weight of the result.
#[derive(Debug)]
pub struct Weight {
    /// Its name.
    pub name: String,
    /// Its type and shape.
    pub info: TensorInfo,
    /// Its inputs; the base, where it is told apart, comes last.
    pub inputs: Vec<Input>,
    /// The keys of the Fisher information of each input; empty where none is read.
    pub fishers: Vec<String>,
    /// Whether the last input is a base that is told apart.
    pub has_base: bool,
    /// Whether it has a row for each token, which are brought to one vocabulary.
    pub aligned: bool,
    /// How it is merged; `None` for integers, which are copied.
    pub rule: Option<Box<dyn Rule>>,
    /// The settings of the rule, for people.
    pub settings: String,
}

/// A weight of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The model's number.
    pub model: usize,
    /// The key under which it is stored.
    pub key: String,
}

/// A weight of the result that is to be planned.
struct Site<'r> {
    name: String,
    slice: &'r Slice,
    /// How far it is from the first layer to the last.
    depth: f64,
    /// The only source of the slice that it is taken from; `None` if it is made of all.
    only: Option<usize>,
    /// Its key in each source.
    keys: Vec<String>,
}

impl Plan {
    /// Opens the models, which lie where `dirs` says, and plans each weight. No weight is read; Fisher information is, for its norms.
    ///
    /// # Errors
    /// Whatever opening a model says; [`Error::Tensor`] for a weight that a model lacks or has in another shape or in a type that
    /// cannot be merged; [`Error::InvalidConfig`] for settings that are missing or out of range, layers that do not exist, and
    /// vocabularies that differ without a word about it in the recipe.
    pub fn new(recipe: Recipe, dirs: &BTreeMap<ModelRef, ModelDir>, seed: u64) -> Result<Self> {
        let models = open_all(&recipe.models(), dirs)?;
        let extra = match recipe.tokenizer.as_ref().map(|tokenizer| &tokenizer.source) {
            Some(Vocabulary::Of(model)) if !models.iter().any(|m| m.name == *model) => {
                dirs.get(model).map(|dir| Tokenizer::read(&dir.model)).transpose()?.flatten()
            }
            _ => None,
        };
        let alignment = Alignment::new(&recipe, &models, extra)?;
        if alignment.is_none() {
            check_tokenizers(&models)?;
        }
        let fishers = Fishers::open(&recipe, &models)?;
        let mut plan = Self { models, weights: Vec::new(), alignment, seed, recipe, fishers };
        plan.weights = plan.planned()?;
        Ok(plan)
    }

    /// The weights of the result, as the recipe has them now.
    pub(crate) fn planned(&self) -> Result<Vec<Weight>> {
        let Self { recipe, models, alignment, seed, fishers, .. } = self;
        let planner = Planner { recipe, models, alignment: alignment.as_ref(), seed: *seed, fishers: fishers.as_ref() };
        let sites = planner.sites()?;
        let mut weights = sites.iter().map(|site| planner.weight(site)).collect::<Result<Vec<_>>>()?;
        let merged: Vec<Vec<String>> = weights.iter().map(|weight| weight.fishers.clone()).filter(|keys| !keys.is_empty()).collect();
        let shared = fishers.as_ref().map(|fishers| fishers.shared(&merged)).transpose()?;
        for (weight, site) in weights.iter_mut().zip(&sites).filter(|(weight, _)| is_floating(weight.info.dtype)) {
            let (rule, settings) = planner.rule(site, shared.as_ref())?;
            (weight.rule, weight.settings) = (Some(rule), settings);
        }
        Ok(weights)
    }

    /// For how many numbers computed so far no model had any Fisher information, so that the target's were taken.
    pub fn undecided(&self) -> u64 {
        self.fishers.as_ref().map_or(0, Fishers::undecided)
    }

    /// The inputs of a weight, ready to be read: the base, if it is told apart, and the others; behind these their Fisher information.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if the recipe takes a token's row from a model that lacks it, or brings a table to another vocabulary
    /// that an adapter changes; [`Error::NonFinite`] for an adapter with what is no number.
    pub fn sources<'a>(&'a self, weight: &'a Weight) -> Result<(Option<Source<'a>>, Vec<Source<'a>>)> {
        let label = |input: &Input| format!("{}: tensor `{}`", self.models[input.model].name, input.key);
        let mut sources = Vec::with_capacity(weight.inputs.len());
        match &self.alignment {
            Some(alignment) if weight.aligned => {
                let table = |input: &'a Input| -> Result<Table<'a>> {
                    let model = &self.models[input.model];
                    let Numbers::Stored(stored) = model.numbers(&input.key)? else { return Err(no_table(model, &input.key)) };
                    Ok(Table { index: input.model, model, info: model.info(&input.key)?, stored })
                };
                let tables = weight.inputs.iter().map(table).collect::<Result<Vec<_>>>()?;
                let base = self.recipe.base.as_ref().and_then(|base| self.models.iter().position(|model| model.name == *base));
                for (input, rows) in weight.inputs.iter().zip(alignment.rows(&tables, base)?) {
                    sources.push(Source { label: label(input), numbers: Numbers::Rows(rows) });
                }
            }
            _ => {
                for input in &weight.inputs {
                    sources.push(Source { label: label(input), numbers: self.models[input.model].numbers(&input.key)? });
                }
            }
        }
        let base = if weight.has_base { sources.pop() } else { None };
        if let Some(fishers) = &self.fishers {
            let fishers = weight.fishers.iter().enumerate().map(|(index, key)| fishers.source(index, key));
            sources.extend(fishers.collect::<Result<Vec<_>>>()?);
        }
        Ok((base, sources))
    }

    /// The number of bytes of all weights of the result.
    pub fn bytes(&self) -> u64 {
        self.weights.iter().map(Weight::num_bytes).sum()
    }

    /// The layers of the result, where the recipe lists slices.
    pub fn layers(&self) -> Option<usize> {
        let lengths = self.recipe.slices.iter().map(|slice| slice.sources.first()?.layers.as_ref().map(ExactSizeIterator::len));
        lengths.sum()
    }
}

impl Weight {
    /// The number of bytes it takes in a file.
    pub fn num_bytes(&self) -> u64 {
        self.info.num_bytes().unwrap_or(0) as u64
    }
}

/// What planning a weight looks at.
struct Planner<'r> {
    recipe: &'r Recipe,
    models: &'r [Model],
    alignment: Option<&'r Alignment>,
    seed: u64,
    fishers: Option<&'r Fishers>,
}

impl<'r> Planner<'r> {
    fn model(&self, name: &ModelRef) -> (usize, &'r Model) {
        // All models that the recipe names were opened.
        let index = self.models.iter().position(|model| model.name == *name).unwrap_or(0);
        (index, &self.models[index])
    }

    fn sites(&self) -> Result<Vec<Site<'r>>> {
        let mut sites = Vec::new();
        match self.recipe.slices.as_slice() {
            [slice] if slice.sources.iter().all(|source| source.layers.is_none()) => self.whole(slice, &mut sites)?,
            slices => self.stacked(slices, &mut sites)?,
        }
        Ok(sites)
    }

    /// Whole models: every weight that any of them has.
    fn whole(&self, slice: &'r Slice, sites: &mut Vec<Site<'r>>) -> Result<()> {
        let models: Vec<&Model> = slice.sources.iter().map(|source| self.model(&source.model).1).collect();
        for key in self.union(&models, |_| true) {
            let depth = match place(key) {
                Some(place) => depth(place.layer, models[0].layers.count(place.prefix)),
                None => 0.0,
            };
            let (role, target) = self.fishers.map_or((Role::Merged, 0), |fishers| (fishers.role(key, &models), fishers.target()));
            match role {
                Role::Merged => sites.push(self.site(key, slice, depth, &models, &vec![key.to_owned(); models.len()])?),
                Role::Kept => {
                    let site = self.site(key, slice, depth, &models[target..=target], &[key.to_owned()])?;
                    sites.push(Site { only: Some(target), ..site });
                }
                Role::Dropped => {}
            }
        }
        Ok(())
    }

    /// Layers one slice after the other; what comes before them from the first slice, what comes after from the last.
    fn stacked(&self, slices: &'r [Slice], sites: &mut Vec<Site<'r>>) -> Result<()> {
        let mut layer = 0;
        for (i, slice) in slices.iter().enumerate() {
            let models: Vec<&Model> = slice.sources.iter().map(|source| self.model(&source.model).1).collect();
            for (position, wanted) in [(0, true), (slices.len() - 1, false)] {
                if i == position {
                    for key in self.union(&models, |key| place(key).is_none() && is_before_layers(key) == wanted) {
                        sites.push(self.site(key, slice, 0.0, &models, &vec![key.to_owned(); models.len()])?);
                    }
                }
            }
            let ranges = slice.sources.iter().map(|source| source.layers.clone().unwrap_or(0..0)).collect::<Vec<_>>();
            let prefixes = models.iter().zip(&ranges).map(|(model, range)| stack_of(model, range.end)).collect::<Result<Vec<_>>>()?;
            for offset in 0..ranges[0].len() {
                let at = depth(offset, ranges[0].len());
                let layers: Vec<usize> = ranges.iter().map(|range| range.start + offset).collect();
                let names: BTreeSet<&str> =
                    models.iter().zip(&layers).flat_map(|(m, layer)| suffixes(m.checkpoint.keys(), *layer)).collect();
                for suffix in names {
                    let name = key_of(&Place { prefix: prefixes[0], layer, suffix });
                    let keys: Vec<String> =
                        prefixes.iter().zip(&layers).map(|(prefix, layer)| key_of(&Place { prefix, layer: *layer, suffix })).collect();
                    sites.push(self.site(&name, slice, at, &models, &keys)?);
                }
                layer += 1;
            }
        }
        self.head_of_last(slices, sites)
    }

    /// The head of the last slice, where its models share it with their embedding, which is not the one of the first slice.
    fn head_of_last(&self, slices: &'r [Slice], sites: &mut Vec<Site<'r>>) -> Result<()> {
        let [first, .., last] = slices else { return Ok(()) };
        let names = |slice: &'r Slice| slice.sources.iter().map(|source| &source.model).collect::<Vec<_>>();
        let models: Vec<&Model> = names(last).into_iter().map(|name| self.model(name).1).collect();
        if names(first) == names(last) || sites.iter().any(|site| is_head(&site.name)) || !models.iter().all(|model| model.is_tied()) {
            return Ok(());
        }
        let nested = models[0].embedding_key().is_some_and(|key| key.starts_with("language_model."));
        let head = if nested { "language_model.lm_head.weight" } else { "lm_head.weight" };
        sites.push(self.site(head, last, 0.0, &models, &vec![head.to_owned(); models.len()])?);
        Ok(())
    }

    fn union<'m>(&self, models: &[&'m Model], wanted: impl Fn(&str) -> bool) -> BTreeSet<&'m str> {
        models.iter().flat_map(|model| model.keys()).filter(|key| !is_ignored(key) && wanted(key)).collect()
    }

    fn site(&self, name: &str, slice: &'r Slice, depth: f64, models: &[&Model], keys: &[String]) -> Result<Site<'r>> {
        let stored = models.iter().zip(keys).map(|(model, key)| {
            let found = model.stored_key(key).map(str::to_owned);
            found.ok_or_else(|| {
                let other = models.iter().zip(keys).find(|(other, key)| other.checkpoint.contains(key));
                let other = other.map_or_else(String::new, |(other, _)| format!(", as {} has it", other.name));
                Error::Tensor { file: model.dir.clone(), key: key.clone(), expected: format!("a tensor{other}"), found: "nothing".into() }
            })
        });
        Ok(Site { name: name.into(), slice, depth, only: None, keys: stored.collect::<Result<_>>()? })
    }

    /// The sources that a weight is taken from.
    fn sources(&self, site: &Site<'r>) -> &'r [SliceSource] {
        match site.only {
            Some(only) => &site.slice.sources[only..=only],
            None => &site.slice.sources,
        }
    }

    /// The place of the base that is told apart.
    fn base(&self, site: &Site<'r>) -> Option<usize> {
        let base = self.recipe.base_of(site.slice).filter(|_| self.recipe.method.base != BaseUse::Ordinary)?;
        self.sources(site).iter().position(|source| source.model == *base)
    }

    /// A weight without its rule.
    fn weight(&self, site: &Site<'r>) -> Result<Weight> {
        let keys = self.sources(site).iter().zip(&site.keys);
        let mut inputs: Vec<Input> = keys.map(|(source, key)| Input { model: self.model(&source.model).0, key: key.clone() }).collect();
        let aligned = self.alignment.is_some() && is_by_token(&site.name);
        let changed = |input: &&Input| self.models[input.model].changes.as_ref().is_some_and(|changes| changes.adds_to(&input.key));
        if let Some(input) = inputs.iter().find(changed).filter(|_| aligned) {
            return Err(no_table(&self.models[input.model], &input.key));
        }
        let info = self.info(site, &inputs, aligned)?;
        let base = self.base(site);
        if let Some(base) = base {
            let base = inputs.remove(base);
            inputs.push(base);
        }
        let fishers = match self.fishers {
            Some(fishers) if site.only.is_none() && is_floating(info.dtype) => fishers.keys(&inputs, self.models, &info.shape)?,
            _ => Vec::new(),
        };
        let (has_base, name) = (base.is_some(), site.name.clone());
        Ok(Weight { info, inputs, fishers, has_base, aligned, rule: None, settings: String::new(), name })
    }

    /// How a weight is merged, and its settings as people read them.
    fn rule(&self, site: &Site<'r>, fisher: Option<&Shared>) -> Result<(Box<dyn Rule>, String)> {
        let Site { slice, depth, keys, name, only } = site;
        if let Some(only) = only {
            return Ok((Box::new(Passthrough { scale: None }), format!("that of {}", slice.sources[*only].model)));
        }
        let method = self.recipe.method;
        let shared = Asked { method, name, depth: *depth, scopes: &[&slice.parameters, &self.recipe.parameters], model: None };
        let base = self.base(site);
        let others = slice.sources.iter().zip(keys).enumerate().filter(|(i, _)| Some(*i) != base);
        let models = others.map(|(_, (source, key))| {
            let scopes = [&source.parameters, &slice.parameters, &self.recipe.parameters];
            resolve(&Asked { method, name: key, depth: *depth, scopes: &scopes, model: Some(&source.model) })
        });
        let models = models.collect::<Result<_>>()?;
        let values = Values { shared: resolve(&shared)?, models, seed: self.seed, fisher: fisher.cloned() };
        let rule = method.rule(&values).map_err(|e| match e {
            Error::InvalidConfig(reason) => Error::InvalidConfig(format!("`{name}`: {reason}")),
            e => e,
        })?;
        Ok((rule, values.describe(method)))
    }

    /// Type and shape of the result, if the inputs agree.
    fn info(&self, site: &Site, inputs: &[Input], aligned: bool) -> Result<TensorInfo> {
        let infos = inputs.iter().map(|input| self.models[input.model].info(&input.key)).collect::<Result<Vec<_>>>()?;
        let first = infos[0];
        for (input, info) in inputs.iter().zip(&infos) {
            let model = &self.models[input.model];
            let mismatch =
                |expected: String, found: String| Error::Tensor { file: model.dir.clone(), key: input.key.clone(), expected, found };
            let skip = usize::from(aligned);
            if info.shape.len() != first.shape.len() || info.shape.iter().skip(skip).ne(first.shape.iter().skip(skip)) {
                let mut expected = format!("shape {:?} as in {}", first.shape, self.models[inputs[0].model].name);
                if !aligned && is_by_token(&site.name) {
                    expected += " (or a tokenizer_source in the recipe, which brings vocabularies together)";
                }
                return Err(mismatch(expected, format!("shape {:?}", info.shape)));
            }
            if is_floating(info.dtype) != is_floating(first.dtype) || (!is_floating(info.dtype) && info.dtype != first.dtype) {
                return Err(mismatch(format!("{} as in {}", first.dtype, self.models[inputs[0].model].name), info.dtype.to_string()));
            }
            if !is_floating(info.dtype) && !is_integer(info.dtype) {
                return Err(mismatch("f32, f16 or bf16".into(), info.dtype.to_string()));
            }
        }
        let dtype = match self.recipe.out_dtype.or(self.recipe.dtype) {
            Some(dtype) if is_floating(first.dtype) => dtype,
            _ => infos.iter().map(|info| info.dtype).reduce(promoted).unwrap_or(first.dtype),
        };
        let mut shape = first.shape.clone();
        if let (true, Some(alignment), Some(rows)) = (aligned, self.alignment, shape.first_mut()) {
            *rows = alignment.rows;
        }
        Ok(TensorInfo { dtype, shape })
    }
}

/// The only stack of layers of a model, if it has the first `end` of them.
fn stack_of(model: &Model, end: usize) -> Result<&str> {
    let (prefix, count) = model.layers.only().map_err(|stacks| {
        let stacks = if stacks.is_empty() { "none".into() } else { stacks.join(", ") };
        Error::InvalidConfig(format!("{}: slices need a model with one stack of layers, this one has: {stacks}", model.name))
    })?;
    match end <= count {
        true => Ok(prefix),
        false => Err(Error::InvalidConfig(format!("layer_range: {} has {count} layers, the slice ends at {end}", model.name))),
    }
}

/// Rows of a table are taken as they are stored.
fn no_table(model: &Model, key: &str) -> Error {
    Error::InvalidConfig(format!(
        "{}: its adapter changes `{key}`, which cannot be brought to another vocabulary on the way; put it into its model first, with \
         `peft merge-adapter`",
        model.name
    ))
}

/// Whether a type is one of numbers that can be averaged.
pub(crate) fn is_floating(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

fn is_integer(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::BOOL | Dtype::U8 | Dtype::I8 | Dtype::I16 | Dtype::U16 | Dtype::I32 | Dtype::U32 | Dtype::I64 | Dtype::U64)
}

/// The type that holds the numbers of both.
fn promoted(a: Dtype, b: Dtype) -> Dtype {
    match (a, b) {
        (a, b) if a == b => a,
        (Dtype::F64, _) | (_, Dtype::F64) => Dtype::F64,
        _ => Dtype::F32,
    }
}

/// Rows with the same number must mean the same token.
fn check_tokenizers(models: &[Model]) -> Result<()> {
    let with = models.iter().filter_map(|model| Some((model, model.tokenizer.as_ref()?))).collect::<Vec<_>>();
    let Some((first, tokenizer)) = with.first() else { return Ok(()) };
    for (model, other) in &with[1..] {
        let rows = embedding_rows(first).min(embedding_rows(model));
        if let Some(difference) = tokenizer.difference(other, rows) {
            return Err(Error::InvalidConfig(format!(
                "the tokenizers of {} and {} differ: {difference}; say which tokens the result has: tokenizer_source: base, union, or a model",
                first.name, model.name
            )));
        }
    }
    Ok(())
}
