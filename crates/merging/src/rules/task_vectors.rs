//! Sums of what fine-tuning changed: task arithmetic, TIES, DARE, breadcrumbs, DELLA.

use super::Rule;
use super::mask::{Mask, Sparsity};
use crate::gram::deltas;
use crate::method::Values;
use crate::select::Band;
use crate::stack::{Block, Output, Stack};
use peft_core::{Error, Result};

/// `b + λ Σ w_i S(x_i − b)`, with `S` dropping numbers, and perhaps only those summed whose sign is that of the sum.
#[derive(Clone, Debug)]
pub struct TaskVectors {
    /// How numbers are dropped.
    pub sparsity: Sparsity,
    /// Whether each sum is of the numbers that have its sign (TIES).
    pub consensus: bool,
    /// The models beside the base.
    pub models: Vec<Sparse>,
    /// Whether to divide by the sum of the weights that count.
    pub normalize: bool,
    /// Whether what is kept is scaled up to the sum of magnitudes that there was.
    pub rescale: bool,
    /// A factor on the whole sum.
    pub lambda: f64,
    /// What random numbers start from.
    pub seed: u64,
    /// What is kept of each model's numbers, in place of what `sparsity` would say: to compare with another implementation that drew
    /// its own.
    pub masks: Option<Vec<Vec<bool>>>,
}

/// What is set for one model.
#[derive(Clone, Copy, Debug)]
pub struct Sparse {
    /// What it counts.
    pub weight: f64,
    /// The share of its numbers that is kept.
    pub density: f64,
    /// The share of the largest numbers that breadcrumbs drop.
    pub gamma: f64,
    /// Half the spread of the probabilities of DELLA.
    pub epsilon: f64,
}

impl TaskVectors {
    /// The rule that these settings describe.
    pub(super) fn build(values: &Values, sparsity: Sparsity, consensus: bool) -> Result<Box<dyn Rule>> {
        let each = |name| values.each(name);
        let (weights, densities, gammas, epsilons) = (each("weight"), each("density"), each("gamma"), each("epsilon"));
        let model = |i: usize| Sparse { weight: weights[i], density: densities[i], gamma: gammas[i], epsilon: epsilons[i] };
        let models: Vec<Sparse> = (0..weights.len()).map(model).collect();
        models.iter().try_for_each(|model| model.check(sparsity))?;
        let (normalize, rescale) = (values.flag("normalize"), values.flag("rescale"));
        let (lambda, seed) = (values.number("lambda"), values.seed);
        Ok(Box::new(Self { sparsity, consensus, models, normalize, rescale, lambda, seed, masks: None }))
    }

    fn masks(&self, stack: &Stack) -> Vec<Mask> {
        if let Some(masks) = &self.masks {
            return masks.iter().cloned().map(Mask::Given).collect();
        }
        let path = |i: usize| format!("{}/{i}", stack.name);
        let seed = self.seed;
        let mut bands = self.bands(stack).into_iter();
        let mask = |(i, model): (usize, &Sparse)| {
            let density = model.density;
            match self.sparsity {
                Sparsity::None => Mask::All,
                _ if density >= 1.0 => Mask::All,
                _ if density <= 0.0 => Mask::Nothing,
                Sparsity::Random => Mask::Random { density, seed, path: path(i) },
                Sparsity::Della => Mask::Della { density, epsilon: model.epsilon, seed, path: path(i) },
                Sparsity::Magnitude | Sparsity::Outliers => bands.next().map_or(Mask::Nothing, Mask::Band),
            }
        };
        self.models.iter().enumerate().map(mask).collect()
    }

    /// The bands of those models that have one, in their order.
    fn bands(&self, stack: &Stack) -> Vec<Band> {
        let has_band = |model: &&(usize, &Sparse)| model.1.density > 0.0 && model.1.density < 1.0;
        let models: Vec<(usize, &Sparse)> = self.models.iter().enumerate().collect();
        let models: Vec<(usize, &Sparse)> = models.iter().filter(has_band).copied().collect();
        let banded = matches!(self.sparsity, Sparsity::Magnitude | Sparsity::Outliers);
        if !banded || models.is_empty() || stack.is_empty() {
            return Vec::new();
        }
        let ranks: Vec<(usize, usize)> = models.iter().map(|(_, model)| model.ranks(self.sparsity, stack.len())).collect();
        Band::of(stack, &ranks, |block, list, out| {
            out.clear();
            out.extend(block.others[models[list].0].iter().zip(block.base).map(|(x, b)| x - b));
        })
    }

    /// What is kept of each model's difference from the base.
    fn kept(&self, stack: &Stack, block: &Block, masks: &[Mask], unit: usize) -> Vec<Vec<f32>> {
        let mut deltas = deltas(block);
        for (delta, mask) in deltas.iter_mut().zip(masks) {
            mask.apply(stack, block, unit, delta);
        }
        deltas
    }

    /// The factor that brings what is kept of each model to the sum of magnitudes of everything.
    fn scales(&self, stack: &Stack, masks: &[Mask], unit: usize) -> Vec<f32> {
        let thinned = masks.iter().any(|mask| !matches!(mask, Mask::All));
        if !self.rescale || !thinned {
            return vec![1.0; masks.len()];
        }
        let sum = |numbers: &Vec<f32>| numbers.iter().map(|x| f64::from(x.abs())).sum::<f64>();
        let sums = |block: &Block| {
            let all = deltas(block);
            let kept = self.kept(stack, block, masks, unit);
            all.iter().zip(&kept).map(|(all, kept)| [sum(all), sum(kept)]).collect::<Vec<_>>()
        };
        let add = |sums: &mut Vec<[f64; 2]>, part: Vec<[f64; 2]>| {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum = [sum[0] + part[0], sum[1] + part[1]]);
        };
        let factor = |(mask, [all, kept]): (&Mask, [f64; 2])| match mask {
            Mask::All => 1.0,
            _ if all < 1e-7 || kept < 1e-7 => 1.0,
            _ => (all / kept) as f32,
        };
        let sums = stack.fold(unit, sums, add).unwrap_or_else(|| vec![[0.0; 2]; masks.len()]);
        masks.iter().zip(sums).map(factor).collect()
    }

    /// The weighted sum of the kept numbers in `out`.
    fn sum(&self, weighted: &[Vec<f32>], out: &mut [f32]) {
        out.fill(0.0);
        for numbers in weighted {
            out.iter_mut().zip(numbers).for_each(|(out, x)| *out += x);
        }
        if self.normalize && !self.consensus {
            let total = self.models.iter().map(|model| model.weight as f32).sum::<f32>();
            let divisor = if total.abs() < 1e-8 { 1.0 } else { total };
            out.iter_mut().for_each(|out| *out /= divisor);
        }
    }

    /// Of the sums in `out`, keep what has their sign.
    fn elect(&self, weighted: &[Vec<f32>], out: &mut [f32]) {
        let weights: Vec<f32> = self.models.iter().map(|model| model.weight as f32).collect();
        agreeing(weighted, &weights, out, |sum, divisor| if self.normalize && divisor != 0.0 { sum / divisor } else { sum });
    }
}

/// Of the sums in `out`, keep what has their sign: `finish` makes the result of it and of the weights that count.
pub(super) fn agreeing(numbers: &[Vec<f32>], weights: &[f32], out: &mut [f32], finish: impl Fn(f32, f32) -> f32) {
    let (mut sums, mut divisors) = (vec![0f32; out.len()], vec![0f32; out.len()]);
    for (numbers, weight) in numbers.iter().zip(weights) {
        for (((x, total), sum), divisor) in numbers.iter().zip(out.iter()).zip(&mut sums).zip(&mut divisors) {
            // Zero agrees with nobody. Written so that many are done at once.
            let agrees = (*x > 0.0) & (*total >= 0.0) | (*x < 0.0) & (*total < 0.0);
            *sum += if agrees { *x } else { 0.0 };
            *divisor += if agrees { *weight } else { 0.0 };
        }
    }
    out.iter_mut().zip(sums).zip(divisors).for_each(|((out, sum), divisor)| *out = finish(sum, divisor));
}

impl Rule for TaskVectors {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let unit = self.sparsity.unit(stack.shape);
        let masks = self.masks(stack);
        let scales = self.scales(stack, &masks, unit);
        let lambda = self.lambda as f32;
        stack.fill(unit, out, |block, out| {
            let mut weighted = self.kept(stack, block, &masks, unit);
            for ((numbers, scale), model) in weighted.iter_mut().zip(&scales).zip(&self.models) {
                let weight = model.weight as f32;
                numbers.iter_mut().for_each(|x| *x = *x * scale * weight);
            }
            self.sum(&weighted, out);
            if self.consensus {
                self.elect(&weighted, out);
            }
            out.iter_mut().zip(block.base).for_each(|(out, b)| *out = b + lambda * *out);
        })
    }
}

impl Sparse {
    fn check(&self, sparsity: Sparsity) -> Result<()> {
        let Self { density, gamma, epsilon, .. } = *self;
        let wrong = |what: String| Err(Error::InvalidConfig(what));
        if !(0.0..=1.0).contains(&density) {
            return wrong(format!("density: between 0 and 1, not {density}"));
        }
        if sparsity == Sparsity::Outliers && !(0.0..=1.0).contains(&gamma) {
            return wrong(format!("gamma: between 0 and 1, not {gamma}"));
        }
        let thinned = density > 0.0 && density < 1.0;
        if sparsity == Sparsity::Della && thinned && (density - epsilon <= 0.0 || density + epsilon >= 1.0) {
            return wrong(format!("epsilon: density ± epsilon must lie between 0 and 1, not {density} ± {epsilon}"));
        }
        Ok(())
    }

    /// The ranks that are kept, of `len` numbers in the order of their magnitude.
    fn ranks(&self, sparsity: Sparsity, len: usize) -> (usize, usize) {
        let keep = (self.density * len as f64) as usize;
        if sparsity == Sparsity::Magnitude {
            return (len - keep.max(1), len);
        }
        let top = (self.gamma * len as f64) as usize;
        let bottom = len.saturating_sub(keep + top);
        (bottom, (bottom + keep).min(len))
    }
}
