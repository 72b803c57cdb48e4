//! Projections on stored weights, with and without a low-rank branch.

use super::differentiable;
use crate::adapter::as_type;
use burn::backend::DispatchTensor;
use burn::tensor::{DType, Tensor};

/// `x W + b` for `x: [n, d_in]` in f32, `W: [d_in, d_out]` in any float type and `b: [d_out]`; `[n, d_out]` in f32.
///
/// On the CPU a weight in half precision is widened piece by piece; on other devices the product runs in the weight's type. For the
/// backward pass of a frozen weight nothing is kept but the weight.
pub fn project(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let stored = weight.clone().inner();
    let bias = bias.map(|bias| as_type(bias, DType::F32));
    let y = affine(&x.clone().inner(), &stored, bias.clone().map(Tensor::inner));
    // A frozen weight needs no x.
    let kept = weight.is_tracked().then(|| x.clone().inner());
    let backward = move |dy: &Tensor<2>, [of_x, of_weight]: [bool; 2]| {
        let dx = of_x.then(|| product(dy, &stored.clone().transpose()).into_dispatch());
        let dweight = kept.as_ref().filter(|_| of_weight).map(|x| gradient_of_weight(x, dy, stored.dtype()));
        [dx, dweight.map(Tensor::into_dispatch)]
    };
    let inputs = [x.into_dispatch(), weight.into_dispatch()];
    match bias {
        None => differentiable(inputs, y, move |dy, wanted| backward(&dy, wanted)),
        Some(bias) => {
            let [x, weight] = inputs;
            differentiable([x, weight, bias.into_dispatch()], y, move |dy, [of_x, of_weight, of_bias]| {
                let [dx, dweight] = backward(&dy, [of_x, of_weight]);
                [dx, dweight, gradient_of_bias(dy, of_bias)]
            })
        }
    }
}

#[cfg(feature = "cpu")]
fn on_cpu(bias: &Tensor<1>) -> super::cpu::Cpu {
    super::cpu::Cpu::contiguous(bias).expect("a bias is where its weight is")
}

fn gradient_of_bias(dy: Tensor<2>, wanted: bool) -> Option<DispatchTensor> {
    wanted.then(|| dy.sum_dim(0).squeeze_dim::<1>(0).into_dispatch())
}

fn gradient_of_weight(x: &Tensor<2>, dy: &Tensor<2>, dtype: DType) -> Tensor<2> {
    as_type(product(&x.clone().transpose(), dy), dtype)
}

/// `x W`, outside any graph.
fn product(x: &Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    affine(x, weight, None)
}

/// `x W + b`, outside any graph.
fn affine(x: &Tensor<2>, weight: &Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{self, Cpu};
        use peft_kernels::linear;
        if let (Some(values), Some(stored)) = (Cpu::single(x), Cpu::of(weight))
            && let Some(stored) = stored.weight()
        {
            let shape = [x.dims()[0], weight.dims()[1]];
            let bias = bias.as_ref().map(on_cpu);
            // SAFETY: it replaces every element.
            return unsafe {
                cpu::product(shape, |out| linear::project_with_bias(out, values.matrix(), stored, bias.as_ref().map(Cpu::slice)))
            };
        }
    }
    let narrow = as_type(x.clone(), weight.dtype());
    let y = as_type(narrow.matmul(weight.clone()), x.dtype());
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// `x W + s · (x A) B + bias` (Hu et al., 2022, equation 3), `[n, d_out]`.
///
/// `x: [n, d_in]`, `A: [d_in, r]`, `B: [r, d_out]` in f32, `W: [d_in, d_out]` in any float type, `bias: [d_out]`. One operation: bias
/// and branch are added into the output, the backward pass keeps `x` and `x A` only, and no gradient of a frozen `W` is ever formed.
pub fn project_low_rank(x: Tensor<2>, weight: Tensor<2>, [a, b]: [Tensor<2>; 2], scale: f64, bias: Option<Tensor<1>>) -> Tensor<2> {
    let values = LowRank { x: x.clone().inner(), weight: weight.clone().inner(), a: a.clone().inner(), b: b.clone().inner(), scale };
    let bias = bias.map(|bias| as_type(bias, DType::F32));
    let (y, hidden) = values.forward(bias.clone().map(Tensor::inner));
    let backward = move |dy: &Tensor<2>, [of_x, of_weight]: [bool; 2]| {
        let [dx, da, db] = values.backward(dy, &hidden, of_x);
        let dweight = of_weight.then(|| gradient_of_weight(&values.x, dy, values.weight.dtype()));
        [dx, dweight, da, db].map(|gradient| gradient.map(Tensor::into_dispatch))
    };
    let inputs = [x, weight, a, b].map(Tensor::into_dispatch);
    match bias {
        None => differentiable(inputs, y, move |dy, [of_x, of_weight, ..]| backward(&dy, [of_x, of_weight])),
        Some(bias) => {
            let [x, weight, a, b] = inputs;
            differentiable([x, weight, a, b, bias.into_dispatch()], y, move |dy, [of_x, of_weight, _, _, of_bias]| {
                let [dx, dweight, da, db] = backward(&dy, [of_x, of_weight]);
                [dx, dweight, da, db, gradient_of_bias(dy, of_bias)]
            })
        }
    }
}

struct LowRank {
    x: Tensor<2>,
    weight: Tensor<2>,
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f64,
}

impl LowRank {
    /// The output and `x A: [n, r]`.
    fn forward(&self, bias: Option<Tensor<1>>) -> (Tensor<2>, Tensor<2>) {
        #[cfg(feature = "cpu")]
        {
            use super::cpu::{self, Cpu, tensor, zeros};
            use peft_kernels::{MatrixMut, linear};
            let (inputs, stored) = ([&self.x, &self.a, &self.b].map(Cpu::single), Cpu::of(&self.weight));
            if let ([Some(x), Some(a), Some(b)], Some(weight)) = (inputs, stored.as_ref().and_then(Cpu::weight)) {
                let (shape, narrow) = ([self.x.dims()[0], self.b.dims()[1]], [self.x.dims()[0], self.a.dims()[1]]);
                let mut hidden = zeros(narrow);
                let bias = bias.as_ref().map(on_cpu);
                let fill = |out: MatrixMut| {
                    let (hidden, factors) = (MatrixMut::rows_of(&mut hidden, narrow), [a.matrix(), b.matrix()]);
                    let bias = bias.as_ref().map(Cpu::slice);
                    linear::project_low_rank(out, hidden, x.matrix(), weight, factors, self.scale as f32, bias);
                };
                // SAFETY: it begins with a projection that replaces every element.
                let y = unsafe { cpu::product(shape, fill) };
                return (y, tensor(hidden, narrow));
            }
        }
        let hidden = self.x.clone().matmul(self.a.clone());
        (affine(&self.x, &self.weight, bias) + hidden.clone().matmul(self.b.clone()) * self.scale, hidden)
    }

    /// The gradients of `x`, `A` and `B`.
    fn backward(&self, dy: &Tensor<2>, hidden: &Tensor<2>, of_x: bool) -> [Option<Tensor<2>>; 3] {
        #[cfg(feature = "cpu")]
        {
            use super::cpu::{Cpu, tensor, zeros};
            use peft_kernels::{MatrixMut, linear};
            let (inputs, stored) = ([dy, &self.x, hidden, &self.a, &self.b].map(Cpu::single), Cpu::of(&self.weight));
            if let ([Some(dy), Some(x), Some(hidden), Some(a), Some(b)], Some(weight)) = (inputs, stored.as_ref().and_then(Cpu::weight)) {
                let shapes = [self.x.dims(), self.a.dims(), self.b.dims()];
                let mut dx = of_x.then(|| zeros(shapes[0]));
                let [mut da, mut db] = [zeros(shapes[1]), zeros(shapes[2])];
                let grads = linear::LowRankGradients {
                    x: dx.as_mut().map(|dx| MatrixMut::rows_of(dx, shapes[0])),
                    a: MatrixMut::rows_of(&mut da, shapes[1]),
                    b: MatrixMut::rows_of(&mut db, shapes[2]),
                };
                let (inputs, factors) = ([x.matrix(), hidden.matrix()], [a.matrix(), b.matrix()]);
                linear::project_low_rank_backward(grads, dy.matrix(), inputs, weight, factors, self.scale as f32);
                let dx = dx.map(|dx| tensor(dx, shapes[0]));
                return [dx, Some(tensor(da, shapes[1])), Some(tensor(db, shapes[2]))];
            }
        }
        self.composed_backward(dy, hidden, of_x)
    }

    fn composed_backward(&self, dy: &Tensor<2>, hidden: &Tensor<2>, of_x: bool) -> [Option<Tensor<2>>; 3] {
        let dhidden = dy.clone().matmul(self.b.clone().transpose()) * self.scale;
        let db = hidden.clone().transpose().matmul(dy.clone()) * self.scale;
        let da = self.x.clone().transpose().matmul(dhidden.clone());
        let dx = of_x.then(|| product(dy, &self.weight.clone().transpose()) + dhidden.matmul(self.a.clone().transpose()));
        [dx, Some(da), Some(db)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{distance, gradient, random, same};
    use super::*;
    use crate::device::{host, host_is_cpu};

    #[test]
    fn a_projection_is_a_product() {
        for (n, d_in, d_out) in [(1, 40, 30), (70, 33, 65)] {
            let (x, w, turned) = (random([n, d_in]), random([d_in, d_out]), random([d_out, d_in]));
            same(project(x.clone(), w.clone(), None), x.clone().matmul(w.clone()), &[&gradient(&x), &gradient(&w)]);
            let view = || turned.clone().transpose();
            same(project(x.clone(), view(), None), x.clone().matmul(view()), &[&gradient(&x), &gradient(&turned)]);
        }
    }

    #[test]
    fn a_weight_in_half_precision_is_the_same_as_its_values() {
        let (x, w) = (random([20, 33]), random([33, 65]).inner());
        for dtype in [DType::BF16, DType::F16].into_iter().filter(|dtype| host().supports_dtype(*dtype)) {
            let stored = w.clone().cast(dtype);
            let wide = stored.clone().cast(DType::F32).autodiff();
            let found = project(x.clone(), stored.autodiff(), None);
            assert_eq!(found.dtype(), DType::F32);
            // Devices without a kernel compute in the weight's own type.
            let tolerance = if host_is_cpu() { 2e-5 } else { 2e-2 };
            assert!(distance(found.clone().inner(), x.clone().matmul(wide.clone()).inner()) < tolerance);
        }
    }

    #[test]
    fn a_bias_is_added_and_learns() {
        let (x, w, bias) = (random([50, 33]), random([33, 65]), random([65]));
        let found = project(x.clone(), w.clone(), Some(bias.clone()));
        let expected = x.clone().matmul(w.clone()) + bias.clone().unsqueeze();
        same(found, expected, &[&gradient(&x), &gradient(&w), &gradient(&bias)]);
    }

    #[test]
    fn the_branch_is_the_composed_form() {
        let (x, w, a, b, bias) = (random([50, 33]), random([33, 65]), random([33, 4]), random([4, 65]), random([65]));
        let low_rank = |bias| project_low_rank(x.clone(), w.clone(), [a.clone(), b.clone()], 1.5, bias);
        let composed = || x.clone().matmul(w.clone()) + x.clone().matmul(a.clone()).matmul(b.clone()) * 1.5;
        same(low_rank(None), composed(), &[&gradient(&x), &gradient(&w), &gradient(&a), &gradient(&b)]);
        let expected = composed() + bias.clone().unsqueeze();
        same(low_rank(Some(bias.clone())), expected, &[&gradient(&x), &gradient(&w), &gradient(&a), &gradient(&b), &gradient(&bias)]);
        let [x, weight, a, b] = [x, w, a, b].map(Tensor::inner);
        let values = LowRank { x, weight, a, b, scale: 1.5 };
        let (_, hidden) = values.forward(None);
        let dy = random([50, 65]).inner();
        let found = values.backward(&dy, &hidden, true);
        for (found, expected) in found.into_iter().zip(values.composed_backward(&dy, &hidden, true)) {
            assert!(distance(found.unwrap(), expected.unwrap()) < 1e-5);
        }
    }

    #[test]
    fn frozen_inputs_get_no_gradient() {
        let (x, w) = (random([5, 6]).inner().autodiff(), random([6, 7]).inner().autodiff());
        let (a, b) = (random([6, 2]), random([2, 7]));
        let y = project_low_rank(x.clone(), w.clone(), [a.clone(), b.clone()], 1.0, None);
        let gradients = y.sum().backward();
        assert!(x.grad(&gradients).is_none() && w.grad(&gradients).is_none());
        assert!(a.grad(&gradients).is_some() && b.grad(&gradients).is_some());
    }
}
