//! One step of training on one or several devices.

use crate::feed::Step;
use crate::memory::wait_until;
use crate::task::Task;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use peft_core::{penalty, seed};
use std::any::Any;
use std::collections::HashMap;
use std::panic::resume_unwind;

/// Copies of the model on further devices, beside the one on the first.
///
/// What is frozen is copied once; after each step the trained parameters of the first device are copied to the others. Gradients come the
/// other way and are added, so that `n` devices do in one step what one does with `n` times as many accumulated batches.
pub(crate) struct Replicas<M> {
    copies: Vec<(Device, M)>,
}

/// Gradients of a step on the first device, the mean loss and the tokens.
pub(crate) struct Learned {
    pub gradients: GradientsParams,
    pub loss: f64,
    pub tokens: usize,
}

impl<M: Module + Sync> Replicas<M> {
    /// Copies of `model` on `devices` after the first. They know its parameters by their identifiers, which loading a checkpoint changes:
    /// copies are made after it.
    pub fn new(model: &M, devices: &[Device]) -> Self {
        let copy = |device: &Device| (device.clone(), model.clone().fork(device));
        Self { copies: devices.iter().skip(1).map(copy).collect() }
    }

    /// How many devices there are.
    pub fn devices(&self) -> usize {
        self.copies.len() + 1
    }

    /// Forward and backward passes of a step, whose batches the devices take in turn.
    pub fn learn<T: Task<M>>(&self, task: &T, model: &M, device: &Device, step: Step<T::Batch>, step_seed: u64) -> Learned {
        let mut of_device: Vec<Vec<Seeded<T::Batch>>> = (0..self.devices()).map(|_| Vec::new()).collect();
        let devices = of_device.len();
        for (index, (batch, share)) in step.into_iter().enumerate() {
            // Each batch has its own random numbers, the same when a run is resumed and whichever device takes it.
            let seed = step_seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64);
            of_device[index % devices].push(Seeded { batch, share, seed });
        }
        let mut of_device = of_device.into_iter();
        let first = of_device.next().unwrap_or_default();
        if self.copies.is_empty() {
            return learn(task, model, device, first);
        }
        std::thread::scope(|scope| {
            let others: Vec<_> = of_device
                .zip(&self.copies)
                .map(|(batches, (device, copy))| scope.spawn(move || learn(task, copy, device, batches)))
                .collect();
            let mut together = learn(task, model, device, first);
            let mut sum = GradientsAccumulator::new();
            sum.accumulate(model, together.gradients);
            for other in others {
                wait_until(|| other.is_finished());
                let Learned { gradients, loss, tokens } = other.join().unwrap_or_else(|panic: Box<dyn Any + Send>| resume_unwind(panic));
                sum.accumulate(model, gradients.to_device(&device.clone().without_autodiff(), model));
                together.loss += loss;
                together.tokens += tokens;
            }
            together.gradients = sum.grads();
            together
        })
    }

    /// Bring the trained parameters of the first device to the others.
    pub fn follow(&mut self, model: &M) {
        if self.copies.is_empty() {
            return;
        }
        let mut trained = Collect(HashMap::new());
        model.visit(&mut trained);
        for (device, copy) in &mut self.copies {
            *copy = copy.clone().map(&mut Put { values: &trained.0, device });
        }
    }
}

/// A batch, its share of the terms that the step learns from, and the seed of its random numbers.
struct Seeded<B> {
    batch: B,
    share: f64,
    seed: u64,
}

/// Forward and backward passes of batches one after the other, their gradients added.
fn learn<M: Module, T: Task<M>>(task: &T, model: &M, device: &Device, batches: Vec<Seeded<T::Batch>>) -> Learned {
    let mut sum = GradientsAccumulator::new();
    let (mut losses, mut tokens) = (Vec::new(), 0);
    let single = batches.len() == 1;
    let mut only = None;
    for Seeded { batch, share, seed } in batches {
        device.seed(seed);
        seed::begin(seed);
        tokens += task.tokens(&batch);
        let loss = task.loss(model, batch, device);
        losses.push((loss.clone().inner(), share));
        let objective = match penalty(model) {
            Some(penalty) => loss + penalty,
            None => loss,
        };
        let gradients = GradientsParams::from_grads((objective * share).backward(), model);
        match single {
            true => only = Some(gradients),
            false => sum.accumulate(model, gradients),
        }
    }
    let loss = losses.into_iter().map(|(loss, share)| f64::from(loss.into_scalar::<f32>()) * share).sum();
    Learned { gradients: only.unwrap_or_else(|| sum.grads()), loss, tokens }
}

/// The values of trained parameters, without graph; those of any rank are kept by their type.
struct Collect(HashMap<ParamId, Box<dyn Any + Send>>);

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.0.insert(param.id, Box::new(param.base().inner()));
        }
    }
}

struct Put<'a> {
    values: &'a HashMap<ParamId, Box<dyn Any + Send>>,
    device: &'a Device,
}

impl ModuleMapper for Put<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.values.get(&param.id).and_then(|value| value.downcast_ref::<Tensor<D>>()) {
            Some(value) => {
                let value = value.clone().to_device(&self.device.clone().without_autodiff());
                param.map(|_| Tensor::from_inner(value).require_grad())
            }
            None => param,
        }
    }
}
