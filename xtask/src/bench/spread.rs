//! Several measurements of one thing.

use serde::{Deserialize, Serialize};

/// The values and what is said about them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The value in the middle; of an even number of values the mean of the two there.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All, in the order in which they were measured.
    pub values: Vec<f64>,
}

impl Spread {
    /// `None` without values.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        Some(Self { median, min, max, values })
    }
}

/// A number with three digits that count.
pub fn short(value: f64) -> String {
    let before_point = value.abs().max(1e-9).log10().floor() as i32 + 1;
    format!("{value:.*}", (3 - before_point).clamp(0, 5) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0, values: vec![3.0, 1.0, 9.0] }));
        assert_eq!(spread(&[4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn three_digits_count() {
        assert_eq!([0.01234, 0.5, 1.0, 12.345, 999.4, 12_345.6].map(short), ["0.0123", "0.500", "1.00", "12.3", "999", "12346"]);
    }
}
