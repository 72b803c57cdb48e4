//! The output head with its cross-entropy.

use super::differentiable;
use crate::adapter::as_type;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor};

/// Mean negative log-likelihood in nats of `targets: [n]` under `softmax(hidden W)`, `[1]`; a negative target does not count.
///
/// `hidden: [n, d]` in f32 and `W: [d, vocabulary]` in any float type. Logits exist for a few rows at a time, so that memory does not
/// grow with tokens × vocabulary; gradients are computed beside them. With no target that counts the loss is 0.
///
/// # Panics
/// For a target outside the vocabulary.
pub fn linear_cross_entropy(hidden: Tensor<2>, weight: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let wanted = [hidden.is_tracked(), weight.is_tracked()];
    let targets = targets.into_data().convert::<i64>().try_into_vec::<i64>().expect("converted above");
    let Computed { loss, gradients } = compute(&hidden.clone().inner(), &weight.clone().inner(), &targets, wanted);
    let [dhidden, dweight] = gradients;
    differentiable([hidden.into_dispatch(), weight.into_dispatch()], loss, move |dy, _| {
        let scaled = |gradient: &Tensor<2>| gradient.clone() * as_type(dy.clone(), gradient.dtype()).unsqueeze();
        [&dhidden, &dweight].map(|gradient| gradient.as_ref().map(|gradient| scaled(gradient).into_dispatch()))
    })
}

struct Computed {
    loss: Tensor<1>,
    /// Of the hidden states and of the weight, where asked for.
    gradients: [Option<Tensor<2>>; 2],
}

fn compute(hidden: &Tensor<2>, weight: &Tensor<2>, targets: &[i64], wanted: [bool; 2]) -> Computed {
    let counted = targets.iter().filter(|target| **target >= 0).count().max(1);
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{Cpu, tensor, zeros};
        use peft_kernels::MatrixMut;
        use peft_kernels::cross_entropy::{Gradients, linear_cross_entropy};
        if let (Some(states), Some(stored)) = (Cpu::single(hidden), Cpu::of(weight))
            && let Some(stored) = stored.weight()
        {
            let [d, vocabulary] = weight.dims();
            let (shape, turned) = (hidden.dims(), [vocabulary, d]);
            let mut losses = zeros([targets.len()]);
            let mut dhidden = wanted[0].then(|| zeros(shape));
            let mut dweight = wanted[1].then(|| zeros(turned));
            let gradients = Gradients {
                hidden: dhidden.as_mut().map(|gradient| MatrixMut::rows_of(gradient, shape)),
                weight: dweight.as_mut().map(|gradient| MatrixMut::rows_of(gradient, turned)),
            };
            linear_cross_entropy(&mut losses, gradients, states.matrix(), stored, targets, 1.0 / counted as f32);
            let mean = losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / counted as f64;
            let dweight = dweight.map(|gradient| as_type(tensor(gradient, turned).transpose(), weight.dtype()));
            return Computed {
                loss: tensor(vec![mean as f32], [1]),
                gradients: [dhidden.map(|gradient| tensor(gradient, shape)), dweight],
            };
        }
    }
    composed(hidden, weight, targets, counted, wanted)
}

/// The same by Burn's operations, a few rows at a time.
fn composed(hidden: &Tensor<2>, weight: &Tensor<2>, targets: &[i64], counted: usize, wanted: [bool; 2]) -> Computed {
    const LOGITS: usize = 32 << 20;
    let ([n, _], [_, vocabulary]) = (hidden.dims(), weight.dims());
    let device = hidden.device();
    let rows = (LOGITS / vocabulary.max(1)).clamp(1, n.max(1));
    let mut loss = Tensor::<1>::zeros([1], &device);
    let mut dhidden = Vec::new();
    let mut dweight: Option<Tensor<2>> = None;
    for first in (0..n).step_by(rows) {
        let end = (first + rows).min(n);
        let chosen = &targets[first..end];
        assert!(chosen.iter().all(|target| *target < vocabulary as i64), "a target is outside the vocabulary of {vocabulary}");
        let states = as_type(hidden.clone().slice_dim(0, first..end), weight.dtype());
        let (lost, dlogits) = rows_loss(states.clone().matmul(weight.clone()), chosen, 1.0 / counted as f64);
        loss = loss + lost;
        if wanted == [false, false] {
            continue;
        }
        if wanted[0] {
            dhidden.push(as_type(dlogits.clone().matmul(weight.clone().transpose()), DType::F32));
        }
        if wanted[1] {
            let part = states.transpose().matmul(dlogits);
            dweight = Some(dweight.map_or_else(|| part.clone(), |total| total + part.clone()));
        }
    }
    let dhidden = wanted[0].then(|| if n == 0 { hidden.zeros_like() } else { Tensor::cat(dhidden, 0) });
    let dweight = wanted[1].then(|| dweight.unwrap_or_else(|| weight.zeros_like()));
    Computed { loss: loss / counted as f64, gradients: [dhidden, dweight] }
}

/// The sum of the losses of some rows, and `scale` times its gradient with respect to their logits.
fn rows_loss(logits: Tensor<2>, targets: &[i64], scale: f64) -> (Tensor<1>, Tensor<2>) {
    let (device, [rows, _]) = (logits.device(), logits.dims());
    #[cfg(feature = "cube")]
    if let Some((losses, gradient)) = super::cube::cross_entropy(&logits, || Tensor::from_ints(targets, &device), scale as f32) {
        return (losses.sum(), gradient);
    }
    let counts: Vec<f32> = targets.iter().map(|target| if *target >= 0 { 1.0 } else { 0.0 }).collect();
    let counts = Tensor::<1>::from_floats(counts.as_slice(), &device).reshape([rows, 1]);
    let ids: Vec<i64> = targets.iter().map(|target| (*target).max(0)).collect();
    let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &device).reshape([rows, 1]);
    let log = log_softmax(as_type(logits.clone(), DType::F32), 1);
    let lost = (log.clone().gather(1, ids.clone()) * counts.clone()).sum().neg();
    let scaled = counts * scale;
    let minus = log.zeros_like().scatter(1, ids, scaled.clone(), burn::tensor::IndexingUpdateOp::Add);
    (lost, as_type(log.exp() * scaled - minus, logits.dtype()))
}

#[cfg(test)]
mod tests {
    use super::super::check::{distance, gradient, random, same};
    use super::*;
    use crate::device::host;

    fn reference(hidden: Tensor<2>, weight: Tensor<2>, targets: &[i64]) -> Tensor<1> {
        let counted: Vec<i64> = (0..targets.len() as i64).filter(|i| targets[*i as usize] >= 0).collect();
        let ids: Vec<i64> = counted.iter().map(|i| targets[*i as usize]).collect();
        let rows = Tensor::<1, Int>::from_ints(counted.as_slice(), &host());
        let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &host()).reshape([-1, 1]);
        let log = log_softmax(hidden.matmul(weight), 1).select(0, rows.autodiff()).gather(1, ids.autodiff());
        -log.mean()
    }

    fn targets(n: usize, vocabulary: usize) -> Vec<i64> {
        (0..n).map(|i| if i % 3 == 1 { -100 } else { (i * 7 % vocabulary) as i64 }).collect()
    }

    #[test]
    fn it_is_the_cross_entropy_of_the_logits() {
        for (n, d, vocabulary) in [(7, 5, 11), (40, 16, 300)] {
            let (hidden, table) = (random([n, d]), random([vocabulary, d]));
            let targets = targets(n, vocabulary);
            let ids = Tensor::<1, Int>::from_ints(targets.as_slice(), &host());
            let weight = || table.clone().transpose();
            let found = linear_cross_entropy(hidden.clone(), weight(), ids);
            same(found, reference(hidden.clone(), weight(), &targets), &[&gradient(&hidden), &gradient(&table)]);
        }
    }

    #[test]
    fn both_forms_agree() {
        let (hidden, weight) = (random([20, 6]).inner(), random([6, 50]).inner());
        let targets = targets(20, 50);
        let counted = targets.iter().filter(|target| **target >= 0).count();
        let [found, expected] =
            [compute(&hidden, &weight, &targets, [true, true]), composed(&hidden, &weight, &targets, counted, [true, true])];
        assert!(distance(found.loss, expected.loss) < 1e-6);
        for (found, expected) in found.gradients.into_iter().zip(expected.gradients) {
            assert!(distance(found.unwrap(), expected.unwrap()) < 1e-5);
        }
    }

    #[test]
    fn without_a_target_that_counts_the_loss_is_zero() {
        let (hidden, weight) = (random([2, 3]), random([3, 4]).inner().autodiff());
        let loss = linear_cross_entropy(hidden.clone(), weight, Tensor::from_ints([-1, -100], &host()));
        assert_eq!(loss.clone().into_scalar::<f32>(), 0.0);
        let gradient = hidden.grad(&loss.backward()).unwrap();
        assert_eq!(gradient.abs().max().into_scalar::<f32>(), 0.0);
    }

    #[test]
    #[should_panic(expected = "outside the vocabulary of 4")]
    fn a_target_outside_the_vocabulary_is_refused() {
        linear_cross_entropy(random([1, 3]), random([3, 4]), Tensor::from_ints([4], &host()));
    }
}
