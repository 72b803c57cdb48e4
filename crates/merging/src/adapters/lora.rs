//! A LoRA adapter's files, opened.

use super::config::Config;
use crate::compeft::{self, Expert};
use peft_core::files::{Checkpoint, TensorInfo};
use peft_core::hf::{AdapterConfig, AdapterFiles, Key, LeftOut, PREFIX, Part};
use peft_core::{CONFIG_FILE, Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A plain LoRA: two matrices for each module, whose scaled product is the change of the module's weight.
#[derive(Debug)]
pub struct Lora {
    /// What results and errors call it.
    pub name: String,
    /// Its directory, or its compressed file.
    pub path: PathBuf,
    /// The modules that it adapts.
    pub sites: BTreeMap<String, Site>,
    pub(crate) config: Config,
    pub(crate) tensors: Checkpoint,
    /// Tensors that take the place of the base's, each with the base's key.
    pub(crate) whole: Vec<Whole>,
    /// Modules whose tensors the configuration does not select.
    pub(crate) left_out: LeftOut,
}

/// The matrices of one module, which HF PEFT stores as `A: [rank, columns]` and `B: [rows, rank]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Whether the module is an embedding, whose weight is the transposed product.
    pub embedding: bool,
    /// The rank.
    pub rank: usize,
    /// What goes into a linear map, the vocabulary of an embedding, channels and places of a convolution's kernel.
    pub columns: usize,
    /// What comes out.
    pub rows: usize,
    /// The further axes of a convolution's kernel.
    pub kernel: Vec<usize>,
    /// The factor of the product.
    pub scaling: f64,
}

/// A tensor that takes the place of one of the base.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Its key in the adapter's file.
    pub key: String,
    /// The base's key.
    pub replaces: String,
}

/// The numbers of a module's matrices, row-major.
#[derive(Clone, Debug)]
pub struct Factors {
    /// `A: [rank, columns]`.
    pub a: Vec<f32>,
    /// `B: [rows, rank]`.
    pub b: Vec<f32>,
}

impl Lora {
    /// Opens the adapter in the directory, or in the compressed file, `path`; `name` is what it is called.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`] if there is no adapter, or one that is no plain LoRA; [`Error::Tensor`] for a tensor that is
    /// missing, does not belong to a LoRA, or has another rank than the configuration says.
    pub fn open(name: &str, path: &Path) -> Result<Self> {
        let files = if path.is_file() { compressed(path)? } else { AdapterFiles::open(path)? };
        let config = Config::new(files.config.clone(), &files.modules())?;
        let tensors = files.tensors;
        let mut parts: BTreeMap<(String, bool), [Option<&str>; 2]> = BTreeMap::new();
        let mut base = Vec::new();
        for key in tensors.keys() {
            let parsed = Key::parse(key);
            let place = match &parsed {
                Some(Key { part: Part::Adapter(name), .. }) => matrix(name),
                Some(Key { module, part: Part::Whole { field, adapted, .. }, .. }) => {
                    base.push((key, module.clone(), field.clone(), *adapted));
                    continue;
                }
                _ => None,
            };
            let (Some((embedding, i)), Some(parsed)) = (place, parsed) else {
                return Err(Error::Tensor {
                    file: tensors.path().into(),
                    key: key.into(),
                    expected: format!("a tensor of a plain LoRA, such as {PREFIX}….lora_A.weight"),
                    found: "another".into(),
                });
            };
            parts.entry((parsed.module, embedding)).or_default()[i] = Some(key);
        }
        let (mut sites, mut left_out) = (BTreeMap::new(), LeftOut::default());
        let selection = config.selection()?;
        for ((module, embedding), keys) in parts {
            let linear = !embedding && keys.iter().flatten().all(|key| tensors.info(key).is_some_and(|info| info.shape.len() == 2));
            if config.saved(&module).is_some() || !selection.includes(&module, linear)? {
                left_out.add(&module);
                continue;
            }
            let site = site(&tensors, &config, &module, embedding, keys)?;
            sites.insert(module, site);
        }
        let mut whole = Vec::new();
        for (key, module, field, adapted) in base {
            match adapted == sites.contains_key(&module) {
                true => whole.push(Whole { key: key.into(), replaces: format!("{module}.{field}") }),
                false => left_out.add(&module),
            }
        }
        drop(selection);
        left_out.warn(tensors.path());
        if sites.is_empty() {
            return Err(Error::file(tensors.path(), "holds no matrices of LoRA of modules that its configuration selects"));
        }
        Ok(Self { name: name.into(), path: path.into(), sites, config, tensors, whole, left_out })
    }

    /// The matrices of a module.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming a tensor that holds what is no number; [`Error::Tensor`] if the module is not adapted.
    pub fn factors(&self, module: &str) -> Result<Factors> {
        let [a, b] = keys(module, self.sites.get(module).is_some_and(|site| site.embedding));
        let read = |key: String| -> Result<Vec<f32>> {
            let numbers = self.tensors.f32s(&key)?;
            match numbers.iter().all(|x| x.is_finite()) {
                true => Ok(numbers),
                false => Err(Error::NonFinite { what: format!("{}: tensor `{key}`", self.tensors.path().display()) }),
            }
        };
        Ok(Factors { a: read(a)?, b: read(b)? })
    }
}

/// The keys of a module's matrices.
pub(crate) fn keys(module: &str, embedding: bool) -> [String; 2] {
    let names = if embedding { ["lora_embedding_A", "lora_embedding_B"] } else { ["lora_A.weight", "lora_B.weight"] };
    names.map(|name| format!("{PREFIX}{module}.{name}"))
}

fn compressed(file: &Path) -> Result<AdapterFiles> {
    let expert = Expert::read(file)?;
    let config = expert.files.get(CONFIG_FILE).filter(|_| expert.kind == compeft::Kind::Adapter);
    let config = config.cloned().ok_or_else(|| Error::file(file, "is a compressed checkpoint and no adapter"))?;
    AdapterFiles::new(AdapterConfig::new(config, file)?, &expert.tensors(None, file)?)
}

/// Whether a matrix of this name is of an embedding, and its place beside the other.
fn matrix(name: &str) -> Option<(bool, usize)> {
    match name {
        "lora_A.weight" => Some((false, 0)),
        "lora_B.weight" => Some((false, 1)),
        "lora_embedding_A" => Some((true, 0)),
        "lora_embedding_B" => Some((true, 1)),
        _ => None,
    }
}

fn site(tensors: &Checkpoint, config: &Config, module: &str, embedding: bool, found: [Option<&str>; 2]) -> Result<Site> {
    let names = keys(module, embedding);
    let wrong =
        |i: usize, expected: String, found: String| Error::Tensor { file: tensors.path().into(), key: names[i].clone(), expected, found };
    let shape = |i: usize| -> Result<&[usize]> {
        let info: Option<&TensorInfo> = found[i].and_then(|key| tensors.info(key));
        let info = info.ok_or_else(|| wrong(i, format!("a tensor beside `{}`", names[1 - i]), "nothing".into()))?;
        Ok(&info.shape)
    };
    let (a, b) = (shape(0)?, shape(1)?);
    let rank = config.rank_at(module)?;
    let mismatch = |i: usize, expected: String, found: &[usize]| Err(wrong(i, expected, format!("shape {found:?}")));
    let [stored, inputs, kernel @ ..] = a else { return mismatch(0, "two axes or more".into(), a) };
    if *stored != rank || rank == 0 {
        return mismatch(0, format!("rank {rank} as {CONFIG_FILE} says, and above 0"), a);
    }
    let [rows, ranks, ones @ ..] = b else { return mismatch(1, "two axes or more".into(), b) };
    if *ranks != rank || ones.len() != kernel.len() || ones.iter().any(|one| *one != 1) {
        return mismatch(1, format!("shape {:?}", [vec![*rows, rank], vec![1; kernel.len()]].concat()), b);
    }
    let columns = inputs * kernel.iter().product::<usize>();
    Ok(Site { embedding, rank, columns, rows: *rows, kernel: kernel.into(), scaling: config.scaling_at(module)? })
}
