//! Places in the optimise step where methods take part.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};

/// A part of the optimise step: sees the gradients before the optimizer and the model after it.
pub trait Hook<M>: Send {
    /// Edit the gradients of step `step`, from 1.
    fn gradients(&mut self, model: &M, gradients: GradientsParams, step: usize) -> GradientsParams {
        let _ = (model, step);
        gradients
    }

    /// Edit the model after step `step`.
    fn after_step(&mut self, model: M, step: usize) -> M {
        let _ = step;
        model
    }
}

/// Scales all gradients down together so that their common norm is at most `max`.
pub struct ClipGlobalNorm {
    /// The largest norm.
    pub max: f64,
}

impl<M: Module> Hook<M> for ClipGlobalNorm {
    fn gradients(&mut self, model: &M, gradients: GradientsParams, _: usize) -> GradientsParams {
        let Some(norm) = global_norm(model, &gradients) else { return gradients };
        // The same small constant as torch's clip_grad_norm_.
        let factor = (norm + 1e-6).recip() * self.max;
        let mut scale = Scale { factor: factor.clamp_max(1.0), gradients };
        model.visit(&mut scale);
        scale.gradients
    }
}

/// Keeps the places of shared parameters equal.
pub struct Retie;

impl<M: Module> Hook<M> for Retie {
    fn after_step(&mut self, model: M, _: usize) -> M {
        peft_core::retie(model)
    }
}

/// The Euclidean norm of all gradients together, `[1]`; `None` without gradients.
pub(crate) fn global_norm<M: Module>(model: &M, gradients: &GradientsParams) -> Option<Tensor<1>> {
    struct Sum<'a> {
        gradients: &'a GradientsParams,
        total: Option<Tensor<1>>,
        seen: std::collections::HashSet<burn::module::ParamId>,
    }
    impl ModuleVisitor for Sum<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !self.seen.insert(param.id) {
                return;
            }
            let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
            let square = peft_core::as_type(gradient, DType::F32).powf_scalar(2.0).sum();
            self.total = Some(match self.total.take() {
                Some(total) => total + square,
                None => square,
            });
        }
    }
    let mut sum = Sum { gradients, total: None, seen: Default::default() };
    model.visit(&mut sum);
    sum.total.map(Tensor::sqrt)
}

struct Scale {
    factor: Tensor<1>,
    gradients: GradientsParams,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let factor = peft_core::as_type(self.factor.clone(), gradient.dtype());
            self.gradients.register(param.id, gradient * factor.reshape([1; D]));
        }
    }
}
