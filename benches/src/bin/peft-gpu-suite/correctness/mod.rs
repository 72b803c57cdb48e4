//! The same host data on the CPU and on another device: values and gradients must agree.

mod compare;
mod methods;
mod operations;
mod tape;

use burn::tensor::Device;
use compare::Check;
#[cfg(feature = "cube")]
pub use compare::difference;
use peft_core::{Result, device};
use serde_json::{Value, json};

/// What is compared, which decides how large a difference over the largest element may be.
#[derive(Clone, Copy)]
enum Kind {
    /// An operation in f32 without matrix products.
    Single,
    /// An operation in f32 with matrix products.
    Product,
    /// An operation with a weight in half precision: devices compute in the weight's type, the CPU widens it.
    Half,
    /// A whole model in f32, whose layers add up their differences.
    Model,
    /// A whole model with weights in half precision.
    HalfModel,
    /// The logits of greedy tokens on the CPU, beside the best ones there: without a difference the tokens are the same.
    Greedy,
}

impl Kind {
    /// The largest difference. With `tf32`, tensor cores round each factor of an f32 product to a mantissa of 10 bits, by up to 4.9e-4.
    fn tolerance(self, tf32: bool) -> f64 {
        match (self, tf32) {
            (Self::Single, _) | (Self::Product, false) => 1e-4,
            (Self::Product, true) => 5e-3,
            (Self::Half, _) | (Self::Model | Self::Greedy, true) => 2e-2,
            (Self::Model, false) => 1e-3,
            (Self::HalfModel, _) => 5e-2,
            (Self::Greedy, false) => 0.0,
        }
    }
}

/// All checks of `target`, the device of this name.
pub fn run(target: &Device, name: &str) -> Result<Value> {
    let cpu = device::parse("cpu")?;
    let tf32 = name.starts_with("cuda");
    let tolerance = |kind: Kind| kind.tolerance(tf32);
    let mut checks = operations::checks(&cpu, target, tolerance);
    checks.extend(methods::checks(&cpu, target, tolerance)?);
    let count = |outcome: Option<bool>| checks.iter().filter(|check| check.ok() == outcome).count();
    Ok(json!({
        "passed": count(Some(true)),
        "failed": count(Some(false)),
        "skipped": count(None),
        "checks": checks.iter().map(Check::json).collect::<Vec<_>>(),
    }))
}
