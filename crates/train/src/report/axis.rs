//! Axes: which stretch of numbers a chart shows, and where its marks are.

use super::number::{short, trimmed};
use serde::Serialize;

/// A mark on an axis.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Tick {
    /// Place along the axis in percent, from the left or from the top.
    pub at: String,
    /// What it says.
    pub label: String,
}

/// A stretch of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub low: f64,
    pub high: f64,
}

impl Axis {
    /// Around these numbers with a little room, from 0 where `zero` is asked for or 0 is near.
    pub fn around(values: impl Iterator<Item = f64>, zero: bool) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if !low.is_finite() || !high.is_finite() {
            return Self { low: 0.0, high: 1.0 };
        }
        let from_zero = low >= 0.0 && (zero || low <= 0.3 * high);
        let room = match high - low {
            0.0 => {
                if high == 0.0 {
                    1.0
                } else {
                    0.2 * high.abs()
                }
            }
            span => 0.06 * span,
        };
        Self { low: if from_zero { 0.0 } else { low - room }, high: high + room }
    }

    /// Exactly from one number to the other, or a stretch around it if they are the same.
    pub fn between(low: f64, high: f64) -> Self {
        if high > low { Self { low, high } } else { Self { low: low - 0.5, high: low + 0.5 } }
    }

    /// Place of a number, 0 at the low end and 1 at the high end.
    pub fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    pub fn has(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Marks at round numbers, some `wanted` of them; whole numbers only if `whole`.
    pub fn ticks(&self, wanted: usize, whole: bool, place: impl Fn(f64) -> f64) -> Vec<Tick> {
        let rough = (self.high - self.low) / wanted.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| *step >= rough * 0.999).unwrap_or(10.0 * power);
        let step = if whole { step.max(1.0).round() } else { step };
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        let label = |value: f64| match step {
            // Enough decimals to tell neighbours apart.
            _ if value == 0.0 => "0".into(),
            _ if value.abs() < 1e4 && step >= 1e-3 => trimmed(value, (-step.log10().floor()).max(0.0) as usize),
            _ => short(value),
        };
        (first..=last)
            .map(|i| i as f64 * step)
            .map(|value| Tick { at: format!("{:.2}", 100.0 * place(value)), label: label(value) })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis, wanted: usize, whole: bool) -> Vec<String> {
        axis.ticks(wanted, whole, |value| axis.place(value)).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn marks_are_at_round_numbers() {
        assert_eq!(labels(Axis { low: 0.0, high: 2.3 }, 5, false), ["0", "0.5", "1", "1.5", "2"]);
        assert_eq!(labels(Axis { low: 1.0, high: 150.0 }, 4, true), ["50", "100", "150"]);
        assert_eq!(labels(Axis { low: 1.0, high: 3.0 }, 6, true), ["1", "2", "3"]);
        assert_eq!(labels(Axis { low: 0.0, high: 2.1e-4 }, 4, false), ["0", "1e-4", "2e-4"]);
        assert_eq!(labels(Axis { low: 0.0, high: 42_000.0 }, 4, false), ["0", "20k", "40k"]);
    }

    #[test]
    fn an_axis_has_room_for_its_numbers_even_if_all_are_the_same() {
        let ends = |values: &[f64], zero: bool| {
            let Axis { low, high } = Axis::around(values.iter().copied(), zero);
            (format!("{low:.3}"), format!("{high:.3}"))
        };
        let expect = |low: &str, high: &str| (low.to_string(), high.to_string());
        assert_eq!(ends(&[2.0, 12.0], false), expect("0.000", "12.600"));
        assert_eq!(ends(&[10.0, 12.0], false), expect("9.880", "12.120"));
        assert_eq!(ends(&[5.0], true), expect("0.000", "6.000"));
        assert_eq!(ends(&[0.0], false), expect("0.000", "1.000"));
        assert_eq!(ends(&[], false), expect("0.000", "1.000"));
        assert_eq!(Axis::between(1.0, 1.0).place(1.0), 0.5);
    }
}
