//! The output head and its cross-entropy, without the logits of all tokens.

use crate::linear::{Weight, project};
use crate::matrix::{Matrix, MatrixMut, Output, matmul};
use crate::simd::{exp, max, sum, vectorized};
use rayon::prelude::*;

/// Logits that are alive at a time: as many rows as this many elements hold, and at least one.
const LOGITS: usize = 8 << 20;

/// What [`linear_cross_entropy`] computes besides the losses: gradients of their sum over the targets that count.
#[derive(Default)]
pub struct Gradients<'a> {
    /// Of the hidden states, `[n, d]`.
    pub hidden: Option<MatrixMut<'a>>,
    /// Of the transposed weight, `[vocabulary, d]`.
    pub weight: Option<MatrixMut<'a>>,
}

/// Negative log-likelihood in nats of each target under `softmax(hidden · weight)`; a negative target is left out and costs 0.
///
/// `hidden: [n, d]`, `weight: [d, vocabulary]`, `losses, targets: [n]`. Logits exist for a few rows at a time. Gradients, where asked
/// for, are of the sum of the losses times `scale`: they cost a second product with the weight and no memory of the size of the logits.
///
/// # Panics
/// If the shapes do not fit, or for a target outside the vocabulary.
pub fn linear_cross_entropy(losses: &mut [f32], mut gradients: Gradients, hidden: Matrix, weight: Weight, targets: &[i64], scale: f32) {
    let ([n, d], [_, vocabulary]) = (hidden.dims(), weight.dims());
    assert!(losses.len() == n && targets.len() == n, "{} losses and {} targets for {n} rows", losses.len(), targets.len());
    if let Some(target) = targets.iter().find(|target| **target >= vocabulary as i64) {
        panic!("target {target} is outside the vocabulary of {vocabulary}");
    }
    let rows = (LOGITS / vocabulary.max(1)).clamp(1, n.max(1));
    let mut logits: Vec<f32> = Vec::with_capacity(rows * vocabulary);
    let mut dhidden = gradients.hidden.take();
    if let Some(dweight) = &mut gradients.weight {
        dweight.clear();
    }
    let wanted = dhidden.is_some() || gradients.weight.is_some();
    for first in (0..n).step_by(rows) {
        let range = first..(first + rows).min(n);
        let dims = [range.len(), vocabulary];
        let hidden = hidden.rows(range.clone());
        logits.clear();
        // SAFETY: the product writes every element.
        project(unsafe { MatrixMut::uninitialized(logits.spare_capacity_mut(), dims) }, Output::Replace, hidden, weight);
        // SAFETY: there is room, and the elements have been written.
        unsafe { logits.set_len(dims[0] * vocabulary) };
        let logits = logits.as_mut_slice();
        let rows = logits.par_chunks_exact_mut(vocabulary).zip(&mut losses[range.clone()]).zip(&targets[range.clone()]);
        rows.for_each(|((logits, loss), target)| *loss = row(logits, usize::try_from(*target).ok(), wanted.then_some(scale)));
        let dlogits = Matrix::rows_of(logits, dims);
        if let Some(all) = dhidden.take() {
            let (now, later) = all.split_rows(range.len());
            project(now, Output::Replace, dlogits, weight.transpose());
            dhidden = Some(later);
        }
        if let Some(dweight) = &mut gradients.weight {
            matmul(dweight.reborrow(), Output::Add, dlogits.transpose(), hidden, 1.0);
        }
    }
    debug_assert!(dhidden.is_none_or(|left| left.dims() == [0, d]));
}

/// The loss of one row of logits; they become its gradient times `scale`, if there is one.
fn row(logits: &mut [f32], target: Option<usize>, scale: Option<f32>) -> f32 {
    let Some(target) = target else {
        logits.fill(0.0);
        return 0.0;
    };
    match scale {
        Some(scale) => loss_and_gradient(logits, target, scale),
        None => loss(logits, target),
    }
}

vectorized! {
    fn loss(logits: &[f32], target: usize) -> f32 {
        let highest = max(logits);
        let total = sum(logits, |logit| exp(logit - highest));
        highest - logits[target] + total.ln()
    }
}

vectorized! {
    fn loss_and_gradient(logits: &mut [f32], target: usize, scale: f32) -> f32 {
        let highest = max(logits);
        let chosen = logits[target];
        logits.iter_mut().for_each(|logit| *logit = exp(*logit - highest));
        let total = sum(logits, |weight| weight);
        let factor = scale / total;
        logits.iter_mut().for_each(|weight| *weight *= factor);
        logits[target] -= scale;
        highest - chosen + total.ln()
    }
}
