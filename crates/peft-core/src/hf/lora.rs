//! The settings of LoRA that say what its tensors mean.

use crate::patterns::Patterns;
use crate::targets::Targets;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

/// The settings of a LoRA adapter as its file has them, with HF PEFT's defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct LoraSettings {
    /// Rank.
    pub r: usize,
    /// `α`: the change is scaled by `α / r`.
    pub lora_alpha: f64,
    /// Ranks of single modules.
    pub rank_pattern: Patterns<usize>,
    /// `α` of single modules.
    pub alpha_pattern: Patterns<f64>,
    /// Scale by `α / √r` instead.
    pub use_rslora: bool,
    /// Whether magnitudes are trained beside the matrices.
    pub use_dora: bool,
    /// Whether the map `B` has a bias.
    pub lora_bias: bool,
    /// Which biases of the base are trained.
    pub bias: String,
    /// Modules that are trained as a whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Whether the file says that the base stores weights as `[in, out]`.
    pub fan_in_fan_out: bool,
    /// How the matrices began: a flag or a name.
    pub init_lora_weights: Value,
    /// Modules that are adapted.
    #[serde(flatten)]
    pub targets: Targets,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            use_rslora: false,
            use_dora: false,
            lora_bias: false,
            bias: "none".into(),
            modules_to_save: None,
            fan_in_fan_out: false,
            init_lora_weights: true.into(),
            targets: Targets::default(),
        }
    }
}

impl LoraSettings {
    /// Rank at the module with this path.
    ///
    /// # Errors
    /// As [`rank_at`].
    pub fn rank_at(&self, module: &str) -> Result<usize> {
        rank_at(self.r, &self.rank_pattern, module)
    }

    /// Scaling `s` at the module with this path.
    ///
    /// # Errors
    /// As [`scaling_at`].
    pub fn scaling_at(&self, module: &str) -> Result<f64> {
        scaling_at(self.lora_alpha, &self.alpha_pattern, self.rank_at(module)?, self.use_rslora, module)
    }
}

/// The rank at a module: that of the first pattern that matches its path, or else `r`.
///
/// # Errors
/// [`Error::InvalidConfig`] if an expression is malformed or the rank is 0.
pub fn rank_at(r: usize, patterns: &Patterns<usize>, module: &str) -> Result<usize> {
    match *patterns.get(module, "rank_pattern")?.unwrap_or(&r) {
        0 => Err(Error::InvalidConfig(format!("{module}: r must be positive"))),
        rank => Ok(rank),
    }
}

/// The scaling at a module: `α / rank`, or `α / √rank` for rsLoRA, with the `α` of the first pattern that matches its path, or else `alpha`.
///
/// # Errors
/// [`Error::InvalidConfig`] if an expression is malformed or `α` is no finite number.
pub fn scaling_at(alpha: f64, patterns: &Patterns<f64>, rank: usize, rslora: bool, module: &str) -> Result<f64> {
    let (alpha, rank) = (*patterns.get(module, "alpha_pattern")?.unwrap_or(&alpha), rank as f64);
    match alpha.is_finite() {
        true => Ok(if rslora { alpha / rank.sqrt() } else { alpha / rank }),
        false => Err(Error::InvalidConfig(format!("{module}: lora_alpha must be a finite number"))),
    }
}

/// What the start of an adapter means for a file that holds its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOf {
    /// The base stayed as it was: the matrices are the change.
    Plain,
    /// The principal part of each weight was taken out of the base (PiSSA), and can be taken out again.
    Pissa,
    /// The first part of a QR decomposition was taken out of the base (OLoRA), and can be taken out again.
    Olora,
    /// The base was changed in a way that cannot be repeated, for this reason.
    Lost(&'static str),
    /// HF PEFT has no such start.
    Unknown,
}

/// What the name in `init_lora_weights` means for a file.
pub fn start(name: &str) -> StartOf {
    match name.to_lowercase().as_str() {
        "gaussian" | "eva" | "orthogonal" | "mica" => StartOf::Plain,
        "pissa" => StartOf::Pissa,
        "olora" => StartOf::Olora,
        "loftq" => StartOf::Lost("the base was quantised together with the start"),
        "lora_ga" => StartOf::Lost("the start was computed from gradients and taken out of the base"),
        name if name.starts_with("corda") => StartOf::Lost("the start was computed from data and taken out of the base"),
        name if name.strip_prefix("pissa_niter_").is_some_and(|k| k.parse::<usize>().is_ok()) => {
            StartOf::Lost("PiSSA factors from a randomised decomposition were taken out of the base, which cannot be repeated")
        }
        _ => StartOf::Unknown,
    }
}
