//! The Gaussian error linear unit.

use super::differentiable;
use burn::tensor::{Tensor, activation};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// `x · Φ(x)`, with the standard normal distribution `Φ` (Hendrycks and Gimpel, 2016). Keeps `x` for the backward pass.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(x, Form::Exact)
}

/// `x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`: the usual approximation of [`gelu`]. Keeps `x` for the backward pass.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(x, Form::Tanh)
}

#[derive(Clone, Copy)]
enum Form {
    Exact,
    Tanh,
}

fn apply<const D: usize>(x: Tensor<D>, form: Form) -> Tensor<D> {
    let values = x.clone().inner();
    let y = forward(&values, form);
    differentiable([x.into_dispatch()], y, move |dy, _| [Some(backward(&dy, &values, form).into_dispatch())])
}

fn forward<const D: usize>(x: &Tensor<D>, form: Form) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if let Some(values) = super::cpu::Cpu::contiguous(x) {
        use peft_kernels::gelu::{gelu, gelu_tanh};
        let kernel = match form {
            Form::Exact => gelu,
            Form::Tanh => gelu_tanh,
        };
        return super::cpu::filled(x.dims(), |out| kernel(out, values.slice()));
    }
    composed(x.clone(), form)
}

fn backward<const D: usize>(dy: &Tensor<D>, x: &Tensor<D>, form: Form) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if let (Some(gradient), Some(values)) = (super::cpu::Cpu::contiguous(dy), super::cpu::Cpu::contiguous(x)) {
        use peft_kernels::gelu::{gelu_backward, gelu_tanh_backward};
        let kernel = match form {
            Form::Exact => gelu_backward,
            Form::Tanh => gelu_tanh_backward,
        };
        return super::cpu::filled(x.dims(), |dx| kernel(dx, gradient.slice(), values.slice()));
    }
    composed_backward(dy.clone(), x.clone(), form)
}

fn composed<const D: usize>(x: Tensor<D>, form: Form) -> Tensor<D> {
    match form {
        Form::Exact => activation::gelu(x),
        Form::Tanh => activation::gelu_approximate(x),
    }
}

fn composed_backward<const D: usize>(dy: Tensor<D>, x: Tensor<D>, form: Form) -> Tensor<D> {
    // Beyond 10 the slopes are 0 and 1, and the products below could overflow.
    let x = x.clamp(-10.0, 10.0);
    let square = x.clone() * x.clone();
    let slope = match form {
        Form::Exact => {
            let share = ((x.clone() * FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
            share + x * (square * -0.5).exp() * (1.0 / (2.0 * PI).sqrt())
        }
        Form::Tanh => {
            let twice_root = 2.0 * (2.0 / PI).sqrt();
            let share = activation::sigmoid((square.clone() * 0.044715 + 1.0) * x.clone() * twice_root);
            let inner = (square * (3.0 * 0.044715) + 1.0) * twice_root;
            share.clone() + x * share.clone() * (-share + 1.0) * inner
        }
    };
    dy * slope
}

#[cfg(test)]
mod tests {
    use super::super::check::{distance, gradient, random, same};
    use super::*;
    use crate::device::host;

    const FORMS: [Form; 2] = [Form::Exact, Form::Tanh];

    /// By elementary operations: on some devices Burn's own gradient of `gelu` is that of the approximation.
    fn reference<const D: usize>(x: Tensor<D>, form: Form) -> Tensor<D> {
        match form {
            Form::Exact => x.clone() * ((x * FRAC_1_SQRT_2).erf() + 1.0) * 0.5,
            Form::Tanh => activation::gelu_approximate(x),
        }
    }

    #[test]
    fn it_is_the_composed_form() {
        for form in FORMS {
            for shape in [[3, 41, 7], [2, 33, 700]] {
                // Wide enough for both tails.
                let x = (random(shape).inner() * 3.0).autodiff().require_grad();
                same(apply(x.clone(), form), reference(x.clone(), form), &[&gradient(&x)]);
                let dy = random(shape).inner();
                let found = backward(&dy, &x.clone().inner(), form);
                assert!(distance(found, composed_backward(dy, x.inner(), form)) < 1e-5);
            }
        }
    }

    #[test]
    fn views_that_are_not_contiguous_are_read_in_order() {
        for form in FORMS {
            let x = random([9, 5]);
            same(apply(x.clone().transpose(), form), reference(x.clone().transpose(), form), &[&gradient(&x)]);
            let part = |x: &Tensor<2>| x.clone().slice([1..8, 2..5]);
            same(apply(part(&x), form), reference(part(&x), form), &[&gradient(&x)]);
        }
    }

    #[test]
    fn extreme_inputs_have_the_values_and_gradients_of_the_composed_form() {
        for form in FORMS {
            let x = Tensor::<1>::from_floats([-30.0, -10.0, -0.0, 0.0, 1e-40, -1e-40, 10.0, 30.0], &host()).autodiff().require_grad();
            same(apply(x.clone(), form), reference(x.clone(), form), &[&gradient(&x)]);
            let huge = Tensor::<1>::from_floats([-1e30, 1e30], &host());
            let slopes = |slope: fn(&Tensor<1>, &Tensor<1>, Form) -> Tensor<1>| slope(&huge.ones_like(), &huge, form);
            for slope in [slopes(backward), slopes(|dy, x, form| composed_backward(dy.clone(), x.clone(), form))] {
                assert!(distance(slope, Tensor::from_floats([0.0, 1.0], &host())) < 1e-6);
            }
        }
    }
}
