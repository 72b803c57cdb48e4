//! Text generation: one token after the other, the most likely or drawn.

use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::{Error, LanguageModel, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::ops::ControlFlow;

/// How to choose tokens and when to stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// Stop after this many tokens.
    pub max_new_tokens: usize,
    /// Divides the logits before drawing; 0 takes the most likely token instead.
    pub temperature: f64,
    /// Draw among this many most likely tokens; 0 among all.
    pub top_k: usize,
    /// Draw among the most likely tokens that together have this probability; 1 among all.
    pub top_p: f64,
    /// Determines what is drawn.
    pub seed: u64,
    /// Tokens that end the text.
    pub eos_ids: Vec<u32>,
}

impl Default for GenerateConfig {
    /// Up to 128 tokens, greedily.
    fn default() -> Self {
        Self { max_new_tokens: 128, temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0, eos_ids: Vec::new() }
    }
}

impl GenerateConfig {
    fn validate(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::InvalidConfig(format!("temperature must be 0 or more, found {}", self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::InvalidConfig(format!("top_p must be above 0 and at most 1, found {}", self.top_p)));
        }
        Ok(())
    }
}

/// Continue `prompt`, calling `on_token` for each new token; stop when it breaks, after an end token or after `max_new_tokens`.
///
/// Returns the new tokens. An end token is neither returned nor passed to `on_token`. Runs without autodiff, whatever the model's mode.
///
/// # Errors
/// [`Error::InvalidConfig`] for a bad setting, an empty prompt or a token outside the vocabulary; [`Error::NonFinite`] if the model's
/// logits are not numbers.
pub fn generate<M: LanguageModel>(
    model: &M,
    prompt: &[u32],
    config: &GenerateConfig,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>> {
    let mut new = generate_batch(model, &[prompt], config, |_, token| on_token(token))?;
    Ok(new.pop().unwrap_or_default())
}

/// Continue several prompts at once, of any lengths; `on_token` gets the number of the prompt and its new token, and ends that prompt
/// alone when it breaks.
///
/// What a prompt is continued with does not depend on the others, up to rounding. Each draws its own random numbers. See [`generate`].
///
/// # Errors
/// As [`generate`].
pub fn generate_batch<M: LanguageModel>(
    model: &M,
    prompts: &[impl AsRef<[u32]>],
    config: &GenerateConfig,
    mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>> {
    config.validate()?;
    let prompts: Vec<&[u32]> = prompts.iter().map(AsRef::as_ref).collect();
    prompts.iter().try_for_each(|prompt| check_prompt(prompt, model.vocab_size()))?;
    let mut rows: Vec<Row> = (0..prompts.len()).map(|index| Row::new(config, index)).collect();
    let Some(longest) = prompts.iter().map(|prompt| prompt.len()).max().filter(|_| config.max_new_tokens > 0) else {
        return Ok(rows.into_iter().map(|row| row.new).collect());
    };
    let model = &model.valid();
    let device = model.devices().into_iter().next().unwrap_or_default();
    let padding: Vec<usize> = prompts.iter().map(|prompt| longest - prompt.len()).collect();
    // A text may grow past what the model was made for, at the price of copies; a huge `max_new_tokens` alone takes no memory.
    let expected = longest.saturating_add(config.max_new_tokens).min(model.max_positions().max(longest));
    let mut cache = model.cache(&padding, expected);
    let mut logits = read_prompts(model, &prompts, longest, &mut cache, &device);
    loop {
        let values = values(logits)?;
        for (index, (row, logits)) in rows.iter_mut().zip(values.chunks_exact(model.vocab_size())).enumerate() {
            if !row.done {
                row.done = row.advance(logits, |token| on_token(index, token))?;
            }
        }
        if rows.iter().all(|row| row.done) {
            return Ok(rows.into_iter().map(|row| row.new).collect());
        }
        // Rows that are done are fed their last token on; nothing reads what comes of it.
        let last: Vec<u32> = rows.iter().map(|row| row.new.last().copied().unwrap_or_default()).collect();
        logits = model.step(ids(&last, 1, &device), &mut cache);
    }
}

/// One text as it grows.
struct Row<'a> {
    sampler: Sampler<'a>,
    new: Vec<u32>,
    done: bool,
}

impl<'a> Row<'a> {
    fn new(config: &'a GenerateConfig, index: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        rng.set_stream(index as u64);
        Self { sampler: Sampler { config, rng }, new: Vec::new(), done: false }
    }

    /// Choose the next token; whether the text ends here.
    fn advance(&mut self, logits: &[f32], on_token: impl FnOnce(u32) -> ControlFlow<()>) -> Result<bool> {
        let token = self.sampler.choose(logits)?;
        let config = self.sampler.config;
        if config.eos_ids.contains(&token) {
            return Ok(true);
        }
        self.new.push(token);
        Ok(on_token(token).is_break() || self.new.len() == config.max_new_tokens)
    }
}

fn check_prompt(prompt: &[u32], vocab_size: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::InvalidConfig("the prompt has no tokens; give at least the token that begins a text".into()));
    }
    match prompt.iter().find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(Error::InvalidConfig(format!("token {id} is outside the vocabulary of {vocab_size}"))),
        None => Ok(()),
    }
}

/// Read the prompts in pieces, so that long ones never need scores of their length squared; logits `[prompts, vocab]` of the last tokens.
fn read_prompts<M: LanguageModel>(model: &M, prompts: &[&[u32]], longest: usize, cache: &mut M::Cache, device: &Device) -> Tensor<2> {
    const PIECE: usize = 512;
    // Shorter prompts begin later.
    let at = |prompt: &[u32], position: usize| (position + prompt.len()).checked_sub(longest).map_or(0, |index| prompt[index]);
    let mut read = |positions: std::ops::Range<usize>| {
        let piece: Vec<u32> = prompts.iter().flat_map(|prompt| positions.clone().map(|position| at(prompt, position))).collect();
        model.step(ids(&piece, positions.len(), device), cache)
    };
    let last = (longest - 1) / PIECE * PIECE;
    for start in (0..last).step_by(PIECE) {
        read(start..start + PIECE);
    }
    read(last..longest)
}

fn ids(ids: &[u32], length: usize, device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    let shape = [ids.len() / length, length];
    Tensor::from_data(TensorData::new(ids, shape), device)
}

fn values(logits: Tensor<2>) -> Result<Vec<f32>> {
    logits.try_into_vec_as::<f32>().map_err(|e| Error::Device(format!("logits could not be read: {e}")))
}

struct Sampler<'a> {
    config: &'a GenerateConfig,
    rng: ChaCha8Rng,
}

impl Sampler<'_> {
    fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        let best = argmax(logits).ok_or_else(|| Error::NonFinite { what: "logits".into() })?;
        if self.config.temperature == 0.0 {
            return Ok(best as u32);
        }
        let highest = logits[best];
        let weight = |logit: f32| (f64::from(logit - highest) / self.config.temperature).exp();
        let weights = logits.iter().enumerate().map(|(id, logit)| (id as u32, weight(*logit)));
        let mut candidates: Vec<_> = weights.collect();
        keep_top_k(&mut candidates, self.config.top_k);
        keep_top_p(&mut candidates, self.config.top_p);
        Ok(self.draw(&candidates))
    }

    fn draw(&mut self, candidates: &[(u32, f64)]) -> u32 {
        let mut left = self.rng.random::<f64>() * total(candidates);
        for (id, weight) in candidates {
            left -= weight;
            if left < 0.0 {
                return *id;
            }
        }
        // Rounding may leave a crumb after the last.
        candidates.last().expect("the most likely token is always a candidate").0
    }
}

/// The first of the highest logits; none if one is not a number or all are infinite.
fn argmax(logits: &[f32]) -> Option<usize> {
    if logits.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY) {
        return None;
    }
    let higher = |best: usize, id: usize| if logits[id] > logits[best] { id } else { best };
    (0..logits.len()).reduce(higher).filter(|best| logits[*best].is_finite())
}

type Candidate = (u32, f64);

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|(_, weight)| weight).sum()
}

/// The heavier first; of equals the first in the vocabulary.
fn by_weight(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k == 0 || k >= candidates.len() {
        return;
    }
    candidates.select_nth_unstable_by(k, by_weight);
    candidates.truncate(k);
}

/// Keep the fewest candidates that together have the fraction `p` of the weight.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f64) {
    if p >= 1.0 {
        return;
    }
    let total = total(candidates);
    // All candidates below this together weigh less than what may be left out: no need to sort them.
    let floor = (1.0 - p) * total / candidates.len() as f64;
    candidates.retain(|(_, weight)| *weight >= floor);
    candidates.sort_unstable_by(by_weight);
    let mut sum = 0.0;
    let enough = candidates.iter().position(|(_, weight)| {
        sum += weight;
        sum >= p * total
    });
    candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(config: &GenerateConfig) -> Sampler<'_> {
        Sampler { config, rng: ChaCha8Rng::seed_from_u64(config.seed) }
    }

    fn drawn(config: GenerateConfig, logits: &[f32]) -> Vec<u32> {
        let mut sampler = sampler(&config);
        let mut ids: Vec<_> = (0..500).map(|_| sampler.choose(logits).unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        assert_eq!(sampler(&GenerateConfig::default()).choose(&LOGITS).unwrap(), 1);
    }

    #[test]
    fn top_k_draws_among_the_k_best() {
        let config = GenerateConfig { temperature: 1.0, top_k: 3, ..Default::default() };
        assert_eq!(drawn(config, &LOGITS), [1, 2, 3]);
    }

    #[test]
    fn top_p_draws_among_the_fewest_that_reach_p() {
        // Probabilities 0.05, 0.37, 0.14, 0.37, 0.02 or so.
        let config = |top_p| GenerateConfig { temperature: 1.0, top_p, ..Default::default() };
        assert_eq!(drawn(config(0.3), &LOGITS), [1]);
        assert_eq!(drawn(config(0.7), &LOGITS), [1, 3]);
        assert_eq!(drawn(config(0.8), &LOGITS), [1, 2, 3]);
        assert_eq!(drawn(config(1.0), &LOGITS), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn frequencies_follow_the_temperature() {
        let config = GenerateConfig { temperature: 2.0, ..Default::default() };
        let mut sampler = sampler(&config);
        let logits = [0.0, 2.0 * 3f32.ln()];
        let ones = (0..4000).filter(|_| sampler.choose(&logits).unwrap() == 1).count();
        assert!((ones as f64 / 4000.0 - 0.75).abs() < 0.03, "{ones}");
    }

    #[test]
    fn logits_that_are_not_numbers_are_an_error() {
        let config = GenerateConfig::default();
        for logits in [vec![0.0, f32::NAN], vec![f32::INFINITY, 0.0], vec![f32::NEG_INFINITY; 2]] {
            let error = sampler(&config).choose(&logits).unwrap_err();
            assert_eq!(error.to_string(), "logits: not a finite number");
        }
    }

    #[test]
    fn settings_outside_their_range_are_errors() {
        let message = |config: GenerateConfig| config.validate().unwrap_err().to_string();
        assert_eq!(
            message(GenerateConfig { temperature: -0.5, ..Default::default() }),
            "invalid configuration: temperature must be 0 or more, found -0.5"
        );
        for top_p in [0.0, 1.5, f64::NAN] {
            let expected = format!("invalid configuration: top_p must be above 0 and at most 1, found {top_p}");
            assert_eq!(message(GenerateConfig { top_p, ..Default::default() }), expected);
        }
    }

    #[test]
    fn a_prompt_must_have_tokens_of_the_vocabulary() {
        assert!(check_prompt(&[0, 9], 10).is_ok());
        assert!(check_prompt(&[], 10).unwrap_err().to_string().contains("no tokens"));
        assert!(check_prompt(&[10], 10).unwrap_err().to_string().contains("token 10 is outside the vocabulary of 10"));
    }
}
