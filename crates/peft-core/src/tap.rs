//! Statistics of a model's inner activations and gradients, gathered while it runs.

use crate::site::sites;
use crate::targets::Targets;
use crate::{Error, Result};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Gradients, Tensor};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

/// The statistics that a method reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Means and second moments of the inputs of adapted layers.
    pub inputs: bool,
    /// Gradients of the adapted weights and their squares.
    pub gradients: bool,
}

/// What passes gathered, by the path of the module.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Inputs of projections.
    pub inputs: BTreeMap<String, Inputs>,
    /// Gradients of projection weights.
    pub gradients: BTreeMap<String, WeightGradients>,
}

/// Sums over the input vectors of one projection; all in f32.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Number of vectors.
    pub count: usize,
    /// `Σ x`, `[d_in]`.
    pub sum: Tensor<1>,
    /// `Σ xᵀ x`, `[d_in, d_in]`.
    pub second: Tensor<2>,
}

impl Inputs {
    /// `E[x]`, `[d_in]`.
    pub fn mean(&self) -> Tensor<1> {
        self.sum.clone() / self.count.max(1) as f64
    }

    /// `E[xᵀ x]`, `[d_in, d_in]`.
    pub fn second_moment(&self) -> Tensor<2> {
        self.second.clone() / self.count.max(1) as f64
    }

    /// `E[(x − E x)ᵀ (x − E x)]`, `[d_in, d_in]`.
    pub fn covariance(&self) -> Tensor<2> {
        let mean: Tensor<2> = self.mean().unsqueeze();
        self.second_moment() - mean.clone().transpose().matmul(mean)
    }
}

/// Sums over the gradients of one weight; all in f32.
#[derive(Clone, Debug)]
pub struct WeightGradients {
    /// Number of gradients.
    pub count: usize,
    /// `Σ G`, `[d_in, d_out]`.
    pub sum: Tensor<2>,
    /// `Σ G ⊙ G`, `[d_in, d_out]`: the diagonal of the empirical Fisher information when each gradient is one example's.
    pub squares: Tensor<2>,
}

thread_local! {
    static OPEN: Cell<bool> = const { Cell::new(false) };
    static SITES: RefCell<HashMap<ParamId, String>> = RefCell::default();
    static INPUTS: RefCell<BTreeMap<String, Inputs>> = const { RefCell::new(BTreeMap::new()) };
}

/// Gathers the inputs of projections while it is open. One per thread.
pub struct Tap;

impl Tap {
    /// Listen to the projections that `targets` selects.
    ///
    /// # Errors
    /// Those of [`Targets::select`]; [`Error::InvalidConfig`] if a tap is open on this thread already.
    pub fn open<M: Module>(model: &M, targets: &Targets) -> Result<Self> {
        if OPEN.get() {
            return Err(Error::InvalidConfig("a tap is open on this thread already".into()));
        }
        let all = sites(model);
        let selected = targets.select(&all, |site| site.is_linear())?;
        SITES.set(selected.into_iter().map(|site| (site.id, site.module.clone())).collect());
        OPEN.set(true);
        Ok(Self)
    }

    /// Close the tap and give what it gathered.
    pub fn close(self) -> BTreeMap<String, Inputs> {
        INPUTS.take()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        OPEN.set(false);
        SITES.take();
        INPUTS.take();
    }
}

/// Feed an open tap with the input `[n, d_in]` of the projection whose weight is `id`.
pub(crate) fn observe(id: ParamId, x: &Tensor<2>) {
    if !OPEN.get() {
        return;
    }
    let Some(path) = SITES.with_borrow(|sites| sites.get(&id).cloned()) else { return };
    let x = crate::adapter::as_type(x.clone().without_autodiff(), DType::F32);
    let count = x.dims()[0];
    let sum = x.clone().sum_dim(0).flatten(0, 1);
    let second = x.clone().transpose().matmul(x);
    INPUTS.with_borrow_mut(|inputs| match inputs.get_mut(&path) {
        Some(seen) => {
            seen.count += count;
            seen.sum = seen.sum.clone() + sum;
            seen.second = seen.second.clone() + second;
        }
        None => {
            inputs.insert(path, Inputs { count, sum, second });
        }
    });
}

/// Gather the gradients that `losses` give for the weights that `targets` selects, one backward pass for each item.
///
/// The gradients of one pass are folded into the sums before the next begins.
///
/// # Errors
/// Those of [`Targets::select`].
pub fn weight_gradients<M: Module, T>(
    model: &M,
    targets: &Targets,
    items: impl IntoIterator<Item = T>,
    loss: impl Fn(&M, T) -> Tensor<1>,
) -> Result<BTreeMap<String, WeightGradients>> {
    let all = sites(model);
    let selected = targets.select(&all, |site| site.is_linear())?;
    let by_id: HashMap<ParamId, String> = selected.into_iter().map(|site| (site.id, site.module.clone())).collect();
    let tracked = model.clone().map(&mut Track(&by_id));
    let mut fold = Fold { by_id: &by_id, gradients: None, sums: BTreeMap::new() };
    for item in items {
        fold.gradients = Some(loss(&tracked, item).backward());
        tracked.visit(&mut fold);
    }
    Ok(fold.sums)
}

struct Track<'a>(&'a HashMap<ParamId, String>);

impl burn::module::ModuleMapper for Track<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let wanted = self.0.contains_key(&param.id);
        param.set_require_grad(wanted)
    }
}

struct Fold<'a> {
    by_id: &'a HashMap<ParamId, String>,
    gradients: Option<Gradients>,
    sums: BTreeMap<String, WeightGradients>,
}

impl ModuleVisitor for Fold<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(path) = self.by_id.get(&param.id) else { return };
        let Some(gradient) = self.gradients.as_mut().and_then(|g| param.val().grad_remove(g)) else { return };
        let dims = gradient.dims();
        let gradient = crate::adapter::as_type(gradient, DType::F32).reshape([dims[0], dims[1]]);
        let squares = gradient.clone().powf_scalar(2.0);
        match self.sums.get_mut(path) {
            Some(seen) => {
                seen.count += 1;
                seen.sum = seen.sum.clone() + gradient;
                seen.squares = seen.squares.clone() + squares;
            }
            None => {
                self.sums.insert(path.clone(), WeightGradients { count: 1, sum: gradient, squares });
            }
        }
    }
}
