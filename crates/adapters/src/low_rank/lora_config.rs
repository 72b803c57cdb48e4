//! The configuration of LoRA and its variants, with HF PEFT's field names.

use super::dora::Dora;
use super::lora::{Lora, Start};
use super::pissa::Pissa;
use crate::config::{Common, number};
use peft_core::{AnyAdapter, Biases, Builder, Context, Error, Extras, Method, Names, Result, Site, Targets, pattern_value, seed};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;

/// Configuration of LoRA, rsLoRA, DoRA and PiSSA.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// `α`: the change is scaled by `α / r`.
    #[serde(serialize_with = "whole_number")]
    pub lora_alpha: f64,
    /// Dropout on the adapter's input.
    pub lora_dropout: f64,
    /// Which biases of the base are trained: `none`, `lora_only` (those of adapted layers) or `all`.
    pub bias: Bias,
    /// Whether the map `B` has a trainable bias.
    pub lora_bias: bool,
    /// Scale by `α / √r` instead (rsLoRA).
    pub use_rslora: bool,
    /// Train magnitude and direction apart (DoRA).
    pub use_dora: bool,
    /// How the factors begin.
    pub init_lora_weights: Init,
    /// Ranks of single modules: a regular expression for the end of the path, and the rank. The first that matches counts.
    pub rank_pattern: BTreeMap<String, usize>,
    /// `α` of single modules.
    #[serde(serialize_with = "whole_numbers")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// Whether the base stores weights as `[in, out]`; only `false` is supported.
    pub fan_in_fan_out: bool,
    /// Modules to adapt.
    #[serde(flatten)]
    pub targets: Targets,
    /// Settings of all methods.
    #[serde(flatten)]
    pub common: Common,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            bias: Bias::None,
            lora_bias: false,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: Init::Flag(true),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            modules_to_save: None,
            fan_in_fan_out: false,
            targets: Targets::default(),
            common: Common::default(),
        }
    }
}

/// `bias` of HF PEFT.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// No bias.
    #[default]
    None,
    /// All biases of the model.
    All,
    /// Those of adapted layers.
    LoraOnly,
}

/// `init_lora_weights` of HF PEFT.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Init {
    /// `true`: Kaiming uniform; `false`: random everywhere.
    Flag(bool),
    /// `gaussian`, `pissa` or `pissa_niter_k`.
    Name(String),
}

/// The initialisations this library makes.
enum Plan {
    Plain(Start),
    Pissa { iterations: Option<usize> },
}

impl Init {
    fn plan(&self, from_file: bool) -> Result<Plan> {
        match self {
            Self::Flag(true) => Ok(Plan::Plain(Start::Kaiming)),
            Self::Flag(false) => Ok(Plan::Plain(Start::Random)),
            Self::Name(name) => match name.to_lowercase().as_str() {
                "gaussian" => Ok(Plan::Plain(Start::Gaussian)),
                "pissa" => Ok(Plan::Pissa { iterations: None }),
                // These begin from other numbers but leave the base as it is: once trained, a file of theirs is a plain LoRA.
                "eva" | "orthogonal" if from_file => Ok(Plan::Plain(Start::Kaiming)),
                name => match name.strip_prefix("pissa_niter_").and_then(|k| k.parse().ok()) {
                    Some(iterations) => Ok(Plan::Pissa { iterations: Some(iterations) }),
                    None => Err(Error::InvalidConfig(format!(
                        "init_lora_weights is `{name}`; supported: true, false, gaussian, pissa, pissa_niter_<k>"
                    ))),
                },
            },
        }
    }
}

fn whole_number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    number(*value).serialize(serializer)
}

fn whole_numbers<S: Serializer>(values: &BTreeMap<String, f64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|(key, value)| (key, number(*value))))
}

/// Settings of HF PEFT that change what an adapter means and that this library does not implement.
const UNSUPPORTED: [&str; 15] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "ensure_weight_tying",
    "kasa_config",
    "layer_replication",
    "layers_pattern",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

pub(crate) fn check_dropout(field: &str, p: f64) -> Result<()> {
    match (0.0..1.0).contains(&p) {
        true => Ok(()),
        false => Err(Error::InvalidConfig(format!("{field} is {p}; it must be at least 0 and below 1"))),
    }
}

impl LoraConfig {
    /// The defaults for these target modules.
    pub fn for_modules(names: Names) -> Self {
        Self { targets: Targets::new(names), ..Self::default() }
    }

    /// Rank at the module with this path.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if a pattern is malformed or the rank is 0.
    pub fn rank_at(&self, module: &str) -> Result<usize> {
        match *pattern_value(&self.rank_pattern, module)?.unwrap_or(&self.r) {
            0 => Err(Error::InvalidConfig(format!("{module}: r must be positive"))),
            rank => Ok(rank),
        }
    }

    /// Scaling `s` at the module with this path.
    ///
    /// # Errors
    /// As [`rank_at`](Self::rank_at).
    pub fn scaling_at(&self, module: &str) -> Result<f64> {
        let rank = self.rank_at(module)? as f64;
        let alpha = pattern_value(&self.alpha_pattern, module)?.unwrap_or(&self.lora_alpha);
        Ok(if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank })
    }

    /// The configuration that fits the exported tensors: PiSSA leaves as the plain LoRA of twice the rank with the same scaling.
    pub(crate) fn exported(&self) -> Self {
        if !matches!(self.init_lora_weights.plan(false), Ok(Plan::Pissa { .. })) {
            return self.clone();
        }
        // s = α/r keeps with α doubled, s = α/√r with α times √2.
        let factor = if self.use_rslora { 2f64.sqrt() } else { 2.0 };
        Self {
            r: self.r * 2,
            lora_alpha: self.lora_alpha * factor,
            rank_pattern: self.rank_pattern.iter().map(|(key, rank)| (key.clone(), rank * 2)).collect(),
            alpha_pattern: self.alpha_pattern.iter().map(|(key, alpha)| (key.clone(), alpha * factor)).collect(),
            init_lora_weights: Init::Flag(true),
            ..self.clone()
        }
    }

    fn check_rank(&self, site: &Site, rank: usize) -> Result<()> {
        let max = site.dims()[0].min(site.dims()[1]);
        match rank > max {
            true => Err(Error::RankTooLarge { site: site.module.clone(), rank, max }),
            false => Ok(()),
        }
    }
}

impl Method for LoraConfig {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn validate(&self) -> Result<()> {
        let invalid = |message: &str| Err(Error::InvalidConfig(message.into()));
        if self.r == 0 {
            return invalid("r must be positive");
        }
        if !self.lora_alpha.is_finite() {
            return invalid("lora_alpha must be a finite number");
        }
        if self.fan_in_fan_out {
            return invalid("fan_in_fan_out is not supported: no backbone of this library stores weights that way");
        }
        if self.use_dora && self.lora_bias {
            return invalid("use_dora and lora_bias exclude each other");
        }
        let pissa = matches!(self.init_lora_weights.plan(true)?, Plan::Pissa { .. });
        if pissa && (self.use_dora || self.lora_bias) {
            return invalid("PiSSA excludes use_dora and lora_bias");
        }
        self.common.refuse(&UNSUPPORTED)?;
        check_dropout("lora_dropout", self.lora_dropout)
    }

    fn targets(&self) -> Option<&Targets> {
        Some(&self.targets)
    }

    fn accepts(&self, site: &Site) -> bool {
        site.is_linear() || site.is_embedding()
    }

    fn extras(&self) -> Extras {
        let bias = match self.bias {
            Bias::None => Biases::None,
            Bias::All => Biases::All,
            Bias::LoraOnly => Biases::Adapted,
        };
        Extras { modules_to_save: self.modules_to_save.clone().unwrap_or_default(), bias }
    }

    fn builder<'a>(&'a self, sites: &[&Site], context: &'a Context) -> Result<Builder<'a>> {
        let plan = self.init_lora_weights.plan(context.from_file)?;
        if context.from_file && matches!(plan, Plan::Pissa { iterations: Some(_) }) {
            let message =
                "the file holds PiSSA factors from a randomised decomposition, which cannot be repeated; convert it to LoRA first";
            return Err(Error::InvalidConfig(message.into()));
        }
        for site in sites {
            let rank = self.rank_at(&site.module)?;
            if site.is_embedding() && (self.use_dora || matches!(plan, Plan::Pissa { .. })) {
                let message = "an embedding cannot be adapted by DoRA or PiSSA; leave it out of target_modules";
                return Err(Error::InvalidConfig(format!("{}: {message}", site.module)));
            }
            if !context.from_file || matches!(plan, Plan::Pissa { .. }) {
                self.check_rank(site, rank)?;
            }
        }
        Ok(Box::new(move |site, weight| {
            let rng = &mut seed::rng(context.seed, &site.path());
            let (rank, scaling) = (self.rank_at(&site.module)?, self.scaling_at(&site.module)?);
            let start = match plan {
                Plan::Pissa { iterations } => {
                    if matches!(weight.dtype(), burn::tensor::DType::QFloat(_)) {
                        return Err(Error::NeedsFloatBase { site: site.module.clone(), method: "PiSSA".into() });
                    }
                    if scaling <= 0.0 {
                        return Err(Error::InvalidConfig(format!("{}: PiSSA needs a positive lora_alpha", site.module)));
                    }
                    let pissa = Pissa::new(weight, rank, scaling, self.lora_dropout, iterations, rng)?;
                    return Ok(AnyAdapter::new(pissa));
                }
                Plan::Plain(_) if context.from_file => Start::Zero,
                Plan::Plain(start) => start,
            };
            let mut lora = Lora::new(site, rank, scaling, self.lora_dropout, start, rng, &weight.device());
            if self.lora_bias && site.is_linear() {
                lora = lora.with_bias();
            }
            let adapter = if self.use_dora { AnyAdapter::new(Dora::new(lora, weight)) } else { AnyAdapter::new(lora) };
            Ok(adapter)
        }))
    }
}
