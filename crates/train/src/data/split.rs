//! Examples set aside for evaluation.

use super::sampler::shuffle;
use peft_core::{Error, Result, seed};

/// Divide `examples` examples into those to train on and those to evaluate on, both in the order of the file.
///
/// `eval` is a fraction of them if it is below 1, and a count otherwise. Which ones is drawn by the seed alone.
///
/// # Errors
/// [`Error::InvalidConfig`] if `eval` is neither a fraction nor a count, or if one of the parts would be empty.
pub fn split(examples: usize, eval: f64, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    let invalid = |reason: String| Err(Error::InvalidConfig(reason));
    if !(eval.is_finite() && eval > 0.0 && (eval < 1.0 || eval.fract() == 0.0)) {
        return invalid(format!("eval_split is {eval}; it must be a fraction between 0 and 1 or a whole number of examples"));
    }
    let count = if eval < 1.0 { (eval * examples as f64).round() } else { eval };
    if count < 1.0 || count >= examples as f64 {
        let empty = if count < 1.0 { "evaluate" } else { "train" };
        return invalid(format!("eval_split = {eval} leaves nothing to {empty} on of {examples} examples"));
    }
    let mut order: Vec<usize> = (0..examples).collect();
    shuffle(&mut order, &mut seed::rng(seed, "eval_split"));
    let mut train = order.split_off(count as usize);
    train.sort_unstable();
    order.sort_unstable();
    Ok((train, order))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_in_one_part() {
        let (train, eval) = split(1000, 0.05, 0).unwrap();
        assert_eq!((train.len(), eval.len()), (950, 50));
        let mut all = [train, eval].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        assert_eq!(split(1000, 100.0, 0).unwrap().1.len(), 100);
    }

    #[test]
    fn the_seed_determines_the_parts() {
        assert_eq!(split(100, 10.0, 1).unwrap(), split(100, 10.0, 1).unwrap());
        assert_ne!(split(100, 10.0, 1).unwrap(), split(100, 10.0, 2).unwrap());
    }

    #[test]
    fn parts_that_cannot_be_are_errors() {
        let message = |examples, eval| split(examples, eval, 0).unwrap_err().to_string();
        for eval in [0.0, -1.0, 1.5, f64::NAN, f64::INFINITY] {
            assert!(message(10, eval).contains("it must be a fraction between 0 and 1 or a whole number of examples"));
        }
        assert_eq!(message(4, 0.1), "invalid configuration: eval_split = 0.1 leaves nothing to evaluate on of 4 examples");
        assert_eq!(message(4, 4.0), "invalid configuration: eval_split = 4 leaves nothing to train on of 4 examples");
        assert_eq!(message(1, 0.9), "invalid configuration: eval_split = 0.9 leaves nothing to train on of 1 examples");
    }
}
