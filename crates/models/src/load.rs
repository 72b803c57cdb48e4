//! Filling a module's parameters, from a checkpoint or at random, by walking the module.
//!
//! A parameter's path is its key, so that no list of names is written by hand. Parameters are lazy until they are filled: a
//! module of any size costs nothing before its checkpoint has been checked.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Distribution, Tensor};
use peft_core::files::{Checkpoint, Dtype};
use peft_core::{Result, seed};
use std::collections::HashSet;

/// Where the parameters of a module come from.
pub(crate) struct Source<'a> {
    /// Holds them.
    pub checkpoint: &'a Checkpoint,
    /// Where they go.
    pub device: &'a Device,
    /// Converts the weights; without it they keep the type of the file.
    pub dtype: Option<DType>,
    /// The key of the parameter at a path; nothing for a parameter that stays as it is.
    pub key: &'a dyn Fn(&str) -> Option<String>,
    /// Whether a tensor that the module does not need is expected.
    pub ignore: &'a dyn Fn(&str) -> bool,
}

/// Fill `module` from a checkpoint, frozen.
///
/// # Errors
/// For a tensor that is missing or has another shape or kind than the module needs. All are checked before the first is read.
///
/// Tensors that the module does not need are reported as a warning, except those that are expected.
pub(crate) fn load<M: Module>(module: M, source: &Source) -> Result<M> {
    let mut check = Check { source, path: Path::default(), keys: HashSet::new(), result: Ok(()) };
    module.visit(&mut check);
    check.result?;
    let checkpoint = source.checkpoint;
    for key in checkpoint.keys().filter(|key| !check.keys.contains(*key) && !(source.ignore)(key)) {
        tracing::warn!("{}: the model has no parameter for tensor `{key}`", checkpoint.path().display());
    }
    let mut fill = Fill { source, path: Path::default(), result: Ok(()) };
    let module = module.map(&mut fill);
    fill.result.map(|()| module)
}

/// Fill the parameters of `module` whose paths `which` selects with normal numbers of deviation `std` that `seed` and each path
/// determine, biases with zeros and scales with ones.
pub(crate) fn randomize<M: Module>(module: M, std: f64, seed: u64, device: &Device, which: impl Fn(&str) -> bool) -> M {
    module.map(&mut Randomize { std, seed, device, path: Path::default(), which })
}

/// Fill `module` with frozen numbers of deviation `std` and type `dtype` that the device draws, biases with zeros and scales with ones.
///
/// They lie in memory as those of a checkpoint do.
pub(crate) fn draw<M: Module>(module: M, std: f64, device: &Device, dtype: DType) -> M {
    module.map(&mut Draw { std, device, dtype, path: Path::default() })
}

/// Where a traversal stands: the names on the way, and the kind of module that owns the last.
#[derive(Default)]
struct Path {
    names: Vec<String>,
    owners: Vec<String>,
}

impl Path {
    fn enter(&mut self, name: &str, owner: &str) {
        self.names.push(name.into());
        self.owners.push(owner.into());
    }

    fn exit(&mut self) {
        self.names.pop();
        self.owners.pop();
    }

    fn key(&self) -> String {
        self.names.join(".")
    }

    fn name(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }

    fn owned_by(&self, owner: &str) -> bool {
        self.owners.last().and_then(|o| o.strip_prefix("Struct:")) == Some(owner)
    }

    /// Whether the parameter multiplies what a norm has normalised.
    fn is_scale(&self) -> bool {
        self.owned_by("RmsNorm") || self.owned_by("LayerNorm")
    }

    /// Whether checkpoints keep the parameter transposed: PyTorch has `[out, in]` where Burn has `[in, out]`.
    fn is_transposed(&self) -> bool {
        self.owned_by("Linear") && self.name() == "weight"
    }

    /// The shape in a checkpoint of the parameter at this path.
    fn file_shape<const D: usize>(&self, param: &Param<Tensor<D>>) -> [usize; D] {
        let mut shape = param.lazy_shape().dims();
        if self.is_transposed() {
            shape.reverse();
        }
        shape
    }
}

struct Check<'a> {
    source: &'a Source<'a>,
    path: Path,
    keys: HashSet<String>,
    result: Result<()>,
}

impl ModuleVisitor for Check<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.path.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Source { checkpoint, device, .. } = self.source;
        let Some(key) = (self.source.key)(&self.path.key()) else { return };
        let shape = self.path.file_shape(param);
        let floats = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];
        let fits = checkpoint.info(&key).is_some_and(|info| info.shape == shape && floats.contains(&info.dtype));
        if !fits && self.result.is_ok() {
            // Reading what does not fit fails before anything is read, with the reason.
            self.result = checkpoint.float(&key, shape, None, device).map(drop);
        }
        self.keys.insert(key);
    }
}

struct Fill<'a> {
    source: &'a Source<'a>,
    path: Path,
    result: Result<()>,
}

impl ModuleMapper for Fill<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.path.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.result.is_err() {
            return param;
        }
        let Source { checkpoint, device, dtype, .. } = self.source;
        let Some(key) = (self.source.key)(&self.path.key()) else { return param };
        let shape = self.path.file_shape(&param);
        // Weights live as long as the program: kept apart, they do not fragment the device's memory.
        let read = |()| checkpoint.float(&key, shape, *dtype, device);
        match device.memory_persistent_allocations((), read) {
            // Swapping is a change of strides, not of memory, and matrix products take any strides.
            Ok(tensor) if self.path.is_transposed() => Param::initialized(param.id, tensor.swap_dims(0, D - 1)),
            Ok(tensor) => Param::initialized(param.id, tensor),
            Err(error) => {
                self.result = Err(error);
                param
            }
        }
    }
}

struct Randomize<'a, F> {
    std: f64,
    seed: u64,
    device: &'a Device,
    path: Path,
    which: F,
}

impl<F: Fn(&str) -> bool> ModuleMapper for Randomize<'_, F> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.path.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !(self.which)(&self.path.key()) {
            return param;
        }
        let shape = param.lazy_shape().dims::<D>();
        let value = match self.path.name() {
            "bias" => Tensor::zeros(shape, self.device),
            _ if self.path.is_scale() => Tensor::ones(shape, self.device),
            _ => seed::normal(shape, self.std, &mut seed::rng(self.seed, &self.path.key()), self.device),
        };
        let mut filled = Param::from_tensor(value);
        filled.id = param.id;
        filled
    }
}

struct Draw<'a> {
    std: f64,
    device: &'a Device,
    dtype: DType,
    path: Path,
}

impl ModuleMapper for Draw<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.path.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (shape, options) = (self.path.file_shape(&param), (self.device, self.dtype));
        let draw = |()| match self.path.name() {
            "bias" => Tensor::zeros(shape, options),
            _ if self.path.is_scale() => Tensor::ones(shape, options),
            _ => Tensor::random(shape, Distribution::Normal(0.0, self.std), options),
        };
        let tensor = self.device.memory_persistent_allocations((), draw);
        let tensor = if self.path.is_transposed() { tensor.swap_dims(0, D - 1) } else { tensor };
        Param::initialized(param.id, tensor)
    }
}
