//! Operations on all slots of a model: add, activate, combine, remove, merge, unmerge.

use crate::adapter::AnyAdapter;
use crate::slot::{Slot, SlotTraversal, matricise, unmatricise};
use crate::{Error, Result};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, Reparameterization, Reparameterizer};
use burn::tensor::Tensor;
use std::collections::HashSet;

/// Show `see` every slot of the model with the path of its parameter.
pub fn visit_slots<M: Module>(model: &M, see: impl FnMut(&str, &Slot)) {
    struct Visit<F> {
        path: Path,
        see: F,
    }
    impl<F: FnMut(&str, &Slot)> ModuleVisitor for Visit<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            match SlotTraversal::take(name) {
                Some(slot) => (self.see)(&self.path.parameter(), &slot),
                None => self.path.enter(name),
            }
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
    }
    let _traversal = SlotTraversal::begin();
    model.visit(&mut Visit { path: Path::default(), see });
}

/// Let `edit` change every slot of the model; it gets the path of the slot's parameter.
pub fn edit_slots<M: Module>(model: M, edit: impl FnMut(&str, &mut Slot)) -> M {
    struct Ignore<F>(F);
    impl<F: FnMut(&str, &mut Slot)> Edit for Ignore<F> {
        fn slot(&mut self, path: &str, slot: &mut Slot) {
            (self.0)(path, slot);
        }
    }
    edit_model(model, Ignore(edit)).0
}

/// A change to parameters and the slots on them. The parameter comes first, then its slot.
pub(crate) trait Edit {
    fn param<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let _ = path;
        param
    }
    fn slot(&mut self, path: &str, slot: &mut Slot);
}

pub(crate) fn edit_model<M: Module, E: Edit>(model: M, edit: E) -> (M, E) {
    struct Map<E> {
        path: Path,
        edit: E,
    }
    impl<E: Edit> ModuleMapper for Map<E> {
        fn enter_module(&mut self, name: &str, _: &str) {
            match SlotTraversal::take(name) {
                Some(mut slot) => {
                    self.edit.slot(&self.path.parameter(), &mut slot);
                    SlotTraversal::give(slot);
                }
                None => self.path.enter(name),
            }
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.edit.param(&self.path.0.join("."), param)
        }
    }
    let _traversal = SlotTraversal::begin();
    let mut map = Map { path: Path::default(), edit };
    let model = model.map(&mut map);
    (model, map.edit)
}

#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn enter(&mut self, name: &str) {
        self.0.push(name.into());
    }
    fn exit(&mut self) {
        self.0.pop();
    }
    /// The path of the parameter whose slot is on offer.
    fn parameter(&self) -> String {
        match self.0.split_last() {
            Some((last, path)) if last == <Slot as Reparameterization>::NAME => path.join("."),
            _ => self.0.join("."),
        }
    }
}

/// Attach empty slots to the parameters at these paths; slots that exist stay.
pub(crate) fn attach_slots<M: Module>(model: M, paths: HashSet<String>) -> M {
    struct Attach(HashSet<String>);
    impl Reparameterizer for Attach {
        type Reparam = Slot;
        fn reparameterize<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> (Param<Tensor<D>>, Option<Slot>) {
            let slot = self.0.contains(path).then(Slot::default);
            (param, slot)
        }
    }
    model.apply_reparameterization(Attach(paths))
}

/// Names of all adapters in the model, in the order of first appearance.
pub fn adapter_names<M: Module>(model: &M) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    visit_slots(model, |_, slot| {
        for name in slot.names() {
            if !names.iter().any(|n| n == name) {
                names.push(name.into());
            }
        }
    });
    names
}

/// Make exactly these adapters active, each with the weight of its change; one adapter with weight 1 is the ordinary case, an empty
/// list gives the plain base. Merged adapters are taken out of the weights first.
///
/// # Errors
/// [`Error::UnknownAdapter`].
pub fn activate<M: Module>(model: M, weighted: &[(&str, f64)]) -> Result<M> {
    let known = adapter_names(&model);
    for (name, _) in weighted {
        if !known.iter().any(|k| k == name) {
            return Err(Error::UnknownAdapter { name: (*name).into(), known });
        }
    }
    Ok(edit_slots(unmerge_first(model), |_, slot| slot.activate(weighted)))
}

/// The model with no adapter merged, before something changes that merging has fixed.
pub(crate) fn unmerge_first<M: Module>(model: M) -> M {
    let mut merged = false;
    visit_slots(&model, |_, slot| merged |= slot.is_merged());
    if !merged {
        return model;
    }
    tracing::warn!("the merged adapters are taken out of the weights first");
    unmerge(model)
}

/// Take an adapter out of the model, which frees its memory. If it is merged, its change stays in the weights for good.
///
/// # Errors
/// [`Error::UnknownAdapter`].
pub fn unload<M: Module>(model: M, name: &str) -> Result<M> {
    let known = adapter_names(&model);
    if !known.iter().any(|k| k == name) {
        return Err(Error::UnknownAdapter { name: name.into(), known });
    }
    Ok(edit_slots(model, |_, slot| slot.remove(name)))
}

/// The adapter called `name` at each parameter that has one.
pub fn adapters_named<M: Module>(model: &M, name: &str) -> Vec<(String, AnyAdapter)> {
    let mut found = Vec::new();
    visit_slots(model, |path, slot| {
        if let Some(adapter) = slot.get(name) {
            found.push((path.to_string(), adapter.clone()));
        }
    });
    found
}

/// The sum of the active adapters' regularisers, `[1]`.
pub fn penalty<M: Module>(model: &M) -> Option<Tensor<1>> {
    let mut total: Option<Tensor<1>> = None;
    visit_slots(model, |_, slot| {
        if let Some(penalty) = slot.penalty() {
            total = Some(match total.take() {
                Some(sum) => sum + penalty,
                None => penalty,
            });
        }
    });
    total
}

/// Put the active adapters into the weights and biases. Forward calls cost what the base costs until [`unmerge`].
///
/// # Errors
/// [`Error::NonFinite`] names a module whose merged weight would not be finite; [`Error::InvalidConfig`] one whose adapter has a bias
/// that the module has no place for. The model is dropped then.
pub fn merge<M: Module>(model: M) -> Result<M> {
    let mut unplaced: Option<String> = None;
    let biased: HashSet<String> = crate::site::sites(&model).into_iter().filter(|s| s.field == "bias").map(|s| s.module).collect();
    visit_slots(&model, |path, slot| {
        let module = path.strip_suffix(".weight").unwrap_or(path);
        if unplaced.is_none() && slot.adds_bias() && !biased.contains(module) {
            unplaced = Some(module.into());
        }
    });
    if let Some(module) = unplaced {
        return Err(Error::InvalidConfig(format!("{module}: the adapter has a bias, but the module has none to merge it into")));
    }

    #[derive(Default)]
    struct Merge {
        slots: std::collections::HashMap<String, Slot>,
        error: Option<Error>,
    }
    impl Edit for Merge {
        fn param<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let param = self.own(path, param);
            let Some(module) = path.strip_suffix(".bias") else { return param };
            let Some(slot) = self.slots.get_mut(&format!("{module}.weight")) else { return param };
            change(param, |bias| {
                let dims = bias.dims();
                unmatricise(slot.merge_bias(bias.reshape([-1])).unsqueeze(), dims)
            })
        }
        fn slot(&mut self, _: &str, _: &mut Slot) {}
    }
    impl Merge {
        /// The parameter with the adapters of its own slot in it.
        fn own<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(slot) = self.slots.get_mut(path) else { return param };
            change(param, |weight| match slot.merge(matricise(weight.clone()), path) {
                Ok(Some(merged)) => unmatricise(merged, weight.dims()),
                Ok(None) => weight,
                Err(error) => {
                    self.error.get_or_insert(error);
                    weight
                }
            })
        }
    }
    let mut merge = Merge::default();
    visit_slots(&model, |path, slot| {
        merge.slots.insert(path.into(), slot.clone());
    });
    let (model, merge) = edit_model(model, merge);
    match merge.error {
        Some(error) => Err(error),
        None => Ok(put_back(model, merge.slots)),
    }
}

/// Take merged adapters out of the weights and biases again.
pub fn unmerge<M: Module>(model: M) -> M {
    struct Unmerge {
        slots: std::collections::HashMap<String, Slot>,
        biases: std::collections::HashMap<String, Tensor<1>>,
    }
    impl Edit for Unmerge {
        fn param<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let param = match self.biases.remove(path) {
                Some(original) => change(param, |bias| unmatricise(original.unsqueeze(), bias.dims())),
                None => param,
            };
            let Some(slot) = self.slots.get_mut(path) else { return param };
            let biases = &mut self.biases;
            change(param, |weight| match slot.unmerge(matricise(weight.clone())) {
                Some((original, bias)) => {
                    if let (Some(bias), Some(module)) = (bias, path.strip_suffix(".weight")) {
                        biases.insert(format!("{module}.bias"), bias);
                    }
                    unmatricise(original, weight.dims())
                }
                None => weight,
            })
        }
        fn slot(&mut self, _: &str, _: &mut Slot) {}
    }
    let mut unmerge = Unmerge { slots: Default::default(), biases: Default::default() };
    visit_slots(&model, |path, slot| {
        unmerge.slots.insert(path.into(), slot.clone());
    });
    let (model, unmerge) = edit_model(model, unmerge);
    put_back(model, unmerge.slots)
}

fn put_back<M: Module>(model: M, mut slots: std::collections::HashMap<String, Slot>) -> M {
    edit_slots(model, |path, slot| {
        if let Some(edited) = slots.remove(path) {
            *slot = edited;
        }
    })
}

/// A parameter with the value `value` and its identity and training state as before.
pub fn set<const D: usize>(param: Param<Tensor<D>>, value: Tensor<D>) -> Param<Tensor<D>> {
    change(param, |_| value)
}

/// A parameter with another value and the same identity and training state.
pub(crate) fn change<const D: usize>(param: Param<Tensor<D>>, f: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Param<Tensor<D>> {
    let requires_grad = param.val().is_require_grad();
    param.map(|value| f(value.detach()).detach().set_require_grad(requires_grad))
}
