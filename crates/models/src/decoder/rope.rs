//! Rotary position settings: the base, and how the frequencies of a longer context derive from it.

use crate::bounds::positive;
use crate::fields::Fields;

/// Settings of the rotary position embedding (Su et al., 2021, arXiv:2104.09864).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base `θ`: pair `i` of `n` turns by `θ^(-i/n)` per position.
    pub theta: f64,
    /// What a longer context does to the frequencies.
    pub scaling: RopeScaling,
}

/// How the rotary frequencies are changed for contexts longer than the pretraining one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Unchanged.
    Default,
    /// All divided by `factor` (Chen et al., 2023, arXiv:2306.15595).
    Linear {
        /// How many times longer the context is.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// How many times longer the context is.
        factor: f64,
        /// Frequencies that turn fewer times than this over the pretraining context are low.
        low_freq_factor: f64,
        /// Frequencies that turn more often than this over the pretraining context are high.
        high_freq_factor: f64,
        /// The pretraining context.
        original_max_position_embeddings: f64,
    },
}

const SUPPORTED: &str = "`default`, `linear`, `llama3`";

/// `rope_parameters` (transformers 5) or `rope_scaling` (transformers 4) of a `config.json`.
#[derive(Default)]
pub(super) struct RopeEntry {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f64>,
    /// Other decoders give each kind of layer its own settings, under the kind's name.
    by_layer_type: bool,
}

impl RopeEntry {
    /// The entry of a file; as in transformers, an empty `rope_scaling` counts as none.
    pub fn read(config: &Fields) -> Result<Self, String> {
        let scaling = config.object("rope_scaling")?.filter(|entry| !entry.is_empty());
        let Some(entry) = scaling.map_or_else(|| config.object("rope_parameters"), |entry| Ok(Some(entry)))? else {
            return Ok(Self::default());
        };
        Ok(Self {
            // Older files say `type`, some say both.
            rope_type: entry.text("rope_type")?.map_or_else(|| entry.text("type"), |name| Ok(Some(name)))?,
            rope_theta: entry.number("rope_theta")?,
            factor: entry.number("factor")?,
            low_freq_factor: entry.number("low_freq_factor")?,
            high_freq_factor: entry.number("high_freq_factor")?,
            original_max_position_embeddings: entry.size("original_max_position_embeddings")?,
            partial_rotary_factor: entry.number("partial_rotary_factor")?,
            by_layer_type: entry.object("full_attention")?.is_some() || entry.object("sliding_attention")?.is_some(),
        })
    }
}

/// What a `config.json` says about positions outside the entry.
pub(super) struct RopeContext {
    pub rope_theta: Option<f64>,
    pub partial_rotary_factor: Option<f64>,
    pub original_max_position_embeddings: Option<usize>,
    pub max_position_embeddings: usize,
}

impl Rope {
    pub(super) fn from_config(entry: RopeEntry, context: RopeContext) -> Result<Self, String> {
        if entry.by_layer_type {
            return Err("rope_parameters differ by layer type, which is not supported".into());
        }
        if let Some(fraction) = entry.partial_rotary_factor.or(context.partial_rotary_factor).filter(|f| *f != 1.0) {
            return Err(format!("partial_rotary_factor {fraction} is not supported; it must be 1"));
        }
        let theta = entry.rope_theta.or(context.rope_theta).unwrap_or(10_000.0);
        Ok(Self { theta: positive("rope_theta", theta)?, scaling: RopeScaling::from_config(&entry, &context)? })
    }

    /// Radians per position of each of the `head_dim / 2` pairs.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let pairs = head_dim / 2;
        let base = (0..pairs).map(|i| self.theta.powf(-(i as f64) / pairs as f64));
        base.map(|frequency| self.scaling.apply(frequency) as f32).collect()
    }
}

impl RopeScaling {
    fn from_config(entry: &RopeEntry, context: &RopeContext) -> Result<Self, String> {
        let name = entry.rope_type.as_deref().unwrap_or("default");
        let required = |key: &str, value: Option<f64>| match value {
            Some(value) => positive(key, value),
            None => Err(format!("rope type `{name}` needs `{key}`")),
        };
        match name {
            "default" => Ok(Self::Default),
            "linear" => Ok(Self::Linear { factor: required("factor", entry.factor)? }),
            "llama3" => {
                let original = context.original_max_position_embeddings.or(entry.original_max_position_embeddings);
                let original = original.unwrap_or(context.max_position_embeddings) as f64;
                let low_freq_factor = required("low_freq_factor", entry.low_freq_factor)?;
                let high_freq_factor = required("high_freq_factor", entry.high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(format!("high_freq_factor {high_freq_factor} must be above low_freq_factor {low_freq_factor}"));
                }
                Ok(Self::Llama3 {
                    factor: required("factor", entry.factor)?,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings: positive("original_max_position_embeddings", original)?,
                })
            }
            _ => Err(format!("rope type `{name}` is not supported; supported: {SUPPORTED}")),
        }
    }

    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let turns = original_max_position_embeddings * frequency / std::f64::consts::TAU;
                let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = kept.clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192.0 };
        assert_eq!(scaling.apply(1.0), 1.0);
        assert_eq!(scaling.apply(1e-5), 1e-5 / 8.0);
        let between = 2.0 * std::f64::consts::TAU / 8192.0;
        assert!(scaling.apply(between) > between / 8.0 && scaling.apply(between) < between);
    }

    #[test]
    fn the_last_pair_turns_slowest() {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::Linear { factor: 2.0 } };
        let frequencies = rope.frequencies(8);
        assert_eq!(frequencies.len(), 4);
        assert_eq!(frequencies[0], 0.5);
        assert!((frequencies[3] - 0.5e-3).abs() < 1e-9);
    }
}
