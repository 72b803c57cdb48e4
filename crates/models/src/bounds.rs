//! Limits of the numbers in a `config.json`, checked before anything is allocated.

use burn::tensor::DType;

/// More parameters than any model has.
pub(crate) const MAX_PARAMS: u128 = 10_000_000_000_000;
/// More blocks than any model has.
pub(crate) const MAX_LAYERS: usize = 10_000;
const MAX_SIZE: usize = i32::MAX as usize;

pub(crate) fn size(key: &str, value: usize) -> Result<usize, String> {
    at_most(key, value, MAX_SIZE)
}

pub(crate) fn at_most(key: &str, value: usize, max: usize) -> Result<usize, String> {
    if (1..=max).contains(&value) {
        return Ok(value);
    }
    Err(format!("{key} must be between 1 and {max}, found {value}"))
}

pub(crate) fn fraction(key: &str, value: f64) -> Result<f64, String> {
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(format!("{key} must be between 0 and 1, found {value}"))
}

pub(crate) fn positive(key: &str, value: f64) -> Result<f64, String> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(format!("{key} must be a positive number, found {value}"))
}

pub(crate) fn dtype(name: &str) -> Result<DType, String> {
    match name.trim_start_matches("torch.") {
        "float64" | "double" => Ok(DType::F64),
        "float32" | "float" => Ok(DType::F32),
        "bfloat16" => Ok(DType::BF16),
        "float16" | "half" => Ok(DType::F16),
        _ => Err(format!("dtype `{name}` is not supported; supported: `float64`, `float32`, `bfloat16`, `float16`")),
    }
}
