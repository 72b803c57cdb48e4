//! What fine-tuning has changed.

use super::expert::{Kind, Reference};
use peft_core::files::{Checkpoint, Dtype, TensorInfo, read_json};
use peft_core::hf::{self, AdapterConfig, Key};
use peft_core::{CONFIG_FILE, Error, Result, TENSOR_FILE};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;

/// Numbers that are read at a time: small enough for the first-level cache, and whole words of a bit plane.
pub(super) const BLOCK: usize = 2048;

/// Tied tensors have at least this many elements. Smaller ones can be equal by chance: scales that are all one.
const TIED: usize = 4096;

/// What fine-tuning has changed, tensor by tensor, read from the files when it is needed.
#[derive(Debug)]
pub struct TaskVector {
    pub(super) kind: Kind,
    pub(super) tuned: Checkpoint,
    pub(super) base: Option<Checkpoint>,
    pub(super) parts: Vec<Part>,
    /// The content of the JSON files that belong to the tensors, by their names.
    pub(super) files: Map<String, Value>,
}

/// One tensor.
#[derive(Debug)]
pub(super) struct Part {
    pub name: String,
    pub info: TensorInfo,
    pub role: Role,
}

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Role {
    /// Its difference to this is compressed.
    Changed(Reference),
    /// It is kept as it is.
    Verbatim,
    /// It holds no floating-point numbers and is the base's own.
    Unchanged,
    /// It is the same as the part of this number.
    Copy(usize),
}

impl TaskVector {
    /// The change that the adapter in directory `dir` is: LoRA's matrices themselves, (IA)³'s scales less 1.
    ///
    /// Other tensors of the file (biases, magnitudes of DoRA, modules that were trained as a whole) are kept as they are.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`] if there is no such adapter, its type is neither `LORA` nor `IA3`, or it has not been
    /// converted from PiSSA's start, from which its matrices differ little.
    pub fn of_adapter(dir: &Path) -> Result<Self> {
        let config = AdapterConfig::read(dir)?;
        let wrong = |reason: String| Err(Error::file(config.file(), reason));
        if !matches!(config.kind, hf::Kind::Lora | hf::Kind::Ia3) {
            return wrong(format!("peft_type is `{}`; adapters of type LORA and IA3 can be compressed", config.kind.name()));
        }
        if let Some(init) = config.value["init_lora_weights"].as_str().filter(|init| hf::start(init) != hf::StartOf::Plain) {
            return wrong(format!(
                "the matrices of init_lora_weights `{init}` start from the weights, so that they are no change; convert the adapter to a plain \
                 LoRA first"
            ));
        }
        let tuned = Checkpoint::open_file(&dir.join(TENSOR_FILE))?;
        let part = |(name, info): (String, TensorInfo)| Part { role: adapter_role(&name), name, info };
        let parts = infos(&tuned).map(part).collect();
        let mut files = Map::from_iter([(CONFIG_FILE.to_owned(), config.value)]);
        add_files(&mut files, dir, &["labels.json"])?;
        Self { kind: Kind::Adapter, tuned, base: None, parts, files }.with_changes()
    }

    /// The change between the checkpoint in `base` and the one in `dir` that was fine-tuned from it. A tensor that the checkpoint holds
    /// twice (tied embeddings) counts once.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`] if one is no checkpoint; [`Error::File`] with the names of tensors that only one of them has
    /// or that have different shapes.
    pub fn of_checkpoint(dir: &Path, base: &Path) -> Result<Self> {
        let (tuned, base) = (Checkpoint::open(dir)?, Checkpoint::open(base)?);
        check_same(&tuned, &base)?;
        let mut parts: Vec<Part> = Vec::new();
        let mut seen: HashMap<Vec<usize>, Vec<usize>> = HashMap::new();
        for (name, info) in infos(&tuned) {
            let same = seen.entry(info.shape.clone()).or_default();
            let bytes = tuned.bytes(&name)?;
            let equals = |part: &Part| part.info == info && tuned.bytes(&part.name).ok() == Some(bytes);
            let tied = same.iter().find(|i| parts[**i].elements() >= TIED && equals(&parts[**i]));
            let role = match tied {
                Some(first) => Role::Copy(*first),
                None if is_float(info.dtype) => Role::Changed(Reference::Base { checksum: 0 }),
                None if base.bytes(&name)? == bytes => Role::Unchanged,
                None => Role::Verbatim,
            };
            same.push(parts.len());
            parts.push(Part { name, info, role });
        }
        let mut files = Map::new();
        add_files(&mut files, dir, &["config.json", "generation_config.json"])?;
        Self { kind: Kind::Checkpoint, tuned, base: Some(base), parts, files }.with_changes()
    }

    fn with_changes(self) -> Result<Self> {
        if self.changed().next().is_none() {
            return Err(Error::file(self.tuned.path(), "has no tensor that can be compressed"));
        }
        Ok(self)
    }

    /// The numbers of the parts that are compressed.
    pub(super) fn changed(&self) -> impl Iterator<Item = usize> + '_ {
        self.parts.iter().enumerate().filter(|(_, part)| matches!(part.role, Role::Changed(_))).map(|(i, _)| i)
    }

    /// How many numbers are compressed.
    pub fn elements(&self) -> u64 {
        self.changed().map(|i| self.parts[i].elements() as u64).sum()
    }

    /// Hand the change of `part` to `sink`, a block at a time and in order.
    pub(super) fn blocks(&self, part: &Part, mut sink: impl FnMut(&[f32])) -> Result<()> {
        let (mut tuned, mut base) = ([0f32; BLOCK], [0f32; BLOCK]);
        for first in (0..part.elements()).step_by(BLOCK) {
            let count = BLOCK.min(part.elements() - first);
            let block = &mut tuned[..count];
            self.tuned.read_f32s(&part.name, first, block)?;
            match (part.role, &self.base) {
                (Role::Changed(Reference::One), _) => block.iter_mut().for_each(|x| *x -= 1.0),
                (Role::Changed(Reference::Base { .. }), Some(checkpoint)) => {
                    checkpoint.read_f32s(&part.name, first, &mut base[..count])?;
                    block.iter_mut().zip(&base).for_each(|(x, base)| *x -= base);
                }
                _ => {}
            }
            sink(block);
        }
        Ok(())
    }
}

impl Part {
    pub fn elements(&self) -> usize {
        self.info.shape.iter().product()
    }
}

fn infos(checkpoint: &Checkpoint) -> impl Iterator<Item = (String, TensorInfo)> + '_ {
    checkpoint.keys().filter_map(|name| Some((name.to_owned(), checkpoint.info(name)?.clone())))
}

/// What becomes of a tensor of an adapter, by its name in HF PEFT's files.
fn adapter_role(name: &str) -> Role {
    let key = Key::parse(name).or_else(|| Key::on_module(name));
    match key.map(|key| key.part) {
        Some(hf::Part::Adapter(tensor)) => match tensor.as_str() {
            "lora_A.weight" | "lora_B.weight" | "lora_embedding_A" | "lora_embedding_B" => Role::Changed(Reference::Zero),
            "ia3_l" => Role::Changed(Reference::One),
            _ => Role::Verbatim,
        },
        _ => Role::Verbatim,
    }
}

pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Refuse checkpoints whose tensors have not the same names and shapes. The base may hold a tied tensor a second time.
fn check_same(tuned: &Checkpoint, base: &Checkpoint) -> Result<()> {
    let shape = |checkpoint: &Checkpoint, name: &str| match checkpoint.info(name) {
        Some(info) => format!("{:?}", info.shape),
        None => "nothing".into(),
    };
    let names: std::collections::BTreeSet<&str> = tuned.keys().chain(base.keys()).collect();
    let differing = names.iter().map(|name| (name, shape(tuned, name), shape(base, name))).filter(|(_, a, b)| a != b);
    let differing = differing.filter(|(name, ..)| tuned.contains(name) || !is_copy(base, name));
    let differing: Vec<_> = differing.map(|(name, a, b)| format!("`{name}` ({a} here, {b} in the base)")).collect();
    const SHOWN: usize = 5;
    let more = match differing.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match differing.is_empty() {
        true => Ok(()),
        false => {
            let list = differing[..differing.len().min(SHOWN)].join(", ");
            Err(Error::file(tuned.path(), format!("does not fit the base {}: {list}{more}", base.path().display())))
        }
    }
}

/// Whether another tensor of `checkpoint` equals the one called `name`.
fn is_copy(checkpoint: &Checkpoint, name: &str) -> bool {
    let content = |name: &str| (checkpoint.info(name).cloned(), checkpoint.bytes(name).ok());
    checkpoint.keys().any(|other| other != name && content(other) == content(name))
}

fn add_files(files: &mut Map<String, Value>, dir: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let path = dir.join(name);
        if path.is_file() {
            files.insert((*name).into(), read_json(&path)?);
        }
    }
    Ok(())
}
