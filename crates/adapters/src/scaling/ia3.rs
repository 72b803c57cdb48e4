//! (IA)³: infused adapter by inhibiting and amplifying inner activations. Liu et al., NeurIPS 2022, section 3.3.
//!
//! A vector `l`, at one to begin with, scales the outputs of a projection, `y = (x W + b) ⊙ l` with `l: [d_out]`; for the second matrix of a
//! feed-forward block (`feedforward_modules`) it scales the inputs, `y = (x ⊙ l) W + b` with `l: [d_in]`.

use crate::config::{Common, check};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::hf::Kind;
use peft_core::{
    Adapter, AnyAdapter, Base, Builder, Context, Error, Extras, Method, Names, Result, Site, Stored, Targets, as_type, ends_with_component,
    seed,
};
use serde::{Deserialize, Serialize};

/// Configuration of (IA)³, with HF PEFT's field names.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Ia3Config {
    /// The adapted modules whose inputs are scaled instead of their outputs.
    pub feedforward_modules: Option<Names>,
    /// Whether `l` starts at one; otherwise it starts near one at random, for tests.
    pub init_ia3_weights: bool,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// Modules to adapt.
    #[serde(flatten)]
    pub targets: Targets,
    /// Settings of all methods.
    #[serde(flatten)]
    pub common: Common,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Self {
            feedforward_modules: None,
            init_ia3_weights: true,
            modules_to_save: None,
            targets: Targets::default(),
            common: Common::default(),
        }
    }
}

/// The state of (IA)³ on one weight.
#[derive(Module, Debug)]
pub struct Ia3 {
    /// `l: [d_out]`, or `[d_in]` on a feed-forward module.
    pub ia3_l: Param<Tensor<1>>,
    feedforward: bool,
}

impl Ia3 {
    fn row(&self, like: burn::tensor::DType) -> Tensor<2> {
        as_type(self.ia3_l.val().unsqueeze(), like)
    }

    fn file_shape(&self) -> [usize; 2] {
        let [d] = self.ia3_l.dims();
        if self.feedforward { [1, d] } else { [d, 1] }
    }
}

impl Adapter for Ia3 {
    const NAME: &'static str = "ia3";

    fn weight(&self, base: Tensor<2>) -> Tensor<2> {
        let l = self.row(base.dtype());
        base * if self.feedforward { l.transpose() } else { l }
    }

    fn forward(&self, x: Tensor<2>, base: &Base) -> Tensor<2> {
        let l = self.row(x.dtype());
        if self.feedforward { base.matmul(x * l) } else { base.matmul(x) * l }
    }

    fn rows(&self, ids: Tensor<1, burn::tensor::Int>, base: &Base) -> Tensor<2> {
        let rows = base.rows(ids.clone());
        let l = self.row(rows.dtype());
        rows * if self.feedforward { l.select(1, ids).transpose() } else { l }
    }

    fn bias(&self, base: Option<Tensor<1>>) -> Option<Tensor<1>> {
        base.map(|bias| if self.feedforward { bias } else { bias.clone() * as_type(self.ia3_l.val(), bias.dtype()) })
    }

    fn export(&self) -> Vec<Stored> {
        vec![Stored::new("ia3_l", self.ia3_l.val().reshape(self.file_shape()))]
    }

    fn import(&mut self, read: &mut dyn FnMut(&str, &[usize]) -> Result<Tensor<1>>) -> Result<()> {
        let l = read("ia3_l", &self.file_shape())?;
        self.ia3_l = peft_core::set(self.ia3_l.clone(), l);
        Ok(())
    }
}

impl Ia3Config {
    fn feedforward(&self) -> Option<Targets> {
        let none = |names: &Names| matches!(names, Names::List(list) if list.is_empty());
        self.feedforward_modules.clone().filter(|names| !none(names)).map(Targets::new)
    }
}

impl Method for Ia3Config {
    fn name(&self) -> &'static str {
        "ia3"
    }

    fn validate(&self) -> Result<()> {
        if let (Some(Names::List(feedforward)), Some(Names::List(targets))) = (&self.feedforward_modules, &self.targets.target_modules)
            && let Some(stray) = feedforward.iter().find(|name| !targets.iter().any(|target| ends_with_component(name, target)))
        {
            return Err(Error::InvalidConfig(format!("feedforward_modules has `{stray}`, which is not one of target_modules")));
        }
        check(Kind::Ia3, self)
    }

    fn targets(&self) -> Option<&Targets> {
        Some(&self.targets)
    }

    fn extras(&self) -> Extras {
        Extras { modules_to_save: self.modules_to_save.clone().unwrap_or_default(), ..Extras::default() }
    }

    fn builder<'a>(&'a self, sites: &[&Site], context: &'a Context) -> Result<Builder<'a>> {
        let owned: Vec<Site> = sites.iter().map(|site| (*site).clone()).collect();
        let feedforward = match self.feedforward() {
            Some(targets) => match targets.select(&owned, |_| true) {
                Ok(sites) => sites.into_iter().map(|site| site.id).collect(),
                // As in HF PEFT, adapting no feed-forward module at all is no mistake.
                Err(Error::NoTargetFound { .. }) => Vec::new(),
                Err(error) => return Err(error),
            },
            None => Vec::new(),
        };
        Ok(Box::new(move |site, weight| {
            let feedforward = feedforward.contains(&site.id);
            let d = site.dims()[usize::from(!feedforward)];
            let mut l = Tensor::ones([d], &weight.device());
            if !self.init_ia3_weights {
                l = l + seed::normal([d], 0.1, &mut seed::rng(context.seed, &site.path()), &weight.device());
            }
            let adapter = Ia3 { ia3_l: Param::from_tensor(l), feedforward };
            Ok(AnyAdapter::new(adapter))
        }))
    }
}
