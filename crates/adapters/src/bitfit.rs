//! BitFit: train the biases alone.
//!
//! Ben Zaken, Ravfogel and Goldberg, ACL 2022. A model without biases (plain Llama, Mistral) has nothing to train and is refused.

use crate::config::Common;
use peft_core::{Biases, Builder, Context, Error, Extras, Method, Result, Site, Targets};
use serde::{Deserialize, Serialize};

/// Configuration of BitFit.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct BitFitConfig {
    /// Modules of which a full copy is trained and saved.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    /// Settings of all methods.
    #[serde(flatten)]
    pub common: Common,
}

impl Method for BitFitConfig {
    fn name(&self) -> &'static str {
        "bitfit"
    }

    fn validate(&self) -> Result<()> {
        crate::config::check(peft_core::hf::Kind::BitFit, self)
    }

    fn targets(&self) -> Option<&Targets> {
        None
    }

    fn extras(&self) -> Extras {
        Extras { modules_to_save: self.modules_to_save.clone().unwrap_or_default(), bias: Biases::All }
    }

    fn builder<'a>(&'a self, _: &[&Site], _: &'a Context) -> Result<Builder<'a>> {
        Ok(Box::new(|site, _| Err(Error::InvalidConfig(format!("{}: bitfit puts no adapter on weights", site.module)))))
    }
}
