//! Several ternary vectors as one dense vector, without making each of them dense first.

use super::ternary::{Ternary, bits};
use peft_core::{Error, Result};

/// The weighted sum of `experts`: task arithmetic, and with weights that sum to 1 the mean.
///
/// # Errors
/// [`Error::InvalidConfig`] without experts, for vectors of different lengths, and for weights that are not finite.
///
/// ```
/// use peft_merge::compeft::{Ternary, weighted_sum};
///
/// let (a, b) = (Ternary::from_signs(&[1, 0, -1], 0.5), Ternary::from_signs(&[1, 1, 0], 2.0));
/// assert_eq!(weighted_sum(&[(&a, 1.0), (&b, 0.5)])?, [1.5, 1.0, -0.5]);
/// # Ok::<(), peft_core::Error>(())
/// ```
pub fn weighted_sum(experts: &[(&Ternary, f32)]) -> Result<Vec<f32>> {
    let len = common_length(experts)?;
    let mut sum = vec![0.0; len];
    for (expert, weight) in experts {
        expert.add_to(*weight, &mut sum);
    }
    Ok(sum)
}

/// The merge of TIES for experts that are sparse already: each entry takes the sign of the weighted sum, and the weighted mean of the
/// experts that have this sign there.
///
/// # Errors
/// As [`weighted_sum`]; also for a weight that is not above 0.
pub fn ties(experts: &[(&Ternary, f32)]) -> Result<Vec<f32>> {
    let len = common_length(experts)?;
    if let Some((_, weight)) = experts.iter().find(|(_, weight)| *weight <= 0.0) {
        return Err(Error::InvalidConfig(format!("TIES needs weights above 0, not {weight}")));
    }
    let mut merged = vec![0.0; len];
    for (word, chunk) in merged.chunks_mut(64).enumerate() {
        let planes = || experts.iter().map(|(e, weight)| (e.positive()[word], e.negative()[word], e.scale(), *weight));
        let mut sums = [0f32; 64];
        for (p, n, scale, weight) in planes() {
            bits(p).for_each(|bit| sums[bit] += weight * scale);
            bits(n).for_each(|bit| sums[bit] -= weight * scale);
        }
        let [up, down] = [mask(&sums, |sum| sum > 0.0), mask(&sums, |sum| sum < 0.0)];
        let mut weights = [0f32; 64];
        for (p, n, scale, weight) in planes() {
            for bit in bits(p & up | n & down) {
                chunk[bit] += weight * scale;
                weights[bit] += weight;
            }
        }
        for bit in bits(up | down) {
            chunk[bit] *= sums[bit].signum() / weights[bit];
        }
    }
    Ok(merged)
}

fn mask(numbers: &[f32; 64], test: impl Fn(f32) -> bool) -> u64 {
    numbers.iter().enumerate().fold(0, |mask, (bit, number)| mask | u64::from(test(*number)) << bit)
}

fn common_length(experts: &[(&Ternary, f32)]) -> Result<usize> {
    let Some((first, _)) = experts.first() else { return Err(Error::InvalidConfig("there is nothing to merge".into())) };
    if let Some((other, _)) = experts.iter().find(|(e, _)| e.len() != first.len()) {
        return Err(Error::InvalidConfig(format!("experts of {} and of {} entries cannot be merged", first.len(), other.len())));
    }
    match experts.iter().find(|(_, weight)| !weight.is_finite()) {
        Some((_, weight)) => Err(Error::InvalidConfig(format!("a weight of {weight} is not finite"))),
        None => Ok(first.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compeft::ternary::tests::random;

    #[test]
    fn merging_identical_experts_returns_the_expert() {
        let expert = random(333, 0.3, 0.25, 5);
        assert_eq!(weighted_sum(&[(&expert, 0.5), (&expert, 0.5)]).unwrap(), expert.to_dense());
        assert_eq!(ties(&[(&expert, 1.0), (&expert, 1.0), (&expert, 1.0)]).unwrap(), expert.to_dense());
    }

    #[test]
    fn ties_takes_the_elected_sign_and_the_mean_of_those_who_have_it() {
        let a = Ternary::from_signs(&[1, 1, -1, 0, 1], 1.0);
        let b = Ternary::from_signs(&[1, -1, -1, 0, 0], 3.0);
        let c = Ternary::from_signs(&[-1, 1, 1, 0, -1], 1.0);
        // The last entry is +1 against -1: no majority, nothing.
        assert_eq!(ties(&[(&a, 1.0), (&b, 1.0), (&c, 1.0)]).unwrap(), [2.0, -3.0, -2.0, 0.0, 0.0]);
    }

    #[test]
    fn what_cannot_be_merged_is_refused() {
        let (a, b) = (Ternary::zeros(3, 1.0), Ternary::zeros(4, 1.0));
        let reason = |experts: &[(&Ternary, f32)]| weighted_sum(experts).unwrap_err().to_string();
        assert!(reason(&[(&a, 1.0), (&b, 1.0)]).contains("of 3 and of 4 entries"));
        assert!(reason(&[]).contains("nothing to merge"));
        assert!(reason(&[(&a, f32::NAN)]).contains("not finite"));
        assert!(ties(&[(&a, -1.0)]).unwrap_err().to_string().contains("above 0"));
    }
}
