//! The home of adapters on one parameter.

use crate::adapter::{AnyAdapter, Base, as_type, blend, is_finite};
use crate::erased::Stack;
use crate::scope::{Scope, groups};
use crate::{Error, Result};
use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Reparameterization};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use std::cell::{Cell, RefCell};

/// Named adapters on one parameter, of which some are active.
///
/// A slot is attached to a [`Param`](burn::module::Param) as its reparameterisation, so optimizers, records, device moves and the
/// change between training and validation reach the adapters' tensors without the model knowing of them. An empty slot changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    stack: Stack<AnyAdapter>,
    active: Vec<Active>,
    merged: Option<Merged>,
}

/// An active adapter and the weight of its change.
#[derive(Clone, Debug, PartialEq)]
struct Active {
    name: String,
    weight: f64,
}

/// What is needed to take adapters out of the weight again.
#[derive(Clone, Debug)]
struct Merged {
    /// The weight before merging, kept when the change cannot be subtracted.
    original: Option<Tensor<2>>,
    /// The bias before merging.
    bias: Option<Tensor<1>>,
}

impl Slot {
    /// Names of the adapters, in the order they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stack.entries.iter().map(|(name, _)| name.as_str())
    }

    /// The adapter of that name.
    pub fn get(&self, name: &str) -> Option<&AnyAdapter> {
        self.stack.position(name).map(|index| &self.stack.entries[index].1)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut AnyAdapter> {
        self.stack.position(name).map(|index| &mut self.stack.entries[index].1)
    }

    /// The active adapters and their weights.
    pub fn active(&self) -> impl Iterator<Item = (&str, f64)> {
        self.active.iter().map(|a| (a.name.as_str(), a.weight))
    }

    /// Add an adapter, in place of one with the same name. It is not active yet.
    pub fn insert(&mut self, name: &str, adapter: AnyAdapter) {
        self.stack.insert(name, adapter);
    }

    /// Take an adapter out. If it is merged, what is merged stays in the weight for good.
    pub fn remove(&mut self, name: &str) {
        if self.is_merged() && self.active.iter().any(|a| a.name == name) {
            self.merged = None;
            self.active.clear();
        }
        self.stack.entries.retain(|(n, _)| n != name);
        self.active.retain(|a| a.name != name);
    }

    /// Make exactly these adapters active, with their weights; names the slot does not hold are passed over.
    pub fn activate(&mut self, weighted: &[(&str, f64)]) {
        let known = weighted.iter().filter(|(name, _)| self.stack.position(name).is_some());
        self.active = known.map(|(name, weight)| Active { name: (*name).into(), weight: *weight }).collect();
    }

    /// Whether the adapters are part of the stored weight at the moment.
    pub fn is_merged(&self) -> bool {
        self.merged.is_some()
    }

    /// The sum of the active adapters' regularisers, `[1]`.
    pub fn penalty(&self) -> Option<Tensor<1>> {
        let active = self.active.iter().filter_map(|a| self.get(&a.name));
        active.filter_map(|adapter| adapter.0.penalty()).reduce(|a, b| a + b)
    }

    fn chain(&self) -> Vec<(&AnyAdapter, f64)> {
        if self.merged.is_some() {
            return Vec::new();
        }
        self.active.iter().filter_map(|a| self.get(&a.name).map(|adapter| (adapter, a.weight))).collect()
    }

    /// The effective weight `[d_in, d_out]`.
    pub fn weight(&self, base: Tensor<2>) -> Tensor<2> {
        let chain = self.chain();
        if chain.is_empty() {
            return base;
        }
        stacked(&Base::dense(base), &chain, &|base| base.weight())
    }

    /// The projection `x W_eff + b_eff`, `[n, d_in]` to `[n, d_out]`, rows served as the [`Scope`] says.
    pub fn project(&self, x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let base = Base::dense(weight);
        let rows = Scope::with(|scope| scope.adapter_of_row.clone());
        if rows.is_empty() || self.merged.is_some() {
            return project_chain(&self.chain(), x, &base, bias);
        }
        self.project_by_addition(&rows, x.clone(), &base, bias.clone()).unwrap_or_else(|| {
            self.by_row(&rows, x, |chain, x| Some(project_chain(chain, x, &base, bias.clone()))).expect("every group is served")
        })
    }

    /// One product with the base for all rows, to which each group adds its change; nothing if an adapter does more than add to the weight.
    fn project_by_addition(&self, rows: &[Option<String>], x: Tensor<2>, base: &Base, bias: Option<Tensor<1>>) -> Option<Tensor<2>> {
        let named = rows.iter().flatten().filter_map(|name| self.get(name));
        if named.clone().any(|adapter| adapter.0.bias(None).is_some()) {
            return None;
        }
        let d_out = base.dims()[1];
        let change = self.by_row(rows, x.clone(), |chain, x| match chain {
            [] => Some(Tensor::zeros([x.dims()[0], d_out], (&x.device(), x.dtype()))),
            [(adapter, _), ..] => adapter.0.delta(x),
        })?;
        Some(base.affine(x, bias) + change)
    }

    /// Rows `ids: [n]` of the effective weight `[vocabulary, d]`, `[n, d]`.
    pub fn rows(&self, ids: Tensor<1, Int>, weight: Tensor<2>) -> Tensor<2> {
        let base = Base::dense(weight);
        let rows = Scope::with(|scope| scope.adapter_of_row.clone());
        let lookup = |chain: &[(&AnyAdapter, f64)], ids: Tensor<1, Int>| stacked(&base, chain, &|base| base.rows(ids.clone()));
        if rows.is_empty() || self.merged.is_some() {
            return lookup(&self.chain(), ids);
        }
        let n = ids.dims()[0];
        let served = self.by_row(&rows, ids.reshape([n, 1]), |chain, ids| Some(lookup(chain, ids.flatten(0, 1))));
        served.expect("every group is served")
    }

    /// Serve each group of rows by its own adapter and put the results back in order; nothing if `serve` gives nothing for a group.
    ///
    /// `x: [n, …]` holds the rows of the batch one after the other, each `n / rows` positions long.
    fn by_row<K: burn::tensor::kind::Basic>(
        &self,
        rows: &[Option<String>],
        x: Tensor<2, K>,
        serve: impl Fn(&[(&AnyAdapter, f64)], Tensor<2, K>) -> Option<Tensor<2>>,
    ) -> Option<Tensor<2>> {
        let n = x.dims()[0];
        assert!(n.is_multiple_of(rows.len()), "the scope names {} rows, but {n} positions do not divide into them", rows.len());
        let length = n / rows.len();
        let chain_of = |name: &Option<String>| -> Vec<(&AnyAdapter, f64)> {
            name.as_deref().and_then(|name| self.get(name)).map(|adapter| (adapter, 1.0)).into_iter().collect()
        };
        let groups = groups(rows);
        if groups.iter().flat_map(|(_, rows)| rows).copied().eq(0..rows.len()) {
            // Already in order: views instead of copies.
            let served = groups.iter().map(|(name, rows)| {
                let positions = rows[0] * length..(rows[0] + rows.len()) * length;
                serve(&chain_of(name), x.clone().slice_dim(0, positions))
            });
            return Some(Tensor::cat(served.collect::<Option<_>>()?, 0));
        }
        let device = x.device();
        let mut order = vec![0i64; n];
        let mut served = Vec::with_capacity(groups.len());
        let mut next = 0;
        for (name, rows) in &groups {
            let positions: Vec<i64> = rows.iter().flat_map(|row| (row * length) as i64..((row + 1) * length) as i64).collect();
            for position in &positions {
                order[*position as usize] = next;
                next += 1;
            }
            let count = positions.len();
            let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [count]), &device);
            served.push(serve(&chain_of(name), x.clone().select(0, positions))?);
        }
        let order = Tensor::<1, Int>::from_data(TensorData::new(order, [n]), &device);
        Some(Tensor::cat(served, 0).select(0, order))
    }

    /// The effective bias `[d_out]` of the projection.
    pub fn bias(&self, bias: Option<Tensor<1>>) -> Option<Tensor<1>> {
        bias_under(&self.chain(), bias)
    }

    /// Put the active adapters into the weight. Gives the merged weight, or nothing if there is nothing to merge.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the merged weight is not finite in the type that it is stored in; the slot is unchanged then.
    pub(crate) fn merge(&mut self, base: Tensor<2>, site: &str) -> Result<Option<Tensor<2>>> {
        if self.merged.is_some() {
            tracing::warn!("{site}: the adapters are merged already");
            return Ok(None);
        }
        let chain = self.chain();
        if chain.is_empty() {
            return Ok(None);
        }
        // Merging happens in f32 whatever the storage, so that a half-precision weight is rounded once.
        let stored = base.dtype();
        let exact = as_type(base.clone(), DType::F32);
        let merged = self.weight(exact.clone()).detach();
        let rounded = as_type(merged.clone(), stored);
        if !is_finite(&rounded) {
            let what = if is_finite(&merged) { format!("{site}, rounded to {}", stored.name()) } else { site.into() };
            return Err(Error::NonFinite { what });
        }
        let probe = Tensor::zeros([1, merged.dims()[0]], &merged.device());
        let subtractable = stored == DType::F32 && chain.iter().all(|(adapter, _)| adapter.0.delta(probe.clone()).is_some());
        let original = (!subtractable).then_some(base);
        self.merged = Some(Merged { original, bias: None });
        Ok(Some(rounded))
    }

    /// The bias that goes with the merged weight; remembers the original.
    pub(crate) fn merge_bias(&mut self, bias: Tensor<1>) -> Tensor<1> {
        let Some(mut merged) = self.merged.take() else { return bias };
        let changed = self.bias(Some(bias.clone())).unwrap_or_else(|| bias.clone()).detach();
        merged.bias = Some(bias);
        self.merged = Some(merged);
        changed
    }

    /// Take merged adapters out again: the original weight and, if it was merged too, the original bias.
    pub(crate) fn unmerge(&mut self, merged: Tensor<2>) -> Option<(Tensor<2>, Option<Tensor<1>>)> {
        let state = self.merged.take()?;
        let weight = match state.original {
            Some(original) => original,
            None => merged.clone() - self.weight(merged.zeros_like()).detach(),
        };
        Some((weight, state.bias))
    }

    /// Whether the active adapters give a bias to a projection that has none.
    pub(crate) fn adds_bias(&self) -> bool {
        self.bias(None).is_some()
    }
}

/// Ask the base under all adapters of the chain, the first at the bottom.
fn stacked<T>(base: &Base, chain: &[(&AnyAdapter, f64)], ask: &dyn Fn(&Base) -> T) -> T {
    match chain {
        [] => ask(base),
        [(adapter, weight), above @ ..] => stacked(&Base::adapted(base, adapter, *weight), above, ask),
    }
}

fn project_chain(chain: &[(&AnyAdapter, f64)], x: Tensor<2>, base: &Base, bias: Option<Tensor<1>>) -> Tensor<2> {
    match chain {
        [] => base.affine(x, bias),
        [(adapter, 1.0)] => adapter.0.project(x, base, bias),
        _ => stacked(base, chain, &|base| base.affine(x.clone(), bias_under(chain, bias.clone()))),
    }
}

fn bias_under(chain: &[(&AnyAdapter, f64)], bias: Option<Tensor<1>>) -> Option<Tensor<1>> {
    chain.iter().fold(bias, |bias, (adapter, weight)| match (bias.clone(), adapter.0.bias(bias)) {
        (Some(before), Some(after)) => Some(blend(before, after, *weight)),
        (None, Some(after)) => Some(after * *weight),
        (before, None) => before,
    })
}

/// A weight of any rank as the matrix `[d_in, d_out]` that adapters see.
pub fn matricise<const D: usize>(weight: Tensor<D>) -> Tensor<2> {
    let dims = weight.dims();
    match D {
        0 | 1 => {
            let n = weight.shape().num_elements();
            weight.reshape([1, n])
        }
        2 => with_rank(weight),
        _ => {
            let rest = dims[1..].iter().product();
            weight.reshape([dims[0], rest]).transpose()
        }
    }
}

/// The same tensor, its rank known by another constant. Reshaping instead would copy a transposed view.
fn with_rank<const D: usize, const E: usize>(tensor: Tensor<D>) -> Tensor<E> {
    Tensor::from_bridge(tensor.into_bridge())
}

/// The inverse of [`matricise`] for a weight of shape `dims`.
pub fn unmatricise<const D: usize>(matrix: Tensor<2>, dims: [usize; D]) -> Tensor<D> {
    match D {
        0 | 1 => matrix.reshape(dims),
        2 => with_rank(matrix),
        _ => matrix.transpose().reshape(dims),
    }
}

impl Reparameterization for Slot {
    const NAME: &'static str = "peft";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        if self.chain().is_empty() {
            return base;
        }
        let dims = base.dims();
        unmatricise(self.weight(matricise(base)), dims)
    }
}

thread_local! {
    static WANTED: Cell<bool> = const { Cell::new(false) };
    static CARRIED: RefCell<Option<Slot>> = const { RefCell::new(None) };
}

/// The module name under which a slot offers itself to a traversal that asked for slots.
const OFFER: &str = "\u{0}slot";

/// Lets a traversal meet the slots themselves, which Burn's visitors and mappers do not show.
///
/// While one is alive, each slot puts itself into a thread-local and calls `enter_module(OFFER)`; the traversal takes it from there.
pub(crate) struct SlotTraversal;

impl SlotTraversal {
    pub fn begin() -> Self {
        WANTED.set(true);
        Self
    }

    /// The slot on offer, if `name` says that there is one.
    pub fn take(name: &str) -> Option<Slot> {
        if name == OFFER { CARRIED.take() } else { None }
    }

    /// Hand an edited slot back.
    pub fn give(slot: Slot) {
        CARRIED.set(Some(slot));
    }
}

impl Drop for SlotTraversal {
    fn drop(&mut self) {
        WANTED.set(false);
    }
}

impl Module for Slot {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.stack.devices(devices)
    }

    fn fork(mut self, device: &Device) -> Self {
        self.stack.for_each(|module| module.fork(device));
        self.move_originals(Move::To(device));
        self
    }

    fn to_device(mut self, device: &Device) -> Self {
        self.stack.for_each(|module| module.to_device(device));
        self.move_originals(Move::To(device));
        self
    }

    fn train(mut self) -> Self {
        self.stack.for_each(|module| module.train());
        self.move_originals(Move::IntoAutodiff);
        self
    }

    fn valid(&self) -> Self {
        let mut slot = self.clone();
        slot.stack.for_each(|module| module.valid());
        slot.move_originals(Move::OutOfAutodiff);
        slot
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        if WANTED.get() {
            SlotTraversal::give(self.clone());
            visitor.enter_module(OFFER, "Slot");
            CARRIED.take();
            return;
        }
        self.stack.visit(visitor);
    }

    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        if WANTED.get() {
            SlotTraversal::give(self);
            mapper.enter_module(OFFER, "Slot");
            return CARRIED.take().expect("a traversal that takes a slot gives it back");
        }
        self.stack.map(mapper);
        self
    }
}

/// Where the saved originals follow their parameter to.
enum Move<'a> {
    To(&'a Device),
    IntoAutodiff,
    OutOfAutodiff,
}

impl Slot {
    fn move_originals(&mut self, to: Move) {
        fn moved<const D: usize>(tensor: Tensor<D>, to: &Move) -> Tensor<D> {
            match to {
                Move::To(device) => tensor.to_device(device).detach(),
                Move::IntoAutodiff => Tensor::from_inner(tensor),
                Move::OutOfAutodiff => tensor.without_autodiff(),
            }
        }
        if let Some(merged) = &mut self.merged {
            merged.original = merged.original.take().map(|weight| moved(weight, &to));
            merged.bias = merged.bias.take().map(|bias| moved(bias, &to));
        }
    }
}

impl ModuleDisplayDefault for Slot {
    fn content(&self, content: Content) -> Option<Content> {
        let names: Vec<_> = self.names().collect();
        content.add("adapters", &names.join(", ")).optional()
    }
}

impl ModuleDisplay for Slot {}
