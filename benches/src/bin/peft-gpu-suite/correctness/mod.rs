//! The same host data on the CPU and on another device: values and gradients must agree.

mod compare;
mod methods;
mod operations;
mod tape;

use burn::tensor::Device;
use compare::Check;
use peft_core::{Result, device};
use serde_json::{Value, json};

/// Largest difference over the largest element, for one operation in f32 without matrix products.
const SINGLE: f64 = 1e-4;
/// The same for an operation with matrix products: tensor cores take f32 in TF32, whose mantissa of 10 bits rounds each factor by up to
/// 4.9e-4.
const PRODUCT: f64 = 5e-3;
/// The same where a weight is in half precision: devices compute in the weight's type, the CPU widens it.
const HALF: f64 = 2e-2;
/// The same for a whole model in f32, whose layers add up their differences.
const MODEL: f64 = 2e-2;
/// The same for a whole model with weights in half precision.
const HALF_MODEL: f64 = 5e-2;

/// All checks of `target`.
pub fn run(target: &Device) -> Result<Value> {
    let cpu = device::parse("cpu")?;
    let mut checks = operations::checks(&cpu, target);
    checks.extend(methods::checks(&cpu, target)?);
    let failed = checks.iter().filter(|check| !check.ok()).count();
    Ok(json!({
        "passed": checks.len() - failed,
        "failed": failed,
        "checks": checks.iter().map(Check::json).collect::<Vec<_>>(),
    }))
}
