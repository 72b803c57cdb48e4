//! Rotary positions.

use super::differentiable;
use burn::tensor::Tensor;

/// Turn the channel pairs `(i, i + hd/2)` of `x: [b, s, heads, hd]` by the angle of their position (Su et al., 2021).
///
/// `cos, sin: [s, hd/2]` are the cosines and sines of the angles, constants without autodiff; `[b · s, hd/2]` where the positions of rows
/// differ. Keeps nothing but them.
pub fn rotate(x: Tensor<4>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<4> {
    let y = turn(x.clone().inner(), cos, sin, false);
    let (cos, sin) = (cos.clone(), sin.clone());
    differentiable([x.into_dispatch()], y, move |dy, _| [Some(turn(dy, &cos, &sin, true).into_dispatch())])
}

fn turn(x: Tensor<4>, cos: &Tensor<2>, sin: &Tensor<2>, back: bool) -> Tensor<4> {
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{Cpu, filled};
        use peft_kernels::rotary::{Turn, rotate};
        if let (Some(values), Some(cos), Some(sin)) = (Cpu::contiguous(&x), Cpu::contiguous(cos), Cpu::contiguous(sin)) {
            let [_, _, heads, hd] = x.dims();
            let way = if back { Turn::Back } else { Turn::Forward };
            return filled(x.dims(), |out| rotate(out, values.slice(), [cos.slice(), sin.slice()], heads, hd / 2, way));
        }
    }
    composed(x, cos, if back { -sin.clone() } else { sin.clone() })
}

fn composed(x: Tensor<4>, cos: &Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, s, _, hd] = x.dims();
    let half = hd / 2;
    let along = |table: Tensor<2>| table.reshape([-1, s as i32, 1, half as i32]);
    let (cos, sin) = (along(cos.clone()), along(sin));
    let [a, b] = [0..half, half..2 * half].map(|channels| x.clone().slice_dim(3, channels));
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    Tensor::cat(vec![first, b * cos + a * sin], 3)
}

#[cfg(test)]
mod tests {
    use super::super::check::{distance, gradient, random, same};
    use super::*;

    #[test]
    fn it_is_the_composed_form() {
        for positions in [5, 2 * 5] {
            let x = random([2, 5, 3, 8]);
            let angles = random([positions, 4]).inner();
            let (cos, sin) = (angles.clone().cos(), angles.sin());
            same(rotate(x.clone(), &cos, &sin), composed(x.clone(), &cos, sin), &[&gradient(&x)]);
        }
    }

    #[test]
    fn rows_turn_by_their_own_positions() {
        let x = random([2, 3, 1, 4]).inner();
        let angles = random([6, 2]).inner();
        let both = rotate(x.clone(), &angles.clone().cos(), &angles.clone().sin());
        let second = angles.slice_dim(0, 3..6);
        let alone = rotate(x.slice_dim(0, 1..2), &second.clone().cos(), &second.sin());
        let allowed = if crate::device::host_is_cpu() { 0.0 } else { 1e-6 };
        assert!(distance(both.slice_dim(0, 1..2), alone) <= allowed);
    }
}
