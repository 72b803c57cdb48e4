//! Parameters that several modules share.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use std::any::Any;
use std::collections::{HashMap, HashSet};

/// Whether a trained parameter appears in more than one place of the model.
pub fn has_shared<M: Module>(model: &M) -> bool {
    #[derive(Default)]
    struct Find {
        seen: HashSet<ParamId>,
        found: bool,
    }
    impl ModuleVisitor for Find {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found |= param.is_require_grad() && !self.seen.insert(param.id);
        }
    }
    let mut find = Find::default();
    model.visit(&mut find);
    find.found
}

/// Give every place of a shared trained parameter the value of its first place, after an optimizer step.
///
/// A parameter's gradients from all its uses add up under its one id, and the optimizer updates the first place that it meets.
pub fn retie<M: Module>(model: M) -> M {
    #[derive(Default)]
    struct Retie(HashMap<ParamId, Box<dyn Any>>);
    impl ModuleMapper for Retie {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !param.is_require_grad() {
                return param;
            }
            match self.0.get(&param.id).and_then(|first| first.downcast_ref::<Param<Tensor<D>>>()) {
                Some(first) => first.clone(),
                None => {
                    self.0.insert(param.id, Box::new(param.clone()));
                    param
                }
            }
        }
    }
    model.map(&mut Retie::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::optim::{GradientsParams, SgdConfig};

    #[derive(Module, Debug)]
    struct Twice {
        first: Param<Tensor<1>>,
        second: Param<Tensor<1>>,
    }

    #[test]
    fn a_shared_parameter_gets_the_gradient_of_all_its_uses_and_moves_everywhere() {
        let device = crate::device::host().autodiff();
        let theta = Param::from_tensor(Tensor::<1>::ones([1], &device));
        let model = Twice { first: theta.clone(), second: theta };
        assert!(has_shared(&model));
        let loss = model.first.val() * 2.0 + model.second.val() * 3.0;
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        let mut sgd = SgdConfig::new().init();
        let model = retie(sgd.step(0.1, model, grads));
        let value = |param: &Param<Tensor<1>>| param.val().into_scalar::<f32>();
        assert!((value(&model.first) - 0.5).abs() < 1e-6, "1 − 0.1 · (2 + 3)");
        assert_eq!(value(&model.first), value(&model.second));
        let grads = GradientsParams::from_grads((model.first.val() + model.second.val()).backward(), &model);
        assert_eq!(grads.get::<1>(model.first.id).unwrap().into_scalar::<f32>(), 2.0, "still one node");
    }
}
