//! The optimizer of coefficients and mask logits.

use burn::tensor::Tensor;

/// Adam, with the decoupled weight decay of AdamW (Loshchilov and Hutter, 2019) if there is any, as PyTorch computes it.
///
/// It works on plain tensors, which belong to no module; and Burn's computes the bias correction `1 − 0.999^t` in f32, which is right to
/// four digits at the first step.
#[derive(Clone)]
pub struct Adam {
    weight_decay: f64,
    moments: Vec<Option<Moments>>,
}

#[derive(Clone)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
    steps: i32,
}

const BETAS: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;

impl Adam {
    /// For so many tensors.
    pub fn new(tensors: usize, weight_decay: f64) -> Self {
        Self { weight_decay, moments: vec![None; tensors] }
    }

    /// One step of the tensor of this number at learning rate `lr`.
    pub fn step(&mut self, index: usize, value: Tensor<1>, gradient: Tensor<1>, lr: f64) -> Tensor<1> {
        let [b1, b2] = BETAS;
        let square = gradient.clone() * gradient.clone();
        let moments = match self.moments[index].take() {
            Some(old) => Moments {
                first: old.first * b1 + gradient * (1.0 - b1),
                second: old.second * b2 + square * (1.0 - b2),
                steps: old.steps + 1,
            },
            None => Moments { first: gradient * (1.0 - b1), second: square * (1.0 - b2), steps: 1 },
        };
        let [c1, c2] = [1.0 - b1.powi(moments.steps), 1.0 - b2.powi(moments.steps)];
        let denominator = moments.second.clone().sqrt() / c2.sqrt() + EPSILON;
        let step = moments.first.clone() / denominator * (lr / c1);
        self.moments[index] = Some(moments);
        value * (1.0 - lr * self.weight_decay) - step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same in f64, from the definition.
    fn definition(gradients: &[f64], mut x: f64, lr: f64, decay: f64) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for (t, g) in gradients.iter().enumerate() {
            x *= 1.0 - lr * decay;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (m, v) = (m / (1.0 - 0.9f64.powi(t as i32 + 1)), v / (1.0 - 0.999f64.powi(t as i32 + 1)));
            x -= lr * m / (v.sqrt() + 1e-8);
        }
        x
    }

    #[test]
    fn steps_are_those_of_the_definition() {
        let device = peft_core::device::host();
        let mut adam = Adam::new(1, 0.1);
        let gradients = [[0.5f32, -2e-3], [0.1, 4e-3], [-0.7, 1e-3]];
        let mut value = Tensor::<1>::from_floats([1.0, -0.5], &device);
        for gradient in gradients {
            value = adam.step(0, value, Tensor::from_floats(gradient, &device), 0.05);
        }
        let found = value.into_data().try_into_vec::<f32>().unwrap();
        for (index, start) in [1.0, -0.5].into_iter().enumerate() {
            let expected = definition(&gradients.map(|g| f64::from(g[index])), start, 0.05, 0.1);
            assert!((f64::from(found[index]) - expected).abs() < 1e-6, "{found:?} {expected}");
        }
    }
}
