//! Trying several weights of the same models.

use crate::method::BaseUse;
use crate::plan::Plan;
use peft_core::files::Checkpoint;
use peft_core::{Error, Result, seed};
use rand::RngExt;

/// Which weights are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// So many for the first of two models, equally far apart from 0 to 1; the second has the rest.
    Grid(usize),
    /// So many draws, all weights that add up to 1 being equally likely (Dirichlet with ones).
    Random(usize),
}

/// Weights for `models` models, which add up to 1.
///
/// # Errors
/// [`Error::InvalidConfig`] for a grid of other than two models, or too few candidates: a grid has both ends.
pub fn candidates(which: Candidates, models: usize, seed: u64) -> Result<Vec<Vec<f64>>> {
    match which {
        Candidates::Grid(_) if models != 2 => {
            Err(Error::InvalidConfig(format!("a grid of weights is for 2 models, not {models}; draw them at random")))
        }
        Candidates::Grid(0 | 1) | Candidates::Random(0) => {
            Err(Error::InvalidConfig("candidates: a grid has at least 2, a draw at least 1".into()))
        }
        Candidates::Grid(count) => Ok((0..count).map(|i| i as f64 / (count - 1) as f64).map(|weight| vec![weight, 1.0 - weight]).collect()),
        Candidates::Random(count) => {
            let mut rng = seed::rng(seed, "candidates");
            let mut draw = || {
                // Exponential numbers over their sum.
                let drawn: Vec<f64> = (0..models).map(|_| -(1.0 - rng.random::<f64>()).ln()).collect();
                let sum: f64 = drawn.iter().sum();
                drawn.into_iter().map(|x| x / sum).collect()
            };
            Ok((0..count).map(|_| draw()).collect())
        }
    }
}

impl Plan {
    /// The same merge with these weights of the models, in the order of the recipe. Nothing is opened or measured again.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a method whose weights are not one for each model, for slices, or for another number of weights.
    pub fn weigh(mut self, weights: &[f64]) -> Result<Self> {
        let method = self.recipe.method;
        let weighted = method.parameters.iter().any(|parameter| parameter.name == "weight");
        let [slice] = self.recipe.slices.as_mut_slice() else {
            return Err(Error::InvalidConfig("weights are searched for whole models: list them under models, without slices".into()));
        };
        if !weighted || method.base != BaseUse::Ordinary {
            return Err(Error::InvalidConfig(format!("weights are searched for the methods fisher and linear, not for {}", method.name)));
        }
        if slice.sources.len() != weights.len() {
            return Err(Error::InvalidConfig(format!("{} weights for {} models", weights.len(), slice.sources.len())));
        }
        for (source, weight) in slice.sources.iter_mut().zip(weights) {
            source.parameters.insert("weight".into(), (*weight).into());
        }
        if let Some(fishers) = &self.fishers {
            fishers.forget_undecided();
        }
        (self.weights, _) = self.planned()?;
        Ok(self)
    }

    /// The result in memory, as a checkpoint to load a model from.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn in_memory(&self) -> Result<Checkpoint> {
        let computed = self.weights.iter().map(|weight| Ok((weight.name.clone(), weight.info.clone(), self.compute(weight)?.into_owned())));
        Checkpoint::in_memory(&self.models[0].dir, computed.collect::<Result<Vec<_>>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_goes_from_one_model_to_the_other() {
        let grid = candidates(Candidates::Grid(51), 2, 0).unwrap();
        assert_eq!((grid.len(), &grid[0], &grid[50]), (51, &vec![0.0, 1.0], &vec![1.0, 0.0]));
        assert!((grid[1][0] - 0.02).abs() < 1e-12);
        let message = candidates(Candidates::Grid(51), 3, 0).unwrap_err().to_string();
        assert!(message.contains("a grid of weights is for 2 models, not 3"), "{message}");
        assert!(candidates(Candidates::Grid(1), 2, 0).is_err() && candidates(Candidates::Random(0), 3, 0).is_err());
    }

    #[test]
    fn draws_spread_evenly_over_all_weights_and_repeat_with_the_seed() {
        let drawn = candidates(Candidates::Random(4000), 3, 7).unwrap();
        assert!(drawn.iter().all(|weights| (weights.iter().sum::<f64>() - 1.0).abs() < 1e-12 && weights.iter().all(|w| *w >= 0.0)));
        // Each weight of a Dirichlet draw with ones has mean 1/3 and variance 1/18.
        for model in 0..3 {
            let mean = drawn.iter().map(|w| w[model]).sum::<f64>() / 4000.0;
            let variance = drawn.iter().map(|w| (w[model] - mean).powi(2)).sum::<f64>() / 4000.0;
            assert!((mean - 1.0 / 3.0).abs() < 0.02 && (variance - 1.0 / 18.0).abs() < 0.006, "{mean} {variance}");
        }
        assert_eq!(drawn, candidates(Candidates::Random(4000), 3, 7).unwrap());
        assert_ne!(drawn, candidates(Candidates::Random(4000), 3, 8).unwrap());
    }
}
