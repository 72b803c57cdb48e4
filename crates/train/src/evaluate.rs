//! Evaluation: perplexity, multiple choice by log-likelihood, exact match of generated answers.

use crate::data::{Batch, Batcher, ChatTemplate, Content, Encoded, Example, TextTokenizer, encode_continuation};
use crate::generate::{GenerateConfig, generate_batch};
use burn::tensor::{DType, Tensor};
use peft_core::ops::linear_cross_entropy;
use peft_core::{Error, LanguageModel, Result, as_type};
use peft_objectives::{cross_entropy, token_nll};
use serde::Serialize;
use std::ops::ControlFlow;

/// Final hidden states `[n, d]` at the batch's positions.
fn hidden<M: LanguageModel>(model: &M, batch: &Batch) -> Tensor<2> {
    let hidden = match &batch.packed {
        Some(packed) => model.hidden_packed(batch.ids.clone(), packed),
        None => model.hidden(batch.ids.clone()),
    };
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

/// Share of right answers.
#[derive(Clone, Debug, Serialize)]
pub struct Accuracy {
    /// Right answers over all.
    pub accuracy: f64,
    /// Standard error of that mean.
    pub standard_error: f64,
    /// For multiple choice: the share when log-likelihoods are divided by the length of the choice in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_normalised: Option<f64>,
    /// Examples.
    pub examples: usize,
}

impl Accuracy {
    fn of(right: &[bool]) -> Self {
        let n = right.len().max(1) as f64;
        let accuracy = right.iter().filter(|r| **r).count() as f64 / n;
        let standard_error = if right.len() > 1 { (accuracy * (1.0 - accuracy) / (n - 1.0)).sqrt() } else { 0.0 };
        Self { accuracy, standard_error, accuracy_normalised: None, examples: right.len() }
    }
}

/// Whether the right choice has the highest log-likelihood given the prompt.
///
/// # Errors
/// [`Error::Data`] for an example that is not multiple choice.
pub fn multiple_choice<M: LanguageModel>(
    model: &M,
    tokenizer: &TextTokenizer,
    examples: &[Example],
    batcher: &Batcher,
    mut on_progress: impl FnMut(usize, usize),
) -> Result<Accuracy> {
    let model = model.valid();
    let (mut right, mut right_normalised) = (Vec::new(), Vec::new());
    for (i, example) in examples.iter().enumerate() {
        let Content::Choice { prompt, choices, answer } = &example.content else {
            return Err(example.error("multiple-choice needs `prompt`, `choices` and `answer`"));
        };
        let rows = choices.iter().map(|choice| encode_continuation(tokenizer, prompt, choice, true)).collect::<Result<Vec<_>>>()?;
        if let Some(empty) = rows.iter().position(|row| row.supervised() == 0) {
            return Err(example.error(format!("choice {empty} has no tokens")));
        }
        let batch = batcher.batch(&rows);
        let nll: Vec<f32> = token_nll(model.head(hidden(&model, &batch)), batch.targets)
            .into_data()
            .try_into_vec()
            .map_err(|e| Error::Device(format!("{e:?}")))?;
        let mut next = nll.into_iter();
        let scores: Vec<f64> = rows.iter().map(|row| -next.by_ref().take(row.supervised()).map(f64::from).sum::<f64>()).collect();
        let normalised: Vec<f64> = scores.iter().zip(choices).map(|(score, choice)| score / choice.len().max(1) as f64).collect();
        right.push(best(&scores) == Some(*answer));
        right_normalised.push(best(&normalised) == Some(*answer));
        on_progress(i + 1, examples.len());
    }
    let normalised = Accuracy::of(&right_normalised).accuracy;
    Ok(Accuracy { accuracy_normalised: Some(normalised), ..Accuracy::of(&right) })
}

fn best(scores: &[f64]) -> Option<usize> {
    scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index)
}

/// Whether the greedy continuation of the prompt equals the answer, without surrounding spaces.
///
/// `batch_size` prompts are continued together. The answer is `answer`, else `completion`, else the last message if it is the assistant's.
///
/// # Errors
/// [`Error::Data`] for an example without an answer.
pub fn exact_match<M: LanguageModel>(
    model: &M,
    tokenizer: &TextTokenizer,
    template: Option<&ChatTemplate>,
    examples: &[Example],
    batch_size: usize,
    max_new_tokens: usize,
    mut on_progress: impl FnMut(usize, usize),
) -> Result<Accuracy> {
    let config = GenerateConfig { max_new_tokens, eos_ids: tokenizer.eos_ids().to_vec(), ..GenerateConfig::default() };
    let mut right = Vec::new();
    for examples_of_batch in examples.chunks(batch_size.max(1)) {
        let questions = examples_of_batch.iter().map(|example| question(tokenizer, template, example)).collect::<Result<Vec<_>>>()?;
        let (prompts, answers): (Vec<_>, Vec<_>) = questions.into_iter().unzip();
        let written = generate_batch(model, &prompts, &config, |_, _| ControlFlow::Continue(()))?;
        for (tokens, answer) in written.iter().zip(answers) {
            right.push(tokenizer.decode(tokens, true)?.trim() == answer.trim());
        }
        on_progress(right.len(), examples.len());
    }
    Ok(Accuracy::of(&right))
}

fn question(tokenizer: &TextTokenizer, template: Option<&ChatTemplate>, example: &Example) -> Result<(Vec<u32>, String)> {
    match example.content.posed(template.is_some()).as_ref() {
        Content::Question { prompt, answer } => Ok((tokenizer.encode(prompt, true)?, answer.clone())),
        Content::Completion { prompt, completion, answer } => {
            Ok((tokenizer.encode(prompt, true)?, answer.clone().unwrap_or_else(|| completion.clone())))
        }
        Content::Chat { messages } => match messages.split_last() {
            Some((last, asked)) if last.role == "assistant" && !asked.is_empty() => {
                let template = template.ok_or_else(|| example.error("`messages` need a chat template, and the checkpoint has none"))?;
                let text = template.render(asked, true).map_err(|e| example.error(e))?;
                Ok((tokenizer.encode(&text, false)?, last.content.clone()))
            }
            _ => Err(example.error("exact-match needs a last message by the assistant")),
        },
        _ => Err(example.error("exact-match needs `prompt` with `completion` or `answer`, or `messages`")),
    }
}
