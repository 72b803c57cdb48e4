//! The configuration of LoRA and its variants, with HF PEFT's field names.

use super::dora::Dora;
use super::lora::{Lora, Start};
use super::pissa::Pissa;
use crate::config::{Common, check, number};
use peft_core::hf::{self, Kind, StartOf, start};
use peft_core::{AnyAdapter, Biases, Builder, Context, Error, Extras, Method, Miss, Names, Patterns, Result, Site, Targets, seed};
use serde::{Deserialize, Serialize, Serializer};

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
    pub rank_pattern: Patterns<usize>,
    /// `α` of single modules.
    #[serde(serialize_with = "whole_numbers")]
    pub alpha_pattern: Patterns<f64>,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// What HF PEFT's file says of how the base stores weights. It has no effect: as there, the type of the layer decides.
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
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
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
#[serde(untagged, expecting = "true, false or the name of a start is asked for here")]
pub enum Init {
    /// `true`: Kaiming uniform; `false`: random everywhere.
    Flag(bool),
    /// `gaussian`, `pissa`, `pissa_niter_k` or `olora`; in files also others that leave the base as it is.
    Name(String),
}

/// The initialisations this library makes.
enum Plan {
    Plain(Start),
    Pissa { iterations: Option<usize> },
    Olora,
}

impl Init {
    /// What a new adapter begins with.
    fn plan(&self) -> Result<Plan> {
        match self {
            Self::Flag(true) => Ok(Plan::Plain(Start::Kaiming)),
            Self::Flag(false) => Ok(Plan::Plain(Start::Random)),
            Self::Name(name) => match name.to_lowercase().as_str() {
                "gaussian" => Ok(Plan::Plain(Start::Gaussian)),
                "pissa" => Ok(Plan::Pissa { iterations: None }),
                "olora" => Ok(Plan::Olora),
                name => match name.strip_prefix("pissa_niter_").and_then(|k| k.parse().ok()) {
                    Some(iterations) => Ok(Plan::Pissa { iterations: Some(iterations) }),
                    None => Err(Error::InvalidConfig(format!(
                        "init_lora_weights is `{name}`; supported: true, false, gaussian, pissa, pissa_niter_<k>, olora"
                    ))),
                },
            },
        }
    }

    /// What an adapter begins with whose tensors come from a file.
    fn plan_of_file(&self) -> Result<Plan> {
        let Self::Name(name) = self else { return Ok(Plan::Plain(Start::Zero)) };
        match start(name) {
            StartOf::Plain => Ok(Plan::Plain(Start::Zero)),
            StartOf::Pissa => Ok(Plan::Pissa { iterations: None }),
            StartOf::Olora => Ok(Plan::Olora),
            StartOf::Lost(reason) => {
                let way_out = "convert it to LoRA first (save_pretrained with path_initial_model_for_weight_conversion)";
                Err(Error::InvalidConfig(format!("init_lora_weights is `{name}`: {reason}; {way_out}")))
            }
            StartOf::Unknown => {
                Err(Error::InvalidConfig(format!("init_lora_weights is `{name}`, a start that HF PEFT 0.21 does not have")))
            }
        }
    }
}

fn whole_number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    number(*value).serialize(serializer)
}

fn whole_numbers<S: Serializer>(values: &Patterns<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    values.map(|value| number(*value)).serialize(serializer)
}

pub(crate) fn check_dropout(field: &str, p: f64) -> Result<()> {
    match (0.0..=1.0).contains(&p) {
        true => Ok(()),
        false => Err(Error::InvalidConfig(format!("{field} is {p}; it must be from 0 to 1"))),
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
        hf::rank_at(self.r, &self.rank_pattern, module)
    }

    /// Scaling `s` at the module with this path.
    ///
    /// # Errors
    /// As [`rank_at`](Self::rank_at).
    pub fn scaling_at(&self, module: &str) -> Result<f64> {
        hf::scaling_at(self.lora_alpha, &self.alpha_pattern, self.rank_at(module)?, self.use_rslora, module)
    }

    /// The configuration that fits the exported tensors: PiSSA and OLoRA leave as the plain LoRA of twice the rank with the same scaling.
    pub(crate) fn exported(&self) -> Self {
        if !matches!(self.init_lora_weights.plan(), Ok(Plan::Pissa { .. } | Plan::Olora)) {
            return self.clone();
        }
        // s = α/r keeps with α doubled, s = α/√r with α times √2.
        let factor = if self.use_rslora { 2f64.sqrt() } else { 2.0 };
        Self {
            r: self.r * 2,
            lora_alpha: self.lora_alpha * factor,
            rank_pattern: self.rank_pattern.map(|rank| rank * 2),
            alpha_pattern: self.alpha_pattern.map(|alpha| alpha * factor),
            init_lora_weights: Init::Flag(true),
            ..self.clone()
        }
    }

    /// Warn of expressions that match no module that is adapted.
    fn tell_unmatched(&self, sites: &[&Site]) -> Result<()> {
        let modules: Vec<&str> = sites.iter().map(|site| site.module.as_str()).collect();
        let ranks = self.rank_pattern.unmatched(&modules, "rank_pattern")?.into_iter().map(|key| ("rank_pattern", key));
        let alphas = self.alpha_pattern.unmatched(&modules, "alpha_pattern")?.into_iter().map(|key| ("alpha_pattern", key));
        for (setting, key) in ranks.chain(alphas) {
            tracing::warn!("{}", Miss::new(setting, key, modules.iter().copied()));
        }
        Ok(())
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
        if self.use_dora && self.lora_bias {
            return invalid("use_dora and lora_bias exclude each other");
        }
        // What only files may have is judged with the sites, where it is known whether there is a file.
        if let (Ok(Plan::Pissa { .. } | Plan::Olora), true) = (self.init_lora_weights.plan(), self.use_dora || self.lora_bias) {
            return invalid("PiSSA and OLoRA exclude use_dora and lora_bias");
        }
        check(Kind::Lora, self)?;
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
        let plan = if context.from_file { self.init_lora_weights.plan_of_file()? } else { self.init_lora_weights.plan()? };
        let decomposes = matches!(plan, Plan::Pissa { .. } | Plan::Olora);
        self.tell_unmatched(sites)?;
        for site in sites {
            let rank = self.rank_at(&site.module)?;
            if site.is_embedding() && (self.use_dora || decomposes) {
                let message = "an embedding cannot be adapted by DoRA or PiSSA; leave it out of target_modules";
                return Err(Error::InvalidConfig(format!("{}: {message}", site.module)));
            }
            if !context.from_file || decomposes {
                self.check_rank(site, rank)?;
            }
        }
        Ok(Box::new(move |site, weight| {
            let rng = &mut seed::rng(context.seed, &site.path());
            let (rank, scaling) = (self.rank_at(&site.module)?, self.scaling_at(&site.module)?);
            let start = match plan {
                Plan::Pissa { .. } | Plan::Olora if matches!(weight.dtype(), burn::tensor::DType::QFloat(_)) => {
                    return Err(Error::NeedsFloatBase { site: site.module.clone(), method: "PiSSA or OLoRA".into() });
                }
                Plan::Pissa { .. } if scaling <= 0.0 => {
                    return Err(Error::InvalidConfig(format!("{}: PiSSA needs a positive lora_alpha", site.module)));
                }
                Plan::Pissa { iterations } => {
                    let pissa = Pissa::new(weight, rank, scaling, self.lora_dropout, iterations, rng)?;
                    return Ok(AnyAdapter::new(pissa));
                }
                Plan::Olora => return Ok(AnyAdapter::new(Pissa::of_qr(weight, rank, scaling, self.lora_dropout)?)),
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
