//! How many parameters are trained, and where.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Parameter counts of a model; what HF's `print_trainable_parameters` prints.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Summary {
    /// Parameters that are trained.
    pub trainable: usize,
    /// All parameters, adapters included. A parameter that several modules share counts once.
    pub total: usize,
    /// Trained parameters by the path of the parameter they belong to.
    pub by_site: BTreeMap<String, usize>,
}

impl Summary {
    /// Count a model's parameters.
    pub fn of<M: Module>(model: &M) -> Self {
        // Only on an autodiff device does a parameter tell whether it is trained.
        let training = model.devices().first().is_none_or(|device| device.is_autodiff());
        let mut count = Count::default();
        match training {
            true => model.visit(&mut count),
            false => model.clone().train().visit(&mut count),
        }
        count.summary
    }

    /// Trained parameters in percent of all.
    pub fn percent(&self) -> f64 {
        100.0 * self.trainable as f64 / self.total.max(1) as f64
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (trainable, total) = (grouped(self.trainable), grouped(self.total));
        write!(f, "trainable params: {trainable} || all params: {total} || trainable%: {:.4}", self.percent())
    }
}

/// A number with commas between thousands.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[derive(Default)]
struct Count {
    path: Vec<String>,
    seen: HashSet<ParamId>,
    summary: Summary,
}

impl ModuleVisitor for Count {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.seen.insert(param.id) {
            return;
        }
        let count = param.lazy_shape().num_elements();
        self.summary.total += count;
        if param.is_require_grad() {
            self.summary.trainable += count;
            let site = self.path.iter().take_while(|name| *name != "peft").map(String::as_str).collect::<Vec<_>>().join(".");
            *self.summary.by_site.entry(site).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_separated() {
        assert_eq!((grouped(7), grouped(1234), grouped(1_000_000)), ("7".into(), "1,234".into(), "1,000,000".into()));
    }
}
