//! Means and deviations over seeds, as a table.

use super::{Measured, Method};

/// A mean and the deviation of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// The mean.
    pub mean: f64,
    /// The deviation with `n - 1`; 0 for one value.
    pub std: f64,
}

impl Cell {
    /// Of at least one value.
    pub fn of(values: Vec<f64>) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { mean, std: if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 } }
    }

    /// With so many decimals, in another unit.
    pub fn show(&self, factor: f64, decimals: usize) -> String {
        format!("{:.decimals$} ± {:.decimals$}", self.mean * factor, self.std * factor)
    }
}

/// One row for each method, in their order: score, parameters, seconds, memory.
pub fn table(all: &[Measured], methods: &[Method], score: &str, show: impl Fn(Cell) -> String) -> String {
    let mut text = format!("| method | {score} | trained parameters | seconds | peak memory, MiB |\n|---|---|---|---|---|\n");
    for method in methods {
        let of = |value: fn(&Measured) -> f64| Cell::of(all.iter().filter(|m| m.method == method.name).map(value).collect());
        text += &format!(
            "| {} | {} | {:.0} | {} | {:.0} |\n",
            method.label,
            show(of(|m| m.score)),
            of(|m| m.trainable).mean,
            of(|m| m.seconds).show(1.0, 0),
            of(|m| m.peak_memory_bytes).mean / f64::from(1 << 20)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        let cell = Cell::of(vec![1.0, 2.0, 3.0]);
        assert_eq!((cell.mean, cell.std), (2.0, 1.0));
        assert_eq!(Cell::of(vec![4.0]).std, 0.0);
        assert_eq!(cell.show(100.0, 1), "200.0 ± 100.0");
    }
}
