//! The matrices of one merged module.

use super::combination::Of;
use super::lora::{Factors, keys};
use super::low_rank::LowRank;
use super::merge::{AdapterMerge, MergedModule};
use crate::rules::{Rule, WeightedSum, merge};
use crate::source::{Numbers, Source};
use crate::stack::{Output, Stack};
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::files::Dtype;
use peft_core::linalg::{Svd, product_svd, randomized_svd, svd};
use peft_core::{Error, Result, device, seed};
use std::sync::Arc;

/// One adapter's part in a module.
struct Part {
    factors: Factors,
    weight: f64,
    scaling: f64,
    rank: usize,
    label: String,
}

impl AdapterMerge {
    /// The matrices of a module of the result.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming a tensor that holds what is no number, or the module if it comes to none.
    pub fn compute(&self, module: &MergedModule) -> Result<Factors> {
        let parts = module.inputs.iter().map(|i| self.part(module, *i)).collect::<Result<Vec<_>>>()?;
        let merged = match self.settings.combination.of {
            Of::Factors => self.by_factors(module, &parts)?,
            Of::Ranks => side_by_side(module, &parts),
            Of::Changes if self.settings.combination.drops() => self.by_changes(module, parts)?,
            Of::Changes => by_ranks(module, &parts)?,
        };
        match merged.a.iter().chain(&merged.b).all(|x| x.is_finite()) {
            true => Ok(merged),
            false => Err(Error::NonFinite { what: format!("`{}` of the merged adapter", module.name) }),
        }
    }

    fn part(&self, module: &MergedModule, input: usize) -> Result<Part> {
        let (adapter, weight) = (&self.adapters[input], self.settings.weights[input]);
        let site = &adapter.sites[&module.name];
        let label = format!("{}: `{}`", adapter.name, module.name);
        Ok(Part { factors: adapter.factors(&module.name)?, weight, scaling: site.scaling, rank: site.rank, label })
    }

    fn rule(&self, weights: Vec<f64>) -> WeightedSum {
        let settings = &self.settings;
        WeightedSum { weights, pruning: settings.pruning(), majority: settings.majority(), seed: settings.seed, masks: None }
    }

    /// Each kind of matrix for itself. The root of a factor goes on either side, its sign on one.
    fn by_factors(&self, module: &MergedModule, parts: &[Part]) -> Result<Factors> {
        let MergedModule { name, site, .. } = module;
        let total = |part: &Part| part.weight * part.scaling;
        let root = |part: &Part| total(part).abs().sqrt();
        let signed = |part: &Part| if total(part) >= 0.0 { root(part) } else { -root(part) };
        let [key_a, key_b] = keys(name, site.embedding);
        let a: Vec<&[f32]> = parts.iter().map(|part| part.factors.a.as_slice()).collect();
        let b: Vec<&[f32]> = parts.iter().map(|part| part.factors.b.as_slice()).collect();
        Ok(Factors {
            a: merge(&self.rule(parts.iter().map(signed).collect()), &key_a, &[site.rank, site.columns], None, &a)?,
            b: merge(&self.rule(parts.iter().map(root).collect()), &key_b, &[site.rows, site.rank], None, &b)?,
        })
    }

    /// The merged change as a whole, of which the largest components are kept. The inputs' changes are computed block by block.
    fn by_changes(&self, module: &MergedModule, parts: Vec<Part>) -> Result<Factors> {
        let MergedModule { name, site, inputs } = module;
        let rule = self.rule(parts.iter().map(|part| part.weight).collect());
        let shape = [site.rows, site.columns];
        let others = parts.into_iter().zip(inputs).map(|(part, input)| {
            let change = LowRank::change(part.factors, &self.adapters[*input].sites[name]);
            Source { label: part.label, numbers: Numbers::LowRank(Arc::new(change)) }
        });
        let stack = Stack { name, shape: &shape, base: None, others: others.collect() };
        let mut out = Output::new(Dtype::F32, stack.len());
        rule.merge(&stack, &mut out)?;
        drop(stack);
        let change = matrix(out.into_numbers(), shape, &host()?);
        let largest = match self.settings.svd_iterations {
            None => svd(change, site.rank),
            Some(iterations) => randomized_svd(change, site.rank, iterations, &mut seed::rng(self.settings.seed, name)),
        };
        factors(largest.map_err(|e| named(e, name))?)
    }
}

/// The matrices beside each other: the products add up. What an adapter counts goes on A.
fn side_by_side(module: &MergedModule, parts: &[Part]) -> Factors {
    let scaled = |part: &Part| {
        let factor = (part.weight * part.scaling) as f32;
        part.factors.a.iter().map(move |x| x * factor).collect::<Vec<f32>>()
    };
    let row = |row: usize| parts.iter().flat_map(move |part| part.factors.b[row * part.rank..(row + 1) * part.rank].iter().copied());
    Factors { a: parts.iter().flat_map(scaled).collect(), b: (0..module.site.rows).flat_map(row).collect() }
}

/// The largest components of the sum of products, from the matrices beside each other and without the sum.
fn by_ranks(module: &MergedModule, parts: &[Part]) -> Result<Factors> {
    let Factors { a, b } = side_by_side(module, parts);
    let total: usize = parts.iter().map(|part| part.rank).sum();
    let device = host()?;
    let (a, b) = (matrix(a, [total, module.site.columns], &device), matrix(b, [module.site.rows, total], &device));
    factors(product_svd(b, a, module.site.rank).map_err(|e| named(e, &module.name))?)
}

/// `B = U diag(s)` and `A = Vᵀ`, as HF PEFT splits a decomposition.
fn factors(svd: Svd) -> Result<Factors> {
    let numbers = |tensor: Tensor<2>| tensor.into_data().try_into_vec::<f32>().map_err(|e| Error::Device(format!("{e:?}")));
    let s: Tensor<2> = svd.s.unsqueeze();
    Ok(Factors { a: numbers(svd.vt)?, b: numbers(svd.u * s)? })
}

fn host() -> Result<Device> {
    device::parse("cpu")
}

fn matrix(numbers: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

fn named(error: Error, module: &str) -> Error {
    match error {
        Error::NonFinite { what } => Error::NonFinite { what: format!("`{module}`: {what}") },
        error => error,
    }
}
