//! The parameters of a whole model as flat vectors: read, replaced, and their gradients. For methods that change weights outright, not
//! through adapters.

use crate::adapter::as_type;
use crate::{Site, sites};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Gradients, Tensor};
use std::any::Any;
use std::collections::{BTreeMap, HashMap};

/// Every float parameter of the model itself (not of its adapters) in f32, flat, without autodiff, in the order of the fields.
///
/// What several modules share comes once, at its first place. `each` gets one parameter at a time: no copy of the model arises.
pub fn for_each_parameter<M: Module>(model: &M, each: impl FnMut(&Site, Tensor<1>)) {
    struct Visit<F> {
        sites: HashMap<ParamId, Site>,
        each: F,
    }
    impl<F: FnMut(&Site, Tensor<1>)> ModuleVisitor for Visit<F> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(site) = self.sites.remove(&param.id) else { return };
            (self.each)(&site, flat(param.val().without_autodiff()));
        }
    }
    model.visit(&mut Visit { sites: by_id(model), each });
}

/// A parameter of a model, held as it is stored, and read flat when it is asked for.
pub struct Parameter {
    /// Where it is.
    pub site: Site,
    read: Box<dyn Fn() -> Tensor<1> + Send>,
}

impl Parameter {
    /// Its numbers in f32, flat, without autodiff; no copy where it is stored so.
    pub fn value(&self) -> Tensor<1> {
        (self.read)()
    }
}

impl std::fmt::Debug for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.site.fmt(f)
    }
}

/// The parameters that [`for_each_parameter`] visits, to be read in any order and as often as needed.
///
/// They share the model's memory, and keep it alive.
pub fn parameters<M: Module>(model: &M) -> Vec<Parameter> {
    struct Collect {
        sites: HashMap<ParamId, Site>,
        found: Vec<Parameter>,
    }
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(site) = self.sites.remove(&param.id) else { return };
            let value = param.val().without_autodiff();
            self.found.push(Parameter { site, read: Box::new(move || flat(value.clone())) });
        }
    }
    let mut collect = Collect { sites: by_id(model), found: Vec::new() };
    model.visit(&mut collect);
    collect.found
}

/// The model with other values, where `value` gives some for the present one: flat, in the order of [`for_each_parameter`].
///
/// Given values are trained (their gradients are kept if the model is on a device with autodiff), all others are not. Shared parameters
/// stay shared.
///
/// # Panics
/// If a value has another number of elements than its parameter.
pub fn with_parameters<M: Module>(model: M, value: impl FnMut(&Site, Tensor<1>) -> Option<Tensor<1>>) -> M {
    struct Replace<F> {
        sites: HashMap<ParamId, Site>,
        value: F,
        done: HashMap<ParamId, Box<dyn Any>>,
    }
    impl<F: FnMut(&Site, Tensor<1>) -> Option<Tensor<1>>> ModuleMapper for Replace<F> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if let Some(done) = self.done.get(&param.id).and_then(|first| first.downcast_ref::<Param<Tensor<D>>>()) {
                return done.clone();
            }
            let Some(site) = self.sites.remove(&param.id) else { return param.set_require_grad(false) };
            let present = param.val();
            let device = present.device();
            let replaced = match (self.value)(&site, flat(present.clone().without_autodiff())) {
                Some(value) => {
                    let value = as_type(value.without_autodiff(), present.dtype()).reshape(present.dims());
                    let value = if device.is_autodiff() { value.autodiff() } else { value };
                    Param::initialized(param.id, value).set_require_grad(device.is_autodiff())
                }
                None => param.set_require_grad(false),
            };
            self.done.insert(replaced.id, Box::new(replaced.clone()));
            replaced
        }
    }
    let sites = by_id(&model);
    model.map(&mut Replace { sites, value, done: HashMap::new() })
}

/// The gradients of a model's trained parameters by path, flat and in f32.
///
/// Parameters that the loss does not depend on are missing.
pub fn gradients<M: Module>(model: &M, gradients: Gradients) -> BTreeMap<String, Tensor<1>> {
    struct Take {
        sites: HashMap<ParamId, Site>,
        gradients: Gradients,
        taken: BTreeMap<String, Tensor<1>>,
    }
    impl ModuleVisitor for Take {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !param.is_require_grad() {
                return;
            }
            let Some(site) = self.sites.remove(&param.id) else { return };
            if let Some(gradient) = param.val().grad_remove(&mut self.gradients) {
                self.taken.insert(site.path(), flat(gradient));
            }
        }
    }
    let mut take = Take { sites: by_id(model), gradients, taken: BTreeMap::new() };
    model.visit(&mut take);
    take.taken
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count = tensor.shape().num_elements();
    as_type(tensor, DType::F32).reshape([count])
}

/// Each parameter at its first place.
fn by_id<M: Module>(model: &M) -> HashMap<ParamId, Site> {
    let mut found = HashMap::new();
    for site in sites(model) {
        found.entry(site.id).or_insert(site);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};

    #[derive(Module, Debug)]
    struct Net {
        a: Linear,
        again: Linear,
        b: Linear,
    }

    fn net() -> Net {
        let (_alone, device) = (crate::ops::check::generator(), crate::device::host().autodiff());
        let a = LinearConfig::new(3, 3).init(&device);
        Net { again: a.clone(), a, b: LinearConfig::new(3, 2).with_bias(false).init(&device) }
    }

    fn output(net: &Net) -> Tensor<2> {
        let x = Tensor::<2>::from_floats([[1.0, -2.0, 0.5]], &crate::device::host().autodiff());
        net.b.forward(net.again.forward(net.a.forward(x)))
    }

    fn paths(net: &Net) -> Vec<String> {
        let mut paths = Vec::new();
        for_each_parameter(net, |site, _| paths.push(site.path()));
        paths
    }

    #[test]
    fn a_shared_parameter_comes_once() {
        assert_eq!(paths(&net()), ["a.weight", "a.bias", "b.weight"]);
    }

    #[test]
    fn held_parameters_are_those_that_are_visited() {
        let net = net();
        let mut visited = Vec::new();
        for_each_parameter(&net, |site, value| visited.push((site.path(), value.into_data())));
        let held: Vec<_> = parameters(&net).iter().map(|held| (held.site.path(), held.value().into_data())).collect();
        assert_eq!(held, visited);
    }

    #[test]
    fn the_same_values_give_the_same_output() {
        let net = net();
        let before = output(&net).into_data();
        let same = with_parameters(net, |_, value| Some(value));
        assert_eq!(output(&same).into_data(), before);
    }

    #[test]
    fn gradients_are_those_of_what_was_replaced() {
        let replaced = with_parameters(net(), |site, value| (site.module != "b").then_some(value * 0.5));
        let found = gradients(&replaced, output(&replaced).sum().backward());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a.bias", "a.weight"]);

        // Both uses of the shared layer count: a difference quotient over its first bias.
        let quotient = |step: f32| {
            let moved = with_parameters(replaced.clone(), |site, value| {
                (site.path() == "a.bias").then(|| value + Tensor::from_floats([step, 0.0, 0.0], &crate::device::host()))
            });
            output(&moved).sum().into_scalar::<f32>()
        };
        let expected = (quotient(0.1) - quotient(-0.1)) / 0.2;
        let gradient = found["a.bias"].clone().into_data().try_to_vec::<f32>().unwrap()[0];
        assert!((gradient - expected).abs() < 1e-4, "{gradient} {expected}");
    }
}
