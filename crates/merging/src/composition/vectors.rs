//! Task vectors of models in memory.

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor};
use peft_core::{Error, Parameter, Result, Site, gradients, parameters, with_parameters};
use std::collections::{BTreeMap, HashMap};

/// A base model and what fine-tuning has made of it, task by task: `τ_i = θ_i − θ⁰`.
///
/// Nothing but the models is in memory: `τ_{i,b}` of a parameter (a block) `b` is formed when it is asked for. Models may hold their
/// parameters in 16 bits or as mapped files.
pub struct TaskVectors<M> {
    base: M,
    names: Vec<String>,
    blocks: Vec<Block>,
    places: HashMap<String, usize>,
    device: Device,
}

struct Block {
    base: Parameter,
    tuned: Vec<Parameter>,
}

impl<M: Module> TaskVectors<M> {
    /// The vectors from `base` to each of the named models, over the parameters that `is_merged` selects. All others, such as heads,
    /// stay the base's, and need not be the same in the models.
    ///
    /// The base is on a device with autodiff, the models are on the same device with or without. Only parameters of floats take part.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without models or merged parameters, for two models of one name, for a base without autodiff, and with
    /// the names of parameters that a model lacks, has beside the base's, or has in another shape.
    pub fn new(base: M, models: Vec<(String, M)>, is_merged: impl Fn(&Site) -> bool) -> Result<Self> {
        let wrong = |reason: String| Err(Error::InvalidConfig(reason));
        if models.is_empty() {
            return wrong("there are no task vectors: name at least one fine-tuned model".into());
        }
        let merged = |model: &M| parameters(model).into_iter().filter(|parameter| is_merged(&parameter.site)).collect::<Vec<_>>();
        let mut blocks: Vec<Block> = merged(&base).into_iter().map(|base| Block { base, tuned: Vec::new() }).collect();
        if blocks.is_empty() {
            return wrong("no parameter of the base model is merged".into());
        }
        let mut names: Vec<String> = Vec::new();
        for (name, model) in models {
            if names.contains(&name) {
                return wrong(format!("two task vectors are called `{name}`"));
            }
            let tuned = matched(&name, &blocks, merged(&model))?;
            blocks.iter_mut().zip(tuned).for_each(|(block, tuned)| block.tuned.push(tuned));
            names.push(name);
        }
        let device = base.devices().into_iter().next().unwrap_or_default();
        if !device.is_autodiff() {
            return wrong("the base model of a merge that is trained must be on a device with autodiff (`Device::autodiff`)".into());
        }
        let places = blocks.iter().enumerate().map(|(place, block)| (block.base.site.path(), place)).collect();
        Ok(Self { base, names, blocks, places, device: device.without_autodiff() })
    }

    /// The names of the tasks.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of task vectors.
    pub fn tasks(&self) -> usize {
        self.names.len()
    }

    /// The merged parameters.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = &Site> {
        self.blocks.iter().map(|block| &block.base.site)
    }

    /// The merged parameter of this number.
    pub fn block(&self, block: usize) -> &Site {
        &self.blocks[block].base.site
    }

    /// The model that the vectors start from.
    pub fn base(&self) -> &M {
        &self.base
    }

    /// Where the vectors are formed, without autodiff.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// `τ_{i,b}`, flat, in f32.
    pub fn delta(&self, task: usize, block: usize) -> Tensor<1> {
        let Block { base, tuned } = &self.blocks[block];
        tuned[task].value() - base.value()
    }

    /// `τ_{i,b}` of all tasks.
    pub fn deltas(&self, block: usize) -> Vec<Tensor<1>> {
        let Block { base, tuned } = &self.blocks[block];
        let base = base.value();
        tuned.iter().map(|tuned| tuned.value() - base.clone()).collect()
    }

    /// The base with `change(b)` added to each merged parameter, nothing standing for zeros.
    ///
    /// The merged parameters are trained, so that the gradients of the model can be asked for, and all others are not.
    pub fn compose(&self, mut change: impl FnMut(usize) -> Option<Tensor<1>>) -> M {
        with_parameters(self.base.clone(), |site, value| {
            let block = *self.places.get(&site.path())?;
            Some(match change(block) {
                Some(change) => value + change,
                None => value,
            })
        })
    }

    /// The gradients of a composed model by block; nothing for blocks that the loss does not depend on.
    pub fn gradients(&self, composed: &M, found: Gradients) -> Vec<Option<Tensor<1>>> {
        let mut found: BTreeMap<String, Tensor<1>> = gradients(composed, found);
        self.blocks.iter().map(|block| found.remove(&block.base.site.path()).map(Tensor::without_autodiff)).collect()
    }
}

/// The parameters of a model in the order of the base's.
fn matched(name: &str, blocks: &[Block], tuned: Vec<Parameter>) -> Result<Vec<Parameter>> {
    let mut tuned: BTreeMap<String, Parameter> = tuned.into_iter().map(|parameter| (parameter.site.path(), parameter)).collect();
    let (mut found, mut differing) = (Vec::new(), Vec::new());
    for Block { base, .. } in blocks {
        let path = base.site.path();
        match tuned.remove(&path) {
            Some(parameter) if parameter.site.shape == base.site.shape => found.push(parameter),
            Some(other) => differing.push(format!("`{path}` ({:?} here, {:?} in the base)", other.site.shape, base.site.shape)),
            None => differing.push(format!("`{path}` (missing)")),
        }
    }
    differing.extend(tuned.into_keys().map(|path| format!("`{path}` (not in the base)")));
    match differing.is_empty() {
        true => Ok(found),
        false => Err(Error::InvalidConfig(format!("the model of task `{name}` does not fit the base: {}", differing.join(", ")))),
    }
}
