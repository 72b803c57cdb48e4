//! Which solved rows stand before a prompt.

use super::config::FewShot;
use super::prepare::Solved;
use peft_core::{Result, seed};
use rand::seq::index;

/// The examples for the row `number`, which is `solved`: `k` of `pool`, never the row itself nor one that asks the same.
///
/// # Errors
/// [`Data`](peft_core::Error::Data) if the pool has too few others.
pub(super) fn shots<'a>(few_shot: &FewShot, pool: &'a [Solved], solved: &Solved, number: usize) -> Result<Vec<&'a Solved>> {
    let order: Vec<usize> = match few_shot.seed {
        Some(seed) => index::sample(&mut seed::rng(seed, &format!("few_shot.{number}")), pool.len(), pool.len()).into_vec(),
        None => (0..pool.len()).collect(),
    };
    let others = order.into_iter().map(|index| &pool[index]).filter(|other| other.prompt != solved.prompt);
    let shots: Vec<&Solved> = others.take(few_shot.k).collect();
    if shots.len() < few_shot.k {
        let (found, k) = (shots.len(), few_shot.k);
        return Err(solved.origin.error(format!("`few_shot` asks for {k} examples, and there are only {found} other rows")));
    }
    Ok(shots)
}
