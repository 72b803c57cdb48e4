//! The gated feed-forward block.

use super::differentiable;
use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, silu};

/// `silu(gate) · up` for f32 tensors of one shape (Shazeer, 2020). Keeps its inputs for the backward pass.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    let values = (gate.clone().inner(), up.clone().inner());
    let y = forward(&values.0, &values.1);
    differentiable([gate.into_dispatch(), up.into_dispatch()], y, move |dy, _| {
        backward(&dy, &values.0, &values.1).map(|gradient| Some(gradient.into_dispatch()))
    })
}

fn forward<const D: usize>(gate: &Tensor<D>, up: &Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{Cpu, filled};
        if let (Some(a), Some(b)) = (Cpu::contiguous(gate), Cpu::contiguous(up)) {
            return filled(gate.dims(), |out| peft_kernels::gated::swiglu(out, a.slice(), b.slice()));
        }
    }
    composed(gate.clone(), up.clone())
}

fn backward<const D: usize>(dy: &Tensor<D>, gate: &Tensor<D>, up: &Tensor<D>) -> [Tensor<D>; 2] {
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{Cpu, tensor, zeros};
        if let (Some(dy), Some(a), Some(b)) = (Cpu::contiguous(dy), Cpu::contiguous(gate), Cpu::contiguous(up)) {
            let [mut dgate, mut dup] = [zeros(gate.dims()), zeros(gate.dims())];
            peft_kernels::gated::swiglu_backward(&mut dgate, &mut dup, dy.slice(), a.slice(), b.slice());
            return [tensor(dgate, gate.dims()), tensor(dup, gate.dims())];
        }
    }
    composed_backward(dy.clone(), gate.clone(), up.clone())
}

fn composed<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}

fn composed_backward<const D: usize>(dy: Tensor<D>, gate: Tensor<D>, up: Tensor<D>) -> [Tensor<D>; 2] {
    let s = sigmoid(gate.clone());
    let silu = gate * s.clone();
    let slope = s.clone() + silu.clone() * (-s + 1.0);
    [dy.clone() * up * slope, dy * silu]
}

#[cfg(test)]
mod tests {
    use super::super::check::{distance, gradient, random, same};
    use super::*;

    #[test]
    fn it_is_the_composed_form() {
        let (gate, up) = (random([2, 33, 70]), random([2, 33, 70]));
        let found = swiglu(gate.clone(), up.clone());
        same(found, composed(gate.clone(), up.clone()), &[&gradient(&gate), &gradient(&up)]);
        let dy = random([2, 33, 70]).inner();
        let (gate, up) = (gate.inner(), up.inner());
        let found = backward(&dy, &gate, &up);
        for (found, expected) in found.into_iter().zip(composed_backward(dy, gate, up)) {
            assert!(distance(found, expected) < 1e-5);
        }
    }

    #[test]
    fn views_that_are_not_contiguous_are_read_in_order() {
        let (gate, up) = (random([5, 9]), random([9, 5]));
        let found = swiglu(gate.clone(), up.clone().transpose());
        same(found, composed(gate.clone(), up.clone().transpose()), &[&gradient(&gate), &gradient(&up)]);
    }
}
