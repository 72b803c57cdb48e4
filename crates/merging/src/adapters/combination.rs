//! Ways to combine adapters, by the names that HF PEFT gives them.

use crate::rules::{Majority, Pruning};
use peft_core::{Error, Result};

/// How adapters are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combination {
    /// Its name in HF PEFT.
    pub name: &'static str,
    /// What is added up.
    pub(crate) of: Of,
    /// Which numbers are dropped before.
    pub(crate) dropped: Dropped,
    /// Whether each sum is of the numbers that have the sign of the majority (TIES).
    pub(crate) elects: bool,
}

/// What is added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// The matrices A among each other, and the matrices B.
    Factors,
    /// Nothing: the matrices lie side by side, and the products add up.
    Ranks,
    /// The products, of which the largest singular values are kept.
    Changes,
}

/// Which numbers are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    None,
    Smallest,
    Random,
}

const fn combination(name: &'static str, of: Of, dropped: Dropped, elects: bool) -> Combination {
    Combination { name, of, dropped, elects }
}

/// All combinations.
pub const COMBINATIONS: [Combination; 11] = [
    combination("svd", Of::Changes, Dropped::None, false),
    combination("linear", Of::Factors, Dropped::None, false),
    combination("cat", Of::Ranks, Dropped::None, false),
    combination("ties", Of::Factors, Dropped::Smallest, true),
    combination("ties_svd", Of::Changes, Dropped::Smallest, true),
    combination("dare_ties", Of::Factors, Dropped::Random, true),
    combination("dare_linear", Of::Factors, Dropped::Random, false),
    combination("dare_ties_svd", Of::Changes, Dropped::Random, true),
    combination("dare_linear_svd", Of::Changes, Dropped::Random, false),
    combination("magnitude_prune", Of::Factors, Dropped::Smallest, false),
    combination("magnitude_prune_svd", Of::Changes, Dropped::Smallest, false),
];

impl Combination {
    /// The combination of this name.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], which lists the names that exist.
    pub fn named(name: &str) -> Result<Self> {
        COMBINATIONS.into_iter().find(|combination| combination.name == name).ok_or_else(|| {
            let known = COMBINATIONS.map(|combination| combination.name).join(", ");
            Error::InvalidConfig(format!("there is no combination `{name}`; known: {known}"))
        })
    }

    /// Whether it drops numbers, and takes a density.
    pub fn drops(&self) -> bool {
        self.dropped != Dropped::None
    }

    /// Whether it draws random numbers.
    pub fn is_random(&self) -> bool {
        self.dropped == Dropped::Random
    }

    /// Whether it ends in a singular value decomposition, and takes a rank.
    pub fn decomposes(&self) -> bool {
        self.of == Of::Changes
    }
}

/// What to do with several adapters.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How they are combined.
    pub combination: Combination,
    /// What each counts, in their order.
    pub weights: Vec<f64>,
    /// The share of the numbers that is kept; needed where numbers are dropped.
    pub density: Option<f64>,
    /// How the majority's sign is found; the sign of the sum where nothing is said.
    pub majority: Option<Majority>,
    /// The rank that a decomposition leaves at most; the highest rank of any adapter where nothing is said.
    pub svd_rank: Option<usize>,
    /// Decompose the sum of thinned changes by so many iterations on a random subspace, and not exactly.
    pub svd_iterations: Option<usize>,
    /// What random numbers start from.
    pub seed: u64,
}

impl Settings {
    /// A combination with these weights, and nothing else set.
    pub fn new(combination: Combination, weights: Vec<f64>) -> Self {
        Self { combination, weights, density: None, majority: None, svd_rank: None, svd_iterations: None, seed: 0 }
    }

    /// Refuses settings that are missing, out of range, or of another combination.
    pub(super) fn check(&self, adapters: usize) -> Result<()> {
        let name = self.combination.name;
        let wrong = |reason: String| Err(Error::InvalidConfig(reason));
        if self.weights.len() != adapters {
            return wrong(format!("the number of weights is {}, that of adapters {adapters}; give one for each", self.weights.len()));
        }
        if let Some(weight) = self.weights.iter().find(|weight| !weight.is_finite()) {
            return wrong(format!("a weight is a finite number, not {weight}"));
        }
        match self.density {
            None if self.combination.drops() => {
                return wrong(format!("{name} needs a density: the share of the numbers that is kept"));
            }
            Some(density) if !(density > 0.0 && density <= 1.0) => {
                return wrong(format!("density: above 0 and at most 1, not {density}"));
            }
            Some(_) if !self.combination.drops() => return wrong(format!("{name} drops nothing, so that it has no density")),
            _ => {}
        }
        if self.majority.is_some() && !self.combination.elects {
            return wrong(format!("{name} elects no signs, so that it has no majority"));
        }
        match self.svd_rank {
            Some(0) => return wrong("svd_rank: at least 1, not 0".into()),
            Some(_) if !self.combination.decomposes() => return wrong(format!("{name} decomposes nothing, so that it has no svd_rank")),
            _ => {}
        }
        if self.svd_iterations.is_some() && !(self.combination.decomposes() && self.combination.drops()) {
            return wrong(format!("svd_iterations is for a combination that drops numbers and ends in a decomposition, not for {name}"));
        }
        Ok(())
    }

    /// What is dropped of each matrix or change.
    pub(super) fn pruning(&self) -> Pruning {
        let density = self.density.unwrap_or(1.0);
        match self.combination.dropped {
            _ if density >= 1.0 => Pruning::None,
            Dropped::None => Pruning::None,
            Dropped::Smallest => Pruning::Magnitude(density),
            Dropped::Random => Pruning::Random(density),
        }
    }

    /// How the majority is found, where there is one.
    pub(super) fn majority(&self) -> Option<Majority> {
        self.combination.elects.then(|| self.majority.unwrap_or(Majority::Total))
    }
}
