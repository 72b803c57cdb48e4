//! The contract of an adapter, and what it sits on.

use crate::erased::{ErasedModule, Held, Pointer};
use crate::ops;
use burn::module::Module;
use burn::tensor::{DType, Int, Tensor};
use std::any::Any;
use std::sync::Arc;

/// A trainable change to one weight `W: [d_in, d_out]` of a projection `y = x W + b`.
///
/// Weights of other ranks are adapted in matricised form: a convolution's as `[c_in·k…, c_out]`, a vector `[d]` as `[1, d]`,
/// an embedding's as `[vocabulary, d]`.
pub trait Adapter: Module + Sync + 'static {
    /// Path component of the adapter's tensors.
    const NAME: &'static str;

    /// The effective weight `[d_in, d_out]`: what merging stores. Must be differentiable.
    fn weight(&self, base: Tensor<2>) -> Tensor<2>;

    /// `x · W_eff` for `x: [n, d_in]`, without ever building `W_eff`; `[n, d_out]`.
    fn forward(&self, x: Tensor<2>, base: &Base) -> Tensor<2> {
        match self.delta(x.clone()) {
            Some(delta) => base.matmul(x) + delta,
            None => x.matmul(self.weight(base.weight())),
        }
    }

    /// `x · W_eff + b_eff`, `[n, d_out]`. Override it where the bias fits into the same operation.
    fn project(&self, x: Tensor<2>, base: &Base, bias: Option<Tensor<1>>) -> Tensor<2> {
        add_bias(Adapter::forward(self, x, base), self.bias(bias))
    }

    /// `x · ΔW: [n, d_out]`, if `W_eff = W + ΔW` and `ΔW` does not depend on `W`.
    ///
    /// Such adapters combine with weights, mix by row and unmerge without a second product with `W`.
    fn delta(&self, x: Tensor<2>) -> Option<Tensor<2>> {
        let _ = x;
        None
    }

    /// Rows `ids: [n]` of the effective weight, `[n, d_out]`: an embedding's look-up.
    fn rows(&self, ids: Tensor<1, Int>, base: &Base) -> Tensor<2> {
        self.weight(base.weight()).select(0, ids)
    }

    /// The effective bias `[d_out]`, for methods that shift or scale outputs.
    fn bias(&self, base: Option<Tensor<1>>) -> Option<Tensor<1>> {
        base
    }

    /// A regulariser on the adapter's own parameters, `[1]`, to be added to the loss.
    fn penalty(&self) -> Option<Tensor<1>> {
        None
    }

    /// The adapter's tensors as its file stores them.
    fn export(&self) -> Vec<Stored>;

    /// Take over tensors from a file. `read(name, shape)` gives the values of the tensor that [`export`](Self::export) stores under
    /// `name`, checked against `shape`.
    fn import(&mut self, read: &mut dyn FnMut(&str, &[usize]) -> crate::Result<Tensor<1>>) -> crate::Result<()>;
}

/// One tensor in the orientation of its file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What follows the module's path in the key, for example `lora_A.weight`; or, if it begins with `/`, a key without a module
    /// path: a tensor that all sites share.
    pub name: String,
    /// The shape in the file.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: Tensor<1>,
}

impl Stored {
    /// A tensor stored as it is.
    pub fn new<const D: usize>(name: &str, tensor: Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        let elements = tensor.shape().num_elements();
        Self { name: name.into(), shape, values: tensor.reshape([elements]) }
    }

    /// A matrix stored transposed, as PyTorch keeps a projection's `[out, in]`.
    pub fn transposed(name: &str, tensor: Tensor<2>) -> Self {
        Self::new(name, tensor.transpose())
    }
}

/// What an adapter sits on: the frozen weight itself, or that weight under other adapters.
///
/// An adapter asks for `x · W` and never learns how `W` is stored.
#[derive(Debug)]
pub struct Base<'a>(Inner<'a>);

// Lives on the stack for the length of one call.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Inner<'a> {
    Dense(Tensor<2>),
    Adapted { below: &'a Base<'a>, adapter: &'a AnyAdapter, weight: f64 },
}

impl<'a> Base<'a> {
    /// A weight `[d_in, d_out]` in any float type or one of Burn's quantised types.
    pub fn dense(weight: Tensor<2>) -> Self {
        Self(Inner::Dense(weight))
    }

    /// The base below, changed by `weight` times the adapter's change.
    pub(crate) fn adapted(below: &'a Base<'a>, adapter: &'a AnyAdapter, weight: f64) -> Self {
        Self(Inner::Adapted { below, adapter, weight })
    }

    /// The shape `[d_in, d_out]` of the weight.
    pub fn dims(&self) -> [usize; 2] {
        match &self.0 {
            Inner::Dense(weight) => weight.dims(),
            Inner::Adapted { below, .. } => below.dims(),
        }
    }

    /// `x · W` for `x: [n, d_in]`, `[n, d_out]` in the type of `x`.
    pub fn matmul(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.0 {
            Inner::Dense(weight) => dense(x, weight.clone(), None),
            Inner::Adapted { below, adapter, weight } if *weight == 1.0 => adapter.0.forward(x, below),
            Inner::Adapted { below, adapter, weight } => match adapter.0.delta(x.clone()) {
                Some(delta) => below.matmul(x) + delta * *weight,
                None => blend(below.matmul(x.clone()), adapter.0.forward(x, below), *weight),
            },
        }
    }

    /// `x · W + bias`, `[n, d_out]` in the type of `x`.
    pub fn affine(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        match &self.0 {
            Inner::Dense(weight) => dense(x, weight.clone(), bias),
            Inner::Adapted { .. } => add_bias(self.matmul(x), bias),
        }
    }

    /// `x · W + s · (x · A) · B + bias` for `A: [d_in, r]` and `B: [r, d_out]` in f32; one operation where the weight is dense.
    pub fn low_rank(&self, x: Tensor<2>, factors: [Tensor<2>; 2], scale: f64, bias: Option<Tensor<1>>) -> Tensor<2> {
        match &self.0 {
            Inner::Dense(weight) if is_single(&x) && is_float(weight) => ops::project_low_rank(x, weight.clone(), factors, scale, bias),
            _ => {
                let (dtype, [a, b]) = (x.dtype(), factors);
                let branch = as_type(x.clone(), DType::F32).matmul(a).matmul(b) * scale;
                self.affine(x, bias) + as_type(branch, dtype)
            }
        }
    }

    /// Whether other adapters change the weight below.
    pub fn is_adapted(&self) -> bool {
        matches!(self.0, Inner::Adapted { .. })
    }

    /// The dense weight `[d_in, d_out]`. This builds it; prefer [`matmul`](Self::matmul).
    pub fn weight(&self) -> Tensor<2> {
        match &self.0 {
            Inner::Dense(weight) => dequantized(weight.clone()),
            Inner::Adapted { below, adapter, weight } => {
                let base = below.weight();
                blend(base.clone(), adapter.0.weight(base), *weight)
            }
        }
    }

    /// Rows `ids: [n]` of the weight, `[n, d_out]`.
    pub fn rows(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        match &self.0 {
            Inner::Dense(weight) => dequantized(weight.clone()).select(0, ids),
            Inner::Adapted { below, adapter, weight } if *weight == 1.0 => adapter.0.rows(ids, below),
            Inner::Adapted { below, adapter, weight } => blend(below.rows(ids.clone()), adapter.0.rows(ids, below), *weight),
        }
    }
}

/// `base + weight · (changed − base)`.
pub(crate) fn blend<const D: usize>(base: Tensor<D>, changed: Tensor<D>, weight: f64) -> Tensor<D> {
    if weight == 1.0 {
        return changed;
    }
    base * (1.0 - weight) + changed * weight
}

fn dense(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    if is_single(&x) && is_float(&weight) {
        return ops::project(x, weight, bias);
    }
    let weight = as_type(weight, x.dtype());
    add_bias(x.matmul(weight), bias)
}

/// `y + bias` for `y: [n, d_out]`, in the type of `y`.
fn add_bias(y: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    match bias {
        Some(bias) => {
            let bias = as_type(bias, y.dtype());
            y + bias.unsqueeze()
        }
        None => y,
    }
}

fn is_single(x: &Tensor<2>) -> bool {
    x.dtype() == DType::F32
}

fn is_float(weight: &Tensor<2>) -> bool {
    matches!(weight.dtype(), DType::F32 | DType::BF16 | DType::F16)
}

fn dequantized(weight: Tensor<2>) -> Tensor<2> {
    match weight.dtype() {
        DType::QFloat(_) => weight.dequantize(),
        _ => weight,
    }
}

/// The tensor in float type `dtype`, untouched if it has it already.
pub fn as_type<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    match tensor.dtype() {
        DType::QFloat(_) => as_type(tensor.dequantize(), dtype),
        stored if stored == dtype => tensor,
        _ => tensor.cast(dtype),
    }
}

/// Whether all numbers of a tensor are finite. A plain sum would not tell: it can overflow, and infinities cancel each other.
pub(crate) fn is_finite<const D: usize>(tensor: &Tensor<D>) -> bool {
    as_type(tensor.clone() * 0.0, DType::F32).sum().into_scalar::<f32>() == 0.0
}

/// An adapter of any type. Clones share it until one of them changes.
#[derive(Clone, Debug)]
pub struct AnyAdapter(pub(crate) Arc<dyn DynAdapter>);

impl AnyAdapter {
    /// Hide the adapter's type.
    pub fn new<A: Adapter>(adapter: A) -> Self {
        Self(Arc::new(Held::new(adapter)))
    }

    /// The adapter, if it is an `A`.
    pub fn downcast_ref<A: Adapter>(&self) -> Option<&A> {
        self.0.as_any().downcast_ref::<Held<A>>().map(Held::get)
    }

    /// The adapter's tensors as its file stores them.
    pub fn export(&self) -> Vec<Stored> {
        self.0.export()
    }

    /// The adapter to change, no longer shared.
    fn own(&mut self) -> &mut dyn DynAdapter {
        if Arc::get_mut(&mut self.0).is_none() {
            self.0 = self.0.clone_shared();
        }
        Arc::get_mut(&mut self.0).expect("a fresh clone is not shared")
    }

    pub(crate) fn import(&mut self, read: &mut dyn FnMut(&str, &[usize]) -> crate::Result<Tensor<1>>) -> crate::Result<()> {
        self.own().import(read)
    }
}

impl Pointer for AnyAdapter {
    fn module(&self) -> &dyn ErasedModule {
        &*self.0
    }
    fn module_mut(&mut self) -> &mut dyn ErasedModule {
        self.own()
    }
    fn kind(&self) -> &'static str {
        self.0.name()
    }
}

/// The object-safe face of [`Adapter`].
pub(crate) trait DynAdapter: ErasedModule {
    fn name(&self) -> &'static str;
    fn weight(&self, base: Tensor<2>) -> Tensor<2>;
    fn forward(&self, x: Tensor<2>, base: &Base) -> Tensor<2>;
    fn project(&self, x: Tensor<2>, base: &Base, bias: Option<Tensor<1>>) -> Tensor<2>;
    fn delta(&self, x: Tensor<2>) -> Option<Tensor<2>>;
    fn rows(&self, ids: Tensor<1, Int>, base: &Base) -> Tensor<2>;
    fn bias(&self, base: Option<Tensor<1>>) -> Option<Tensor<1>>;
    fn penalty(&self) -> Option<Tensor<1>>;
    fn export(&self) -> Vec<Stored>;
    fn import(&mut self, read: &mut dyn FnMut(&str, &[usize]) -> crate::Result<Tensor<1>>) -> crate::Result<()>;
    fn as_any(&self) -> &dyn Any;
    fn clone_shared(&self) -> Arc<dyn DynAdapter>;
}

impl<A: Adapter> DynAdapter for Held<A> {
    fn name(&self) -> &'static str {
        A::NAME
    }
    fn weight(&self, base: Tensor<2>) -> Tensor<2> {
        self.get().weight(base)
    }
    fn forward(&self, x: Tensor<2>, base: &Base) -> Tensor<2> {
        Adapter::forward(self.get(), x, base)
    }
    fn project(&self, x: Tensor<2>, base: &Base, bias: Option<Tensor<1>>) -> Tensor<2> {
        self.get().project(x, base, bias)
    }
    fn delta(&self, x: Tensor<2>) -> Option<Tensor<2>> {
        self.get().delta(x)
    }
    fn rows(&self, ids: Tensor<1, Int>, base: &Base) -> Tensor<2> {
        self.get().rows(ids, base)
    }
    fn bias(&self, base: Option<Tensor<1>>) -> Option<Tensor<1>> {
        self.get().bias(base)
    }
    fn penalty(&self) -> Option<Tensor<1>> {
        self.get().penalty()
    }
    fn export(&self) -> Vec<Stored> {
        self.get().export()
    }
    fn import(&mut self, read: &mut dyn FnMut(&str, &[usize]) -> crate::Result<Tensor<1>>) -> crate::Result<()> {
        self.get_mut().import(read)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn clone_shared(&self) -> Arc<dyn DynAdapter> {
        Arc::new(self.clone())
    }
}
