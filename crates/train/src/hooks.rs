//! Places in the optimise step where methods take part.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
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

/// Keeps the places of shared parameters equal.
pub struct Retie;

impl<M: Module> Hook<M> for Retie {
    fn after_step(&mut self, model: M, _: usize) -> M {
        peft_core::retie(model)
    }
}

/// The parameters that are trained, so that what happens to their gradients at each step costs what they cost, whatever the size of the
/// model around them.
pub(crate) struct TrainedParams(Vec<(ParamId, usize)>);

impl TrainedParams {
    pub fn of<M: Module>(model: &M) -> Self {
        // In the order of the model: identifiers are random, and sums depend on their order.
        struct Collect(Vec<(ParamId, usize)>);
        impl ModuleVisitor for Collect {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if param.is_require_grad() && !self.0.iter().any(|(id, _)| *id == param.id) {
                    self.0.push((param.id, D));
                }
            }
        }
        let mut collect = Collect(Vec::new());
        model.visit(&mut collect);
        Self(collect.0)
    }

    /// The Euclidean norm of all gradients together; 0 without gradients.
    pub fn norm(&self, gradients: &GradientsParams) -> f64 {
        let squares = self.0.iter().filter_map(|(id, rank)| match rank {
            1 => square::<1>(gradients, *id),
            2 => square::<2>(gradients, *id),
            3 => square::<3>(gradients, *id),
            4 => square::<4>(gradients, *id),
            _ => square::<5>(gradients, *id),
        });
        squares.reduce(|a, b| a + b).map_or(0.0, |total| f64::from(total.into_scalar::<f32>()).sqrt())
    }

    /// Scale all gradients down together so that their norm, which is `norm` now, is at most `max`.
    pub fn clip(&self, gradients: &mut GradientsParams, norm: f64, max: f64) {
        // The same small constant as torch's clip_grad_norm_.
        let factor = max / (norm + 1e-6);
        if factor >= 1.0 {
            return;
        }
        for (id, rank) in &self.0 {
            match rank {
                1 => scale::<1>(gradients, *id, factor),
                2 => scale::<2>(gradients, *id, factor),
                3 => scale::<3>(gradients, *id, factor),
                4 => scale::<4>(gradients, *id, factor),
                _ => scale::<5>(gradients, *id, factor),
            }
        }
    }
}

fn square<const D: usize>(gradients: &GradientsParams, id: ParamId) -> Option<Tensor<1>> {
    Some(peft_core::as_type(gradients.get::<D>(id)?, DType::F32).powf_scalar(2.0).sum())
}

fn scale<const D: usize>(gradients: &mut GradientsParams, id: ParamId, factor: f64) {
    if let Some(gradient) = gradients.remove::<D>(id) {
        gradients.register(id, gradient * factor);
    }
}
