//! Two computations of the same.

use crate::attempt::attempt;
use burn::tensor::DType;
use peft_core::{Error, Result};
use serde_json::{Value, json};
use std::time::Instant;

/// A result of a computation, on the host.
pub struct Output {
    /// What it is. Of several outputs with one name the worst counts.
    pub name: String,
    /// Its elements.
    pub values: Vec<f32>,
}

impl Output {
    /// A result.
    pub fn new(name: impl Into<String>, values: Vec<f32>) -> Self {
        Self { name: name.into(), values }
    }
}

/// A comparison that was made.
pub struct Check {
    name: String,
    tolerance: f64,
    /// For each output the largest difference over the largest element of the expected one; nothing where the device lacks a type.
    differences: Option<Result<Vec<(String, f64)>, String>>,
    /// Both computations, with what a device compiles for them.
    seconds: f64,
}

impl Check {
    /// Compute both ways and compare.
    pub fn new(
        name: impl Into<String>,
        tolerance: f64,
        expected: impl FnOnce() -> Result<Vec<Output>>,
        found: impl FnOnce() -> Result<Vec<Output>>,
    ) -> Self {
        Self::of(name, tolerance, || {
            let expected = expected().map_err(|e| Error::InvalidConfig(format!("expected values: {e}")))?;
            Ok((expected, found()?))
        })
    }

    /// Compare what one computation gives: the expected outputs and those found.
    pub fn of(name: impl Into<String>, tolerance: f64, both: impl FnOnce() -> Result<(Vec<Output>, Vec<Output>)>) -> Self {
        let start = Instant::now();
        let both = attempt(both);
        let differences = both.and_then(|(expected, found)| differences(&expected, &found));
        let check = Self { name: name.into(), tolerance, differences: Some(differences), seconds: start.elapsed().as_secs_f64() };
        eprintln!("   {}", check.line());
        check
    }

    /// What cannot be compared, because the device does not compute in this type.
    pub fn skipped(name: impl Into<String>, dtype: DType) -> Self {
        let name = name.into();
        eprintln!("   skipped {name}: the device does not compute in {}", dtype.name());
        Self { name, tolerance: 0.0, differences: None, seconds: 0.0 }
    }

    /// Whether both ways agree; nothing for what was skipped.
    pub fn ok(&self) -> Option<bool> {
        let within = |differences: &Vec<(String, f64)>| differences.iter().all(|(_, difference)| *difference <= self.tolerance);
        self.differences.as_ref().map(|differences| differences.as_ref().is_ok_and(within))
    }

    /// The check as JSON; a difference that is no number is null.
    pub fn json(&self) -> Value {
        let mut json = json!({ "name": self.name, "ok": self.ok(), "tolerance": self.tolerance, "seconds": self.seconds });
        match &self.differences {
            Some(Ok(differences)) => json["differences"] = differences.iter().map(|(name, d)| (name.clone(), json!(d))).collect(),
            Some(Err(error)) => json["error"] = error.as_str().into(),
            None => json["skipped"] = true.into(),
        }
        json
    }

    fn line(&self) -> String {
        let verdict = if self.ok() == Some(false) { "FAILED" } else { "ok    " };
        let worst = match self.differences.as_ref().unwrap_or(&Ok(Vec::new())) {
            Ok(differences) => differences.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(name, d)| format!("{d:.1e} ({name})")),
            Err(error) => error.lines().next().map(String::from),
        };
        format!("{verdict} {}: {}, {:.1} s", self.name, worst.unwrap_or_default(), self.seconds)
    }
}

fn differences(expected: &[Output], found: &[Output]) -> Result<Vec<(String, f64)>, String> {
    let shapes = |outputs: &[Output]| outputs.iter().map(|output| (output.name.clone(), output.values.len())).collect::<Vec<_>>();
    if shapes(expected) != shapes(found) {
        return Err(format!("{:?} where {:?} is expected", shapes(found), shapes(expected)));
    }
    let mut worst: Vec<(String, f64)> = Vec::new();
    for (expected, found) in expected.iter().zip(found) {
        if expected.values.iter().all(|value| *value == 0.0) {
            return Err(format!("{} is zero, which proves nothing", expected.name));
        }
        let difference = difference(&expected.values, &found.values);
        match worst.iter_mut().find(|(name, _)| *name == expected.name) {
            Some((_, largest)) => *largest = largest.max(difference),
            None => worst.push((expected.name.clone(), difference)),
        }
    }
    Ok(worst)
}

/// The largest difference over the largest expected element; infinite where something is no number.
pub fn difference(expected: &[f32], found: &[f32]) -> f64 {
    let scale = expected.iter().fold(1e-6, |max: f64, value| max.max(f64::from(value.abs())));
    let apart = |(a, b): (&f32, &f32)| {
        let difference = f64::from((a - b).abs());
        if difference.is_finite() { difference / scale } else { f64::INFINITY }
    };
    expected.iter().zip(found).map(apart).fold(0.0, f64::max)
}

/// The elements of a tensor on the host.
pub fn values<const D: usize>(tensor: burn::tensor::Tensor<D>) -> Result<Vec<f32>> {
    tensor.into_data().convert::<f32>().try_into_vec::<f32>().map_err(|e| Error::Device(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &[f32]) -> Check {
        let outputs = |values: &[f32]| Ok(vec![Output::new("y", values.to_vec())]);
        Check::new("it", 1e-2, || outputs(&[1.0, -4.0]), || outputs(found))
    }

    #[test]
    fn differences_are_relative_to_the_largest_element() {
        assert_eq!(check(&[1.03, -4.0]).ok(), Some(true));
        assert_eq!(check(&[1.05, -4.0]).ok(), Some(false));
    }

    #[test]
    fn what_is_no_number_or_absent_fails() {
        assert_eq!(check(&[f32::NAN, -4.0]).ok(), Some(false));
        assert_eq!(check(&[1.0]).ok(), Some(false));
        let zero = || Ok(vec![Output::new("y", vec![0.0; 3])]);
        assert_eq!(Check::new("it", 1.0, zero, zero).ok(), Some(false));
        let broken = Check::new("it", 1.0, || Ok(Vec::new()), || Err(Error::Device("gone".into())));
        assert!(broken.ok() == Some(false) && broken.json()["error"].as_str().unwrap().contains("gone"));
    }
}
