//! Root-mean-square normalisation.

use super::differentiable;
use burn::tensor::Tensor;

/// `x / √(mean(x²) + ε) · weight` over the last dimension of `x: [.., d]`, for `weight: [d]`, both f32 (Zhang and Sennrich, 2019).
///
/// Keeps `x` and `weight` for the backward pass.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let values = (x.clone().inner(), weight.clone().inner());
    let y = forward(&values.0, &values.1, epsilon);
    differentiable([x.into_dispatch(), weight.into_dispatch()], y, move |dy, [_, of_weight]| {
        let (dx, dweight) = backward(&dy, &values.0, &values.1, epsilon, of_weight);
        [Some(dx.into_dispatch()), dweight.map(Tensor::into_dispatch)]
    })
}

fn forward<const D: usize>(x: &Tensor<D>, weight: &Tensor<1>, epsilon: f64) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if let (Some(x), Some(weight), dims) = (super::cpu::Cpu::contiguous(x), super::cpu::Cpu::contiguous(weight), x.dims()) {
        use peft_kernels::norm::rms_norm;
        return super::cpu::filled(dims, |out| rms_norm(out, x.slice(), weight.slice(), epsilon as f32));
    }
    #[cfg(feature = "cube")]
    if let Some(y) = super::cube::rms_norm(x, weight, epsilon) {
        return y;
    }
    composed(x.clone(), weight.clone(), epsilon)
}

fn backward<const D: usize>(
    dy: &Tensor<D>,
    x: &Tensor<D>,
    weight: &Tensor<1>,
    epsilon: f64,
    of_weight: bool,
) -> (Tensor<D>, Option<Tensor<1>>) {
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{Cpu, filled, tensor, zeros};
        if let (Some(dy), Some(values), Some(scale)) = (Cpu::contiguous(dy), Cpu::contiguous(x), Cpu::contiguous(weight)) {
            let mut dweight = of_weight.then(|| zeros(weight.dims()));
            let dx = filled(x.dims(), |dx| {
                let (dy, x, weight) = (dy.slice(), values.slice(), scale.slice());
                peft_kernels::norm::rms_norm_backward(dx, dweight.as_deref_mut(), dy, x, weight, epsilon as f32);
            });
            return (dx, dweight.map(|dweight| tensor(dweight, weight.dims())));
        }
    }
    #[cfg(feature = "cube")]
    if !of_weight && let Some(dx) = super::cube::rms_norm_backward(dy, x, weight, epsilon) {
        return (dx, None);
    }
    composed_backward(dy.clone(), x.clone(), weight.clone(), epsilon, of_weight)
}

fn composed<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let rms = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    x / rms * weight.unsqueeze()
}

fn composed_backward<const D: usize>(
    dy: Tensor<D>,
    x: Tensor<D>,
    weight: Tensor<1>,
    epsilon: f64,
    of_weight: bool,
) -> (Tensor<D>, Option<Tensor<1>>) {
    let d = weight.dims()[0];
    let rms = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    let normal = x / rms.clone();
    let scaled = dy.clone() * weight.unsqueeze();
    let along = (scaled.clone() * normal.clone()).mean_dim(D - 1);
    let dweight = of_weight.then(|| {
        let product = dy * normal.clone();
        let rows = product.shape().num_elements() / d;
        product.reshape([rows, d]).sum_dim(0).reshape([d])
    });
    ((scaled - normal * along) / rms, dweight)
}

#[cfg(test)]
mod tests {
    use super::super::check::{distance, gradient, random, same};
    use super::*;

    #[test]
    fn rows_may_be_none_or_more_than_a_line_of_a_gpu_s_grid() {
        for rows in [0, 40_000] {
            let (x, weight, dy) = (random([rows, 5]).inner(), random([5]).inner(), random([rows, 5]).inner());
            let (y, (dx, _)) = (rms_norm(x.clone(), weight.clone(), 1e-5), backward(&dy, &x, &weight, 1e-5, false));
            assert_eq!((y.dims(), dx.dims()), ([rows, 5], [rows, 5]));
            if rows > 0 {
                let (expected, _) = composed_backward(dy, x.clone(), weight.clone(), 1e-5, false);
                assert!(distance(y, composed(x, weight, 1e-5)) < 1e-5 && distance(dx, expected) < 1e-5);
            }
        }
    }

    #[test]
    fn it_is_the_composed_form() {
        for d in [7, 64, 100] {
            let (x, weight) = (random([3, 41, d]), random([d]));
            let found = rms_norm(x.clone(), weight.clone(), 1e-5);
            same(found, composed(x.clone(), weight.clone(), 1e-5), &[&gradient(&x), &gradient(&weight)]);
            let dy = random([3, 41, d]).inner();
            let (x, weight) = (x.inner(), weight.inner());
            let (dx, dweight) = backward(&dy, &x, &weight, 1e-5, true);
            let (alone, _) = backward(&dy, &x, &weight, 1e-5, false);
            let (cx, cweight) = composed_backward(dy, x, weight, 1e-5, true);
            assert!(distance(dx, cx.clone()) < 1e-5 && distance(alone, cx) < 1e-5 && distance(dweight.unwrap(), cweight.unwrap()) < 1e-5);
        }
    }
}
