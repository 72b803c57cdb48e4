//! The methods a recipe can name, and what each takes.

use crate::fisher::Shared;
use crate::rules::{self, Rule};
use peft_core::files::nearest;
use peft_core::{Error, Result};
use std::collections::BTreeMap;

/// A way to merge, as recipes name it.
pub struct Method {
    /// Its name in recipes.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Where it is described.
    pub reference: &'static str,
    /// What it does with the base model.
    pub base: BaseUse,
    /// The least and the largest number of models beside a base that is told apart.
    pub models: (usize, usize),
    /// What can be set.
    pub parameters: &'static [Parameter],
    build: fn(&Values) -> Result<Box<dyn Rule>>,
}

/// What a method does with the base model of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseUse {
    /// It needs one.
    Needed,
    /// It works without.
    Optional,
    /// It is a model like the others.
    Ordinary,
}

/// A setting of a method.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in recipes.
    pub name: &'static str,
    /// Whether each model has a value of its own; otherwise all share one.
    pub per_model: bool,
    /// Whether it is true or false rather than a number. Either is kept as a number, true as 1.
    pub flag: bool,
    /// What holds where nothing is set.
    pub default: Unset,
}

/// What holds where nothing is set.
#[derive(Clone, Copy, Debug)]
pub enum Unset {
    /// It must be set.
    Required,
    /// Nothing at all.
    Nothing,
    /// This value.
    Value(f64),
}

/// The settings of one weight.
#[derive(Clone, Debug)]
pub struct Values {
    /// Those that all models share.
    pub shared: BTreeMap<&'static str, f64>,
    /// Those of each model that is no base, in the order of the recipe.
    pub models: Vec<BTreeMap<&'static str, f64>>,
    /// What random numbers start from.
    pub seed: u64,
    /// For a method that reads Fisher information.
    pub fisher: Option<Shared>,
}

impl Values {
    /// A number that all models share; one without a default is zero where it is not set.
    pub fn number(&self, name: &str) -> f64 {
        self.shared.get(name).copied().unwrap_or(0.0)
    }

    /// Whether a flag is set.
    pub fn flag(&self, name: &str) -> bool {
        self.number(name) != 0.0
    }

    /// The values as people read them: what all models share, and what each has where it is not the same in all.
    pub fn describe(&self, method: &Method) -> String {
        let text = |parameter: &Parameter, value: f64| match parameter.flag {
            true => (value != 0.0).to_string(),
            false => value.to_string(),
        };
        let part = |parameter: &Parameter| {
            let values: Vec<f64> = match parameter.per_model {
                true => self.models.iter().filter_map(|values| values.get(parameter.name).copied()).collect(),
                false => self.shared.get(parameter.name).into_iter().copied().collect(),
            };
            let first = *values.first()?;
            let same = values.iter().all(|value| *value == first);
            let values: Vec<String> = values.iter().take(if same { 1 } else { usize::MAX }).map(|value| text(parameter, *value)).collect();
            Some(format!("{} {}", parameter.name, values.join(", ")))
        };
        method.parameters.iter().filter_map(part).collect::<Vec<_>>().join("; ")
    }

    /// The value that each model has.
    pub fn each(&self, name: &str) -> Vec<f64> {
        self.models.iter().map(|values| values.get(name).copied().unwrap_or(0.0)).collect()
    }
}

impl Method {
    /// The method of this name.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], which lists the names that exist.
    pub fn named(name: &str) -> Result<&'static Self> {
        METHODS.iter().find(|method| method.name == name).ok_or_else(|| {
            if TRAINED_METHODS.contains(&name) {
                return Error::InvalidConfig(format!("merge_method: {name} is trained on data; no plan of files can be made for it"));
            }
            let known: Vec<_> = METHODS.iter().map(|method| method.name).chain(TRAINED_METHODS).collect();
            let near = nearest(name, known.iter().copied(), 1).join("");
            Error::InvalidConfig(format!("merge_method: there is no `{name}`; known: {}; the nearest is `{near}`", known.join(", ")))
        })
    }

    /// Whether it reads the Fisher information of each model.
    pub fn reads_fisher(&self) -> bool {
        self.name == "fisher"
    }

    /// The rule for a weight with these settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a setting outside its range.
    pub fn rule(&self, values: &Values) -> Result<Box<dyn Rule>> {
        (self.build)(values)
    }
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn per_model(name: &'static str, default: Unset) -> Parameter {
    Parameter { name, per_model: true, flag: false, default }
}

const fn number(name: &'static str, default: Unset) -> Parameter {
    Parameter { name, per_model: false, flag: false, default }
}

const fn flag(name: &'static str, default: bool) -> Parameter {
    Parameter { name, per_model: false, flag: true, default: Unset::Value(default as u8 as f64) }
}

const WEIGHT: Parameter = per_model("weight", Unset::Required);
const DENSITY: Parameter = per_model("density", Unset::Value(1.0));
const GAMMA: Parameter = per_model("gamma", Unset::Value(0.01));
const EPSILON: Parameter = per_model("epsilon", Unset::Value(0.15));
const LAMBDA: Parameter = number("lambda", Unset::Value(1.0));
/// What it saves in other implementations is not spent here.
const INT8_MASK: Parameter = flag("int8_mask", false);
const MANY: usize = usize::MAX;

macro_rules! task_vectors {
    ($name:literal, $title:literal, $reference:literal, normalize $normalize:literal, rescale $rescale:literal, $rule:expr $(, $extra:expr)?) => {
        Method {
            name: $name,
            title: $title,
            reference: $reference,
            base: BaseUse::Needed,
            models: (1, MANY),
            parameters: &[WEIGHT, DENSITY, flag("normalize", $normalize), flag("rescale", $rescale), LAMBDA, INT8_MASK $(, $extra)?],
            build: $rule,
        }
    };
}

/// The methods that are trained on data, and work on models in memory: [`adaptive`](crate::adaptive), [`atlas`](crate::atlas) and
/// [`concrete`](crate::concrete).
pub const TRAINED_METHODS: [&str; 4] = ["adamerging", "atlas", "concrete_task_arithmetic", "concrete_adamerging"];

/// All methods that make a plan of files.
pub static METHODS: &[Method] = &[
    Method {
        name: "linear",
        title: "Linear",
        reference: "https://arxiv.org/abs/2203.05482",
        base: BaseUse::Ordinary,
        models: (1, MANY),
        parameters: &[WEIGHT, flag("normalize", true)],
        build: rules::linear,
    },
    Method {
        name: "slerp",
        title: "SLERP",
        reference: "https://en.wikipedia.org/wiki/Slerp",
        base: BaseUse::Needed,
        models: (1, 1),
        parameters: &[number("t", Unset::Required)],
        build: rules::slerp,
    },
    Method {
        name: "nuslerp",
        title: "NuSLERP",
        reference: "https://en.wikipedia.org/wiki/Slerp",
        base: BaseUse::Optional,
        models: (2, 2),
        parameters: &[WEIGHT, flag("nuslerp_row_wise", false), flag("nuslerp_flatten", true)],
        build: rules::nuslerp,
    },
    Method {
        name: "multislerp",
        title: "Multi-SLERP",
        reference: "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
        base: BaseUse::Optional,
        models: (1, MANY),
        parameters: &[WEIGHT, flag("normalize_weights", true), number("eps", Unset::Value(1e-8))],
        build: rules::multislerp,
    },
    Method {
        name: "karcher",
        title: "Karcher mean",
        reference: "https://arxiv.org/abs/2603.04972",
        base: BaseUse::Ordinary,
        models: (1, MANY),
        parameters: &[number("max_iter", Unset::Value(10.0)), number("tol", Unset::Value(1e-5))],
        build: rules::karcher,
    },
    Method {
        name: "task_arithmetic",
        title: "Task arithmetic",
        reference: "https://arxiv.org/abs/2212.04089",
        base: BaseUse::Needed,
        models: (1, MANY),
        // It drops nothing, so that a density or a scaling up of what is left would have no effect.
        parameters: &[WEIGHT, flag("normalize", false), LAMBDA, INT8_MASK],
        build: rules::task_arithmetic,
    },
    task_vectors!("ties", "TIES", "https://arxiv.org/abs/2306.01708", normalize true, rescale false, rules::ties),
    task_vectors!("dare_linear", "DARE", "https://arxiv.org/abs/2311.03099", normalize false, rescale true, rules::dare_linear),
    task_vectors!("dare_ties", "DARE TIES", "https://arxiv.org/abs/2311.03099", normalize false, rescale true, rules::dare_ties),
    task_vectors!(
        "breadcrumbs",
        "Model breadcrumbs",
        "https://arxiv.org/abs/2312.06795",
        normalize false,
        rescale false,
        rules::breadcrumbs,
        GAMMA
    ),
    task_vectors!(
        "breadcrumbs_ties",
        "Model breadcrumbs with TIES",
        "https://arxiv.org/abs/2312.06795",
        normalize false,
        rescale false,
        rules::breadcrumbs_ties,
        GAMMA
    ),
    task_vectors!("della", "DELLA", "https://arxiv.org/abs/2406.11617", normalize true, rescale true, rules::della, EPSILON),
    task_vectors!(
        "della_linear",
        "Linear DELLA",
        "https://arxiv.org/abs/2406.11617",
        normalize false,
        rescale true,
        rules::della_linear,
        EPSILON
    ),
    Method {
        name: "model_stock",
        title: "Model stock",
        reference: "https://arxiv.org/abs/2403.19522",
        base: BaseUse::Needed,
        models: (2, MANY),
        parameters: &[flag("filter_wise", false)],
        build: rules::model_stock,
    },
    Method {
        name: "sce",
        title: "SCE",
        reference: "https://arxiv.org/abs/2408.07990",
        base: BaseUse::Needed,
        models: (1, MANY),
        parameters: &[number("select_topk", Unset::Value(1.0)), INT8_MASK],
        build: rules::sce,
    },
    Method {
        name: "ram",
        title: "Reinforced agent merging",
        reference: "https://arxiv.org/abs/2601.13572",
        base: BaseUse::Needed,
        models: (1, MANY),
        parameters: &[number("epsilon", Unset::Value(1e-5))],
        build: rules::ram,
    },
    Method {
        name: "ramplus_tl",
        title: "Reinforced agent merging plus",
        reference: "https://arxiv.org/abs/2601.13572",
        base: BaseUse::Needed,
        models: (1, MANY),
        parameters: &[number("epsilon", Unset::Value(1e-5)), number("r", Unset::Value(0.1)), number("alpha", Unset::Value(0.2))],
        build: rules::ramplus_tl,
    },
    Method {
        name: "arcee_fusion",
        title: "Arcee Fusion",
        reference: "https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md",
        base: BaseUse::Needed,
        models: (1, 1),
        parameters: &[],
        build: rules::arcee_fusion,
    },
    Method {
        name: "nearswap",
        title: "NearSwap",
        reference: "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
        base: BaseUse::Needed,
        models: (1, 1),
        parameters: &[number("t", Unset::Required)],
        build: rules::nearswap,
    },
    Method {
        name: "fisher",
        title: "Fisher-weighted averaging",
        reference: "https://arxiv.org/abs/2111.09832",
        base: BaseUse::Ordinary,
        models: (1, MANY),
        parameters: &[
            WEIGHT,
            flag("normalize", true),
            number("fisher_floor", Unset::Value(1e-6)),
            flag("favor_target", true),
            flag("floor_relative", false),
        ],
        build: rules::fisher,
    },
    Method {
        name: "passthrough",
        title: "Passthrough",
        reference: "https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md",
        base: BaseUse::Ordinary,
        models: (1, 1),
        parameters: &[per_model("scale", Unset::Nothing)],
        build: rules::passthrough,
    },
];
