//! Layer normalisation.

use super::differentiable;
use burn::tensor::Tensor;

/// `(x − mean(x)) / √(var(x) + ε) · weight + bias` over the last dimension of `x: [.., d]`, for `weight, bias: [d]`, all f32 (Ba et al.,
/// 2016).
///
/// Keeps `x` and `weight` for the backward pass.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let values = (x.clone().inner(), weight.clone().inner());
    let y = forward(&values.0, &values.1, &bias.clone().inner(), epsilon);
    let inputs = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
    differentiable(inputs, y, move |dy, [of_x, of_weight, of_bias]| {
        let (x, weight) = &values;
        let dx = of_x.then(|| input_gradient(&dy, x, weight, epsilon).into_dispatch());
        let dweight = of_weight.then(|| weight_gradient(&dy, x, epsilon).into_dispatch());
        let dbias = of_bias.then(|| over_rows(dy).into_dispatch());
        [dx, dweight, dbias]
    })
}

fn forward<const D: usize>(x: &Tensor<D>, weight: &Tensor<1>, bias: &Tensor<1>, epsilon: f64) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{Cpu, filled};
        if let (Some(values), Some(scale), Some(shift)) = (Cpu::contiguous(x), Cpu::contiguous(weight), Cpu::contiguous(bias)) {
            let affine = [scale.slice(), shift.slice()];
            return filled(x.dims(), |out| peft_kernels::layer_norm::layer_norm(out, values.slice(), affine, epsilon as f32));
        }
    }
    composed(x.clone(), weight.clone(), bias.clone(), epsilon)
}

fn input_gradient<const D: usize>(dy: &Tensor<D>, x: &Tensor<D>, weight: &Tensor<1>, epsilon: f64) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{Cpu, filled};
        use peft_kernels::layer_norm::layer_norm_backward;
        if let (Some(dy), Some(values), Some(scale)) = (Cpu::contiguous(dy), Cpu::contiguous(x), Cpu::contiguous(weight)) {
            let (dy, values, scale) = (dy.slice(), values.slice(), scale.slice());
            return filled(x.dims(), |dx| layer_norm_backward(dx, dy, values, scale, epsilon as f32));
        }
    }
    composed_input_gradient(dy.clone(), x.clone(), weight.clone(), epsilon)
}

fn weight_gradient<const D: usize>(dy: &Tensor<D>, x: &Tensor<D>, epsilon: f64) -> Tensor<1> {
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{Cpu, filled};
        use peft_kernels::layer_norm::layer_norm_weight_gradient;
        if let (Some(dy), Some(values)) = (Cpu::contiguous(dy), Cpu::contiguous(x)) {
            let (dy, values) = (dy.slice(), values.slice());
            return filled([x.dims()[D - 1]], |dweight| layer_norm_weight_gradient(dweight, dy, values, epsilon as f32));
        }
    }
    composed_weight_gradient(dy.clone(), x.clone(), epsilon)
}

fn composed<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let (normal, _) = normal(x, epsilon);
    normal * weight.unsqueeze() + bias.unsqueeze()
}

fn composed_input_gradient<const D: usize>(dy: Tensor<D>, x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let (normal, deviation) = normal(x, epsilon);
    let scaled = dy * weight.unsqueeze();
    let along = (scaled.clone() * normal.clone()).mean_dim(D - 1);
    (scaled.clone() - scaled.mean_dim(D - 1) - normal * along) / deviation
}

fn composed_weight_gradient<const D: usize>(dy: Tensor<D>, x: Tensor<D>, epsilon: f64) -> Tensor<1> {
    over_rows(dy * normal(x, epsilon).0)
}

/// `(x − mean(x)) / √(var(x) + ε)`, and what it is divided by.
fn normal<const D: usize>(x: Tensor<D>, epsilon: f64) -> (Tensor<D>, Tensor<D>) {
    let centred = x.clone() - x.mean_dim(D - 1);
    let deviation = (centred.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    (centred / deviation.clone(), deviation)
}

/// The sum over all but the last dimension.
fn over_rows<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let d = x.dims()[D - 1];
    let rows = x.shape().num_elements() / d;
    x.reshape([rows, d]).sum_dim(0).reshape([d])
}

#[cfg(test)]
mod tests {
    use super::super::check::{distance, gradient, random, same};
    use super::*;
    use burn::tensor::module;

    #[test]
    fn it_is_the_composed_form() {
        for d in [7, 64, 100] {
            let (x, weight, bias) = (random([3, 41, d]), random([d]), random([d]));
            let found = layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-5);
            let expected = module::layer_norm(x.clone(), weight.clone(), Some(bias.clone()), 1e-5);
            same(found.clone(), expected, &[&gradient(&x), &gradient(&weight), &gradient(&bias)]);
            let (values, weight, dy) = (x.inner(), weight.inner(), random([3, 41, d]).inner());
            let composed = composed(values.clone(), weight.clone(), bias.inner(), 1e-5);
            assert!(distance(found.inner(), composed) < 1e-5);
            let dx = input_gradient(&dy, &values, &weight, 1e-5);
            assert!(distance(dx, composed_input_gradient(dy.clone(), values.clone(), weight, 1e-5)) < 1e-5);
            let dweight = weight_gradient(&dy, &values, 1e-5);
            assert!(distance(dweight, composed_weight_gradient(dy, values, 1e-5)) < 1e-5);
        }
    }

    #[test]
    fn views_that_are_not_contiguous_are_read_in_order() {
        let (x, table) = (random([9, 5, 4]), random([9, 2]));
        let column = |index| table.clone().slice([0..9, index..index + 1]).reshape([9]);
        let view = || x.clone().swap_dims(0, 2);
        let found = layer_norm(view(), column(0), column(1), 1e-5);
        same(found, module::layer_norm(view(), column(0), Some(column(1)), 1e-5), &[&gradient(&x), &gradient(&table)]);
    }

    #[test]
    fn rows_far_from_zero_and_without_spread_are_normalised() {
        let (weight, bias) = (random([40]), random([40]));
        let far = (random([6, 40]).inner() + 300.0).autodiff().require_grad();
        let found = layer_norm(far.clone(), weight.clone(), bias.clone(), 1e-12);
        let expected = composed(far.clone(), weight.clone(), bias.clone(), 1e-12);
        assert!(distance(found.inner(), expected.inner()) < 1e-4);
        let constant = far.zeros_like() + 30.0;
        let found = layer_norm(constant, weight, bias.clone(), 1e-12).inner();
        assert!(distance(found, bias.inner().unsqueeze::<2>().expand([6, 40])) < 1e-5);
    }

    #[test]
    fn inputs_that_nobody_trains_get_no_gradient() {
        let (x, weight, bias) = (random([4, 6]), random([6]).inner().autodiff(), random([6]));
        let gradients = layer_norm(x.clone().inner().autodiff(), weight.clone(), bias.clone(), 1e-5).sum().backward();
        assert!(x.grad(&gradients).is_none() && weight.grad(&gradients).is_none());
        assert!(distance(bias.grad(&gradients).unwrap(), bias.inner().ones_like() * 4.0) < 1e-6);
    }
}
