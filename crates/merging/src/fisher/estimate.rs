//! Squares of gradients, one example after the other.

use super::prediction::{Host, Prediction, Term};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::{Error, Result, Site, for_each_parameter, gradients, seed, with_parameters};
use std::collections::{BTreeMap, BTreeSet};

/// Whose predictions the gradients are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Estimator {
    /// The model's own, all of them: each class of each row counts by its probability; for numbers the closed form.
    #[default]
    Exact,
    /// The model's own, drawn this often for each example: for vocabularies.
    Sampled {
        /// Draws for each example, at least 1.
        samples: usize,
    },
    /// The labels of the data. This is the *empirical* Fisher information, which is another quantity.
    Empirical,
}

impl Estimator {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Sampled { .. } => "sampled",
            Self::Empirical => "empirical",
        }
    }
}

/// How the Fisher information is estimated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FisherConfig {
    /// Whose predictions.
    pub estimator: Estimator,
    /// Whether each row of an example counts for itself: squares of the gradients of each token's log-probability, in place of squares of
    /// the gradient of a whole sequence's. Both have the same expectation over the model's own predictions; a row's has less variance,
    /// and costs a backward pass for each row. [`Estimator::Exact`] always looks at rows.
    pub per_row: bool,
    /// What random draws start from. Those of an example depend on its number alone.
    pub seed: u64,
}

/// The diagonal Fisher information of a model, as far as its examples have been seen.
///
/// Beside the model it holds one f32 number for each parameter, and during [`add`](Self::add) one gradient more.
#[derive(Debug)]
pub struct Fisher<M> {
    config: FisherConfig,
    model: M,
    /// The paths of the parameters that are looked at.
    pub(super) paths: BTreeSet<String>,
    /// Sums of squares, flat; a parameter that no output has depended on so far is missing.
    pub(super) sums: BTreeMap<String, Tensor<1>>,
    pub(super) examples: usize,
}

impl<M: Module> Fisher<M> {
    /// Prepares to look at the parameters that `which` selects. Dropout and the like are switched off.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a model on a device without autodiff, no parameter at all, or a number of samples of zero.
    pub fn new(model: M, config: FisherConfig, which: impl Fn(&Site) -> bool) -> Result<Self> {
        if config.estimator == (Estimator::Sampled { samples: 0 }) {
            return Err(Error::InvalidConfig("samples: at least one prediction must be drawn for each example".into()));
        }
        if !model.devices().iter().all(Device::is_autodiff) {
            return Err(Error::InvalidConfig("the model is on a device without autodiff; load it on `device.autodiff()`".into()));
        }
        let mut paths = BTreeSet::new();
        let model = with_parameters(model.freeze(), |site, value| {
            let looked_at = which(site);
            if looked_at {
                paths.insert(site.path());
            }
            looked_at.then_some(value)
        });
        match paths.is_empty() {
            true => Err(Error::InvalidConfig("no parameter is selected to take the Fisher information of".into())),
            false => Ok(Self { config, model, paths, sums: BTreeMap::new(), examples: 0 }),
        }
    }

    /// How it is estimated.
    pub fn config(&self) -> &FisherConfig {
        &self.config
    }

    /// How many examples have been added.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The paths of the parameters that are looked at.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str)
    }

    /// Adds one example. `predict` is called for each backward pass, and must say the same each time; what it computes must be about this
    /// example alone, since the squares are of one example's gradient and not of a batch's.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for outputs that are no numbers; [`Error::InvalidConfig`] for outputs that do not depend on the parameters, more
    /// classes than [`Estimator::Exact`] can go through, or labels that are missing or out of range.
    pub fn add(&mut self, predict: impl Fn(&M) -> Prediction) -> Result<()> {
        let first = predict(&self.model);
        let number = self.examples;
        if !first.outputs().is_tracked() {
            return Err(Error::InvalidConfig("the predictions do not depend on the parameters that are looked at".into()));
        }
        let host = Host::of(&first, number)?;
        let terms = host.terms(&self.config, &mut seed::rng(self.config.seed, &format!("example {number}")))?;
        let mut first = Some(first);
        for term in terms {
            // A backward pass uses its graph up.
            let prediction = first.take().unwrap_or_else(|| predict(&self.model));
            self.square(prediction.into_outputs(), &host, &term);
        }
        self.examples += 1;
        Ok(())
    }

    /// Adds the weighted square of the gradient along one direction of the outputs.
    fn square(&mut self, outputs: Tensor<2>, host: &Host, term: &Term) {
        let device = outputs.device();
        let direction = TensorData::new(host.direction(term), [term.rows.len(), host.outputs]);
        let value = (outputs.slice_dim(0, term.rows.clone()) * Tensor::from_data(direction, &device)).sum();
        for (path, gradient) in gradients(&self.model, value.backward()) {
            let square = gradient.clone() * gradient * term.weight;
            let sum = match self.sums.remove(&path) {
                Some(sum) => sum + square,
                None => square,
            };
            self.sums.insert(path, sum);
        }
    }

    /// The Fisher information, flat, by the path of the parameter, in the model's own orientation.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if no example has been added; [`Error::NonFinite`] naming a parameter whose gradient has overflowed.
    pub fn diagonal(&self) -> Result<BTreeMap<String, Tensor<1>>> {
        self.check()?;
        let mut diagonal = BTreeMap::new();
        for_each_parameter(&self.model, |site, value| {
            if self.paths.contains(&site.path()) {
                diagonal.insert(site.path(), self.mean(&site.path(), &value));
            }
        });
        Ok(diagonal)
    }

    /// The length of the Fisher information of all parameters as one vector.
    ///
    /// # Errors
    /// As [`diagonal`](Self::diagonal).
    pub fn norm(&self) -> Result<f64> {
        self.check()?;
        let squares = self.sums.values().map(|sum| {
            let mean = sum.clone() / self.examples as f64;
            // The squares of small numbers are below what f32 has: they are taken relative to the largest.
            let largest = mean.clone().max().into_scalar::<f32>();
            let relative = mean / f64::from(largest.max(f32::MIN_POSITIVE));
            f64::from(largest).powi(2) * f64::from((relative.clone() * relative).sum().into_scalar::<f32>())
        });
        Ok(squares.sum::<f64>().sqrt())
    }

    /// The model with the Fisher information in the place of the parameters that were looked at: to be written as a checkpoint is, under
    /// the keys and in the orientation of the model's own. Other parameters stay as they are.
    ///
    /// # Errors
    /// As [`diagonal`](Self::diagonal).
    pub fn into_model(self) -> Result<M> {
        self.check()?;
        let Self { model, paths, mut sums, examples, .. } = self;
        Ok(with_parameters(model, |site, value| {
            let path = site.path();
            paths.contains(&path).then(|| sums.remove(&path).map_or_else(|| value.zeros_like(), |sum| sum / examples as f64))
        }))
    }

    pub(super) fn device(&self) -> Device {
        self.model.devices().into_iter().next().unwrap_or_default().without_autodiff()
    }

    fn mean(&self, path: &str, like: &Tensor<1>) -> Tensor<1> {
        self.sums.get(path).map_or_else(|| like.zeros_like(), |sum| sum.clone() / self.examples as f64)
    }

    fn check(&self) -> Result<()> {
        if self.examples == 0 {
            return Err(Error::InvalidConfig("the Fisher information needs at least one example".into()));
        }
        match self.sums.iter().find(|(_, sum)| !(*sum).clone().sum().into_scalar::<f32>().is_finite()) {
            Some((path, _)) => Err(Error::NonFinite { what: format!("the Fisher information of `{path}`") }),
            None => Ok(()),
        }
    }
}
