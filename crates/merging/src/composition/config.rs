//! Checks of settings.

use peft_core::{Error, Result};

/// A setting that is a finite number above zero.
pub fn above_zero(name: &str, value: f64) -> Result<()> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(Error::InvalidConfig(format!("{name}: above 0, not {value}"))),
    }
}

/// A setting that counts something.
pub fn at_least_one(name: &str, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::InvalidConfig(format!("{name}: at least 1, not 0"))),
        _ => Ok(()),
    }
}
