//! The arithmetic of each method: from the same weight of several models to the merged one.

mod arcee_fusion;
mod fisher;
mod karcher;
mod linear;
mod mask;
mod model_stock;
mod multislerp;
mod nearswap;
mod nuslerp;
mod passthrough;
mod ram;
mod sce;
mod slerp;
mod task_vectors;
mod weighted_sum;

use crate::fisher::{Scale, Shared};
use crate::method::Values;
use crate::source::{Numbers, Source};
use crate::stack::{Output, Stack};
use peft_core::files::Dtype;
use peft_core::{Error, Result};

pub use arcee_fusion::ArceeFusion;
pub use fisher::Fisher;
pub use karcher::Karcher;
pub use linear::Linear;
pub use mask::Sparsity;
pub use model_stock::ModelStock;
pub use multislerp::MultiSlerp;
pub use nearswap::NearSwap;
pub use nuslerp::{NuSlerp, Over};
pub use passthrough::Passthrough;
pub use ram::{Boost, Ram};
pub use sce::Sce;
pub use slerp::Slerp;
pub use task_vectors::{Sparse, TaskVectors};
pub use weighted_sum::{Majority, Pruning, WeightedSum};

/// How one weight is merged.
pub trait Rule: std::fmt::Debug + Send + Sync {
    /// Compute the merged weight.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming an input with a number that is none; [`Error::InvalidConfig`] if the inputs have no such merge.
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()>;

    /// Whether the result is the only input as it is, so that its bytes can be copied.
    fn is_copy(&self) -> bool {
        false
    }
}

/// Merge slices in memory: one weight of `shape`, as the base and the other models have it.
///
/// ```
/// use peft_merge::rules::{Linear, merge};
/// let average = Linear { weights: vec![1.0, 3.0], normalize: true };
/// assert_eq!(merge(&average, "w", &[2], None, &[&[0.0, 4.0], &[4.0, 8.0]]).unwrap(), [3.0, 7.0]);
/// ```
///
/// # Errors
/// [`Error::InvalidConfig`] if a slice has another length than `shape` says; whatever the rule returns.
pub fn merge(rule: &dyn Rule, name: &str, shape: &[usize], base: Option<&[f32]>, others: &[&[f32]]) -> Result<Vec<f32>> {
    let len = shape.iter().product();
    if let Some(wrong) = others.iter().chain(&base).find(|numbers| numbers.len() != len) {
        return Err(Error::InvalidConfig(format!("`{name}`: a slice of {} numbers for shape {shape:?}", wrong.len())));
    }
    fn source<'s>(label: String, numbers: &'s [f32]) -> Source<'s> {
        Source { label, numbers: Numbers::Slice(numbers) }
    }
    let base = base.map(|numbers| source("the base".into(), numbers));
    let others = others.iter().enumerate().map(|(i, numbers)| source(format!("model {i}"), numbers)).collect();
    let mut out = Output::new(Dtype::F32, len);
    rule.merge(&Stack { name, shape, base, others }, &mut out)?;
    Ok(out.into_numbers())
}

type Built = Result<Box<dyn Rule>>;

pub(crate) fn linear(values: &Values) -> Built {
    let (weights, normalize) = (values.each("weight"), values.flag("normalize"));
    if normalize && weights.iter().sum::<f64>().abs() < 1e-8 {
        return Err(Error::InvalidConfig(format!(
            "the weights {weights:?} sum to zero; with normalize: true they are divided by their sum"
        )));
    }
    Ok(Box::new(Linear { weights, normalize }))
}

pub(crate) fn fisher(values: &Values) -> Built {
    let (weights, floor) = (values.each("weight"), values.number("fisher_floor"));
    if weights.iter().any(|weight| *weight < 0.0) || weights.iter().all(|weight| *weight == 0.0) {
        return Err(Error::InvalidConfig(format!("weight: from 0 on, and above 0 for at least one model, not {weights:?}")));
    }
    if floor < 0.0 {
        return Err(Error::InvalidConfig(format!("fisher_floor: from 0 on, not {floor}")));
    }
    let Some(Shared { scales, target, undecided }) = values.fisher.clone() else {
        return Err(Error::InvalidConfig("fisher needs the Fisher information of each model".into()));
    };
    let normalize = values.flag("normalize");
    // A model without any Fisher information has no norm to divide by.
    let coefficient = |(weight, scale): (&f64, &Scale)| if normalize && scale.norm > 0.0 { weight / scale.norm } else { *weight };
    let relative = values.flag("floor_relative");
    let floor = |(model, scale): (usize, &Scale)| match !values.flag("favor_target") || model == target {
        true if relative => floor * scale.mean,
        true => floor,
        false => 0.0,
    };
    Ok(Box::new(Fisher {
        coefficients: weights.iter().zip(&scales).map(coefficient).collect(),
        floors: scales.iter().enumerate().map(floor).collect(),
        target,
        undecided,
    }))
}

pub(crate) fn slerp(values: &Values) -> Built {
    Ok(Box::new(Slerp { t: values.number("t") }))
}

pub(crate) fn nuslerp(values: &Values) -> Built {
    let weights = values.each("weight");
    let total: f64 = weights.iter().sum();
    let t = if total.abs() < 1e-6 { 0.5 } else { weights[1] / total };
    let over = match (values.flag("nuslerp_flatten"), values.flag("nuslerp_row_wise")) {
        (true, _) => Over::Whole,
        (false, true) => Over::FirstAxis,
        (false, false) => Over::LastAxis,
    };
    Ok(Box::new(NuSlerp { t, over }))
}

pub(crate) fn multislerp(values: &Values) -> Built {
    let mut weights = values.each("weight");
    if values.flag("normalize_weights") {
        let total: f64 = weights.iter().sum();
        if total.abs() < 1e-8 {
            return Err(Error::InvalidConfig(format!(
                "the weights {weights:?} sum to zero; with normalize_weights they are divided by their sum"
            )));
        }
        weights.iter_mut().for_each(|w| *w /= total);
    }
    Ok(Box::new(MultiSlerp { weights, eps: values.number("eps") }))
}

pub(crate) fn karcher(values: &Values) -> Built {
    let max_iter = values.number("max_iter");
    if max_iter < 0.0 || max_iter.fract() != 0.0 {
        return Err(Error::InvalidConfig(format!("max_iter: a whole number from 0, not {max_iter}")));
    }
    Ok(Box::new(Karcher { max_iter: max_iter as usize, tol: values.number("tol") }))
}

pub(crate) fn ram(values: &Values) -> Built {
    Ok(Box::new(Ram { epsilon: values.number("epsilon"), boost: None }))
}

pub(crate) fn ramplus_tl(values: &Values) -> Built {
    let boost = Boost { r: values.number("r"), alpha: values.number("alpha") };
    if boost.alpha < 0.0 {
        return Err(Error::InvalidConfig(format!("alpha: at least 0, not {}", boost.alpha)));
    }
    Ok(Box::new(Ram { epsilon: values.number("epsilon"), boost: Some(boost) }))
}

pub(crate) fn task_arithmetic(values: &Values) -> Built {
    TaskVectors::build(values, Sparsity::None, false)
}

pub(crate) fn ties(values: &Values) -> Built {
    TaskVectors::build(values, Sparsity::Magnitude, true)
}

pub(crate) fn dare_linear(values: &Values) -> Built {
    TaskVectors::build(values, Sparsity::Random, false)
}

pub(crate) fn dare_ties(values: &Values) -> Built {
    TaskVectors::build(values, Sparsity::Random, true)
}

pub(crate) fn breadcrumbs(values: &Values) -> Built {
    TaskVectors::build(values, Sparsity::Outliers, false)
}

pub(crate) fn breadcrumbs_ties(values: &Values) -> Built {
    TaskVectors::build(values, Sparsity::Outliers, true)
}

pub(crate) fn della(values: &Values) -> Built {
    TaskVectors::build(values, Sparsity::Della, true)
}

pub(crate) fn della_linear(values: &Values) -> Built {
    TaskVectors::build(values, Sparsity::Della, false)
}

pub(crate) fn model_stock(values: &Values) -> Built {
    Ok(Box::new(ModelStock { filter_wise: values.flag("filter_wise") }))
}

pub(crate) fn sce(values: &Values) -> Built {
    let select = values.number("select_topk");
    if !(0.0..=1.0).contains(&select) {
        return Err(Error::InvalidConfig(format!("select_topk: between 0 and 1, not {select}")));
    }
    Ok(Box::new(Sce { select_topk: select }))
}

pub(crate) fn arcee_fusion(_: &Values) -> Built {
    Ok(Box::new(ArceeFusion))
}

pub(crate) fn nearswap(values: &Values) -> Built {
    Ok(Box::new(NearSwap { t: values.number("t") }))
}

pub(crate) fn passthrough(values: &Values) -> Built {
    Ok(Box::new(Passthrough { scale: values.models.first().and_then(|model| model.get("scale").copied()) }))
}
