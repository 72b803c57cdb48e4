//! The Fisher information of all models of a merge: which weights it is for, and how large it is.

use super::file::{FISHER_FILE, FisherFile};
use crate::gram::dot;
use crate::models::{Model, is_head};
use crate::plan::Input;
use crate::recipe::{Recipe, SliceSource};
use crate::source::{Numbers, Source, Stored};
use crate::stack::{Block, Stack};
use peft_core::{Error, Result};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// What belongs to one task rather than to the body that models share, as architectures call it.
const TASK_HEADS: [&str; 8] = ["classifier", "score", "qa_outputs", "pooler", "pre_classifier", "cls", "lm_head", "vocab_projector"];

/// Files of Fisher information, in the order of the models in the recipe.
#[derive(Debug)]
pub(crate) struct Fishers {
    files: Vec<FisherFile>,
    /// The place of the model whose weights stay where nothing else is known.
    target: usize,
    scales: OnceLock<Vec<Scale>>,
    undecided: Arc<AtomicU64>,
}

/// How large the Fisher information of a model is, over all weights that are merged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Its length as one vector.
    pub norm: f64,
    /// The mean of its numbers.
    pub mean: f64,
}

/// What a rule knows beyond its weight.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Of each model, in the order of the recipe.
    pub scales: Vec<Scale>,
    /// The place of the target among them.
    pub target: usize,
    /// Counts numbers for which no model has any Fisher information.
    pub undecided: Arc<AtomicU64>,
}

/// What becomes of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is merged.
    Merged,
    /// The target's is taken.
    Kept,
    /// The target has no place for it.
    Dropped,
}

impl Fishers {
    /// Opens the files that a recipe needs; `None` for a method that needs none.
    ///
    /// # Errors
    /// As [`FisherFile::open`].
    pub fn open(recipe: &Recipe, models: &[Model]) -> Result<Option<Self>> {
        let [slice] = recipe.slices.as_slice() else { return Ok(None) };
        if !recipe.method.reads_fisher() {
            return Ok(None);
        }
        let open = |source: &SliceSource| {
            // All models that the recipe names were opened.
            let model = models.iter().find(|model| model.name == source.model).unwrap_or(&models[0]);
            let file = FisherFile::open(&fisher_path(source, &model.dir))?;
            if file.is_of(&model.checkpoint)? == Some(false) {
                tracing::warn!(
                    "{}: is the Fisher information of another model than {}; if the model has changed since, run `peft fisher` again",
                    file.path.display(),
                    model.name
                );
            }
            Ok(file)
        };
        let files = slice.sources.iter().map(open).collect::<Result<Vec<_>>>()?;
        let target = slice.sources.iter().position(|source| Some(&source.model) == recipe.base_of(slice)).unwrap_or(0);
        Ok(Some(Self { files, target, scales: OnceLock::new(), undecided: Arc::default() }))
    }

    /// The place of the target in the recipe.
    pub fn target(&self) -> usize {
        self.target
    }

    /// What becomes of the weight `key` of these models, in the order of the recipe.
    pub fn role(&self, key: &str, models: &[&Model]) -> Role {
        let head = key.split('.').any(|name| TASK_HEADS.contains(&name));
        let target = models[self.target].checkpoint.info(key);
        let shared = || {
            let same = |model: &&Model| model.checkpoint.info(key).map(|info| &info.shape) == target.map(|info| &info.shape);
            models.iter().all(same)
                && models.iter().zip(&self.files).all(|(model, file)| file.checkpoint.contains(fisher_key(key, model, file)))
        };
        match (head, target) {
            // Whatever is wrong with a weight of the body is told where it is planned.
            (false, _) => Role::Merged,
            (true, None) => Role::Dropped,
            (true, Some(_)) if shared() => Role::Merged,
            (true, Some(_)) => Role::Kept,
        }
    }

    /// The keys of the Fisher information of a weight of this shape, in the order of its inputs.
    ///
    /// # Errors
    /// [`Error::Tensor`] for Fisher information that is missing or has another shape or type.
    pub fn keys(&self, inputs: &[Input], models: &[Model], shape: &[usize]) -> Result<Vec<String>> {
        let key = |(input, file): (&Input, &FisherFile)| {
            let key = fisher_key(&input.key, &models[input.model], file);
            file.expect(key, shape).map(|_| key.to_string())
        };
        inputs.iter().zip(&self.files).map(key).collect()
    }

    /// The Fisher information `key` of the model at place `index`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is none.
    pub fn source(&self, index: usize, key: &str) -> Result<Source<'_>> {
        let FisherFile { path, checkpoint, .. } = &self.files[index];
        let bytes = checkpoint.bytes(key)?;
        let dtype = checkpoint.info(key).map_or(peft_core::files::Dtype::F32, |info| info.dtype);
        Ok(Source { label: format!("{}: tensor `{key}`", path.display()), numbers: Numbers::Stored(Stored { dtype, bytes }) })
    }

    /// Gives the memory of what has been read back.
    pub fn release(&self, keys: &[String]) {
        self.files.iter().zip(keys).for_each(|(file, key)| file.checkpoint.release(key));
    }

    /// The bytes of the Fisher information of a weight.
    pub fn bytes(&self, keys: &[String]) -> u64 {
        let bytes = |(file, key): (&FisherFile, &String)| file.checkpoint.info(key)?.num_bytes();
        self.files.iter().zip(keys).filter_map(bytes).sum::<usize>() as u64
    }

    /// For how many numbers no model had any so far.
    pub fn undecided(&self) -> u64 {
        self.undecided.load(Ordering::Relaxed)
    }

    /// Counts from 0 again.
    pub fn forget_undecided(&self) {
        self.undecided.store(0, Ordering::Relaxed);
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// What rules know beyond their weight. At first all of the Fisher information is read, weight by weight: `weights` are the lists of
    /// keys of those that are merged.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a number below zero; [`Error::NonFinite`].
    pub fn shared(&self, weights: &[Vec<String>]) -> Result<Shared> {
        let scales = match self.scales.get() {
            Some(scales) => scales.clone(),
            None => {
                let scales = (0..self.files.len()).map(|index| self.measure(index, weights)).collect::<Result<Vec<_>>>()?;
                self.scales.get_or_init(|| scales).clone()
            }
        };
        Ok(Shared { scales, target: self.target, undecided: self.undecided.clone() })
    }

    fn measure(&self, index: usize, weights: &[Vec<String>]) -> Result<Scale> {
        let (mut squares, mut sum, mut count) = (0.0, 0.0, 0);
        for keys in weights {
            let (key, file) = (&keys[index], &self.files[index]);
            let Some(info) = file.checkpoint.info(key) else { continue };
            let source = self.source(index, key)?;
            let label = source.label.clone();
            let stack = Stack { name: key, shape: &info.shape, base: None, others: vec![source] };
            let total = stack.fold(1, Total::of, Total::add).unwrap_or_default();
            file.checkpoint.release(key);
            if !total.sum.is_finite() || !total.least.is_finite() {
                return Err(Error::NonFinite { what: label });
            }
            if total.least < 0.0 {
                return Err(Error::Tensor {
                    file: file.path.clone(),
                    key: key.clone(),
                    expected: "squares of gradients, from 0 on".into(),
                    found: total.least.to_string(),
                });
            }
            squares += total.squares;
            sum += total.sum;
            count += stack.len();
        }
        Ok(Scale { norm: squares.sqrt(), mean: sum / count.max(1) as f64 })
    }
}

/// Sums over a stretch of Fisher information.
#[derive(Default)]
struct Total {
    squares: f64,
    sum: f64,
    least: f32,
}

impl Total {
    fn of(block: &Block) -> Self {
        let numbers = block.others[0];
        let least = numbers.iter().fold(0f32, |least, x| if x.is_nan() { *x } else { least.min(*x) });
        Self { squares: dot(numbers, numbers), sum: numbers.iter().map(|x| f64::from(*x)).sum(), least }
    }

    fn add(&mut self, other: Self) {
        self.squares += other.squares;
        self.sum += other.sum;
        self.least = self.least.min(other.least);
    }
}

/// Where a recipe has the Fisher information of a model whose directory is `dir`.
fn fisher_path(source: &SliceSource, dir: &Path) -> std::path::PathBuf {
    source.fisher.clone().unwrap_or_else(|| dir.join(FISHER_FILE))
}

/// The key of the Fisher information of a weight: its own, or the embedding's for a head that is stored beside the embedding that it shares.
fn fisher_key<'a>(key: &'a str, model: &'a Model, file: &FisherFile) -> &'a str {
    match is_head(key) && model.is_tied() && !file.checkpoint.contains(key) {
        true => model.embedding_key().unwrap_or(key),
        false => key,
    }
}
