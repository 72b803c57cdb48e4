//! How likely a model finds given tokens.

use super::metrics::Estimate;
use crate::data::{Batch, Batcher, Encoded};
use burn::tensor::{DType, Tensor};
use peft_core::ops::linear_cross_entropy;
use peft_core::{Error, LanguageModel, Result, as_type};
use peft_objectives::{cross_entropy, token_nll};
use serde::Serialize;

/// Final hidden states `[n, d]` at the batch's positions.
fn hidden<M: LanguageModel>(model: &M, batch: &Batch) -> Tensor<2> {
    let hidden = model.hidden(batch.ids.clone());
    let [rows, length, d] = hidden.dims();
    let hidden = hidden.reshape([rows * length, d]);
    match batch.positions.dims()[0] == rows * length {
        true => hidden,
        false => hidden.select(0, batch.positions.clone()),
    }
}

/// Mean negative log-likelihood of the batch's targets in nats, `[1]`, without the logits of all of them where the head is one matrix.
pub(crate) fn loss<M: LanguageModel>(model: &M, batch: Batch) -> Tensor<1> {
    let hidden = hidden(model, &batch);
    match model.head_weight().filter(|weight| weight.dtype().is_float()) {
        Some(weight) => linear_cross_entropy(as_type(hidden, DType::F32), weight, batch.targets),
        None => cross_entropy(model.head(hidden), batch.targets),
    }
}

/// Negative log-likelihood in nats of each of the batch's targets, with the logits of a few of them at a time.
pub(super) fn token_losses<M: LanguageModel>(model: &M, batch: &Batch) -> Result<Vec<f64>> {
    const LOGITS: usize = 16 << 20;
    let hidden = hidden(model, batch);
    let n = batch.targets.dims()[0];
    let at_once = (LOGITS / model.vocab_size().max(1)).max(1);
    let mut losses = Vec::with_capacity(n);
    for first in (0..n).step_by(at_once) {
        let part = first..(first + at_once).min(n);
        let logits = model.head(hidden.clone().slice_dim(0, part.clone()));
        let part = token_nll(logits, batch.targets.clone().slice_dim(0, part)).try_into_vec_as::<f32>();
        let part = part.map_err(|e| Error::Device(format!("losses could not be read: {e}")))?;
        losses.extend(part.into_iter().map(f64::from));
    }
    match losses.iter().all(|loss| loss.is_finite()) {
        true => Ok(losses),
        false => Err(Error::NonFinite { what: "evaluation loss".into() }),
    }
}

/// Batches for `model`, padded as `pad_id` says.
pub(super) fn batcher<M: LanguageModel>(model: &M, pad_id: u32) -> Batcher {
    Batcher::new(model.devices().into_iter().next().unwrap_or_default(), pad_id)
}

/// Say so if texts of these lengths are longer than the model was made for.
pub(super) fn warn_of_long<M: LanguageModel>(lengths: impl ExactSizeIterator<Item = usize>, model: &M) {
    let (all, most) = (lengths.len(), model.max_positions());
    let long = lengths.filter(|length| *length > most).count();
    if long > 0 {
        tracing::warn!("{long} of {all} texts are longer than the {most} tokens that the model was made for");
    }
}

/// The negative log-likelihoods of tokens, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Their sum in nats.
    pub sum: f64,
    /// The sum of their squares.
    pub squares: f64,
    /// How many there are.
    pub tokens: usize,
}

impl Likelihood {
    /// Add the likelihoods of more tokens.
    pub fn add(&mut self, losses: &[f64]) {
        self.sum += losses.iter().sum::<f64>();
        self.squares += losses.iter().map(|loss| loss * loss).sum::<f64>();
        self.tokens += losses.len();
    }

    /// Mean negative log-likelihood of a token in nats, its standard error as if tokens were independent of each other.
    pub fn loss(&self) -> Estimate {
        let n = self.tokens as f64;
        let mean = self.sum / n.max(1.0);
        Estimate::from_squares(mean, self.squares - n * mean * mean, n)
    }

    /// `exp(loss)`.
    pub fn perplexity(&self) -> Estimate {
        let loss = self.loss();
        // d exp(x) = exp(x) dx
        Estimate { value: loss.value.exp(), standard_error: loss.value.exp() * loss.standard_error }
    }

    /// Bits per byte of a text of that many bytes.
    pub fn bits_per_byte(&self, bytes: usize) -> Estimate {
        self.loss().scaled(self.tokens as f64 / bytes.max(1) as f64 / std::f64::consts::LN_2)
    }
}

/// Loss of a model on text.
#[derive(Clone, Debug, Serialize)]
pub struct Perplexity {
    /// Mean negative log-likelihood of a token, in nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Tokens that counted.
    pub tokens: usize,
}

/// Mean loss of the tokens that count in `examples`. `on_progress` gets the examples done and all.
///
/// # Errors
/// [`Error::InvalidConfig`] without examples; [`Error::NonFinite`].
pub fn perplexity<M: LanguageModel>(
    model: &M,
    examples: &[Encoded],
    batch_size: usize,
    batcher: &Batcher,
    mut on_progress: impl FnMut(usize, usize),
) -> Result<Perplexity> {
    if examples.is_empty() {
        return Err(Error::InvalidConfig("there are no examples to evaluate on".into()));
    }
    let model = model.valid();
    let (mut sum, mut tokens) = (0.0, 0);
    for (i, rows) in examples.chunks(batch_size.max(1)).enumerate() {
        let batch = batcher.batch(rows);
        let count = batch.targets.dims()[0];
        sum += f64::from(loss(&model, batch).into_scalar::<f32>()) * count as f64;
        tokens += count;
        on_progress((i * batch_size.max(1) + rows.len()).min(examples.len()), examples.len());
    }
    let loss = sum / tokens as f64;
    if !loss.is_finite() {
        return Err(Error::NonFinite { what: "evaluation loss".into() });
    }
    Ok(Perplexity { loss, perplexity: loss.exp(), tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_in_pieces_are_those_of_the_whole() {
        let losses = [1.0, 3.0, 2.0, 2.5, 0.5];
        let mut likelihood = Likelihood::default();
        likelihood.add(&losses[..2]);
        likelihood.add(&losses[2..]);
        let (found, expected) = (likelihood.loss(), Estimate::mean(&losses));
        assert!((found.value - expected.value).abs() < 1e-15 && (found.standard_error - expected.standard_error).abs() < 1e-12);
        assert!((likelihood.perplexity().value - 1.8f64.exp()).abs() < 1e-12);
        assert!((likelihood.bits_per_byte(9).value - 1.0 / std::f64::consts::LN_2).abs() < 1e-12);
    }
}
