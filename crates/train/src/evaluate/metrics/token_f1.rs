//! F1 over words, as SQuAD's evaluation defines it.

use std::collections::HashMap;

/// Harmonic mean of the shares of words that `output` and `answer` have in common, both normalised already.
///
/// A word counts as often as it occurs in both. If either has no words, 1 if neither has, else 0.
pub fn token_f1(output: &str, answer: &str) -> f64 {
    let (output, answer): (Vec<&str>, Vec<&str>) = (output.split_whitespace().collect(), answer.split_whitespace().collect());
    if output.is_empty() || answer.is_empty() {
        return f64::from(u8::from(output == answer));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    answer.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut common = 0;
    for word in &output {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    2.0 * f64::from(common) / (output.len() + answer.len()) as f64
}
