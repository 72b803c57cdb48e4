//! VeRA: vector-based random matrix adaptation. Kopiczko et al., ICLR 2024, equation 2.
//!
//! `ΔW = (A · diag λ_d) (B · diag λ_b)`, where `A: [d_in, r]` and `B: [r, d_out]` are random, frozen and shared by all sites (each reads the
//! rows and columns it has), and only `λ_d: [r]` and `λ_b: [d_out]` are trained. `λ_b` starts at zero.

use crate::config::{Common, check};
use burn::module::{Module, Param};
use burn::nn::Dropout;
use burn::tensor::{DType, Tensor};
use peft_core::hf::Kind;
use peft_core::{Adapter, AnyAdapter, Builder, Context, Error, Extras, Method, Result, Site, Stored, Targets, as_type, ops, seed};
use serde::{Deserialize, Serialize};

/// Configuration of VeRA, with HF PEFT's field names.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct VeraConfig {
    /// Rank of the shared matrices.
    pub r: usize,
    /// Seed of the shared matrices.
    pub projection_prng_key: u64,
    /// Whether the shared matrices are written to the file; without them another library cannot rebuild the adapter.
    pub save_projection: bool,
    /// Dropout on the adapter's input.
    pub vera_dropout: f64,
    /// Initial value of `λ_d`.
    pub d_initial: f64,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// Modules to adapt.
    #[serde(flatten)]
    pub targets: Targets,
    /// Settings of all methods.
    #[serde(flatten)]
    pub common: Common,
}

impl Default for VeraConfig {
    fn default() -> Self {
        Self {
            r: 256,
            projection_prng_key: 0,
            save_projection: true,
            vera_dropout: 0.0,
            d_initial: 0.1,
            modules_to_save: None,
            targets: Targets::default(),
            common: Common::default(),
        }
    }
}

/// Far above any published rank, and small enough to take memory for.
const MAX_RANK: usize = 1 << 16;

/// The state of VeRA on one weight.
#[derive(Module, Debug)]
pub struct Vera {
    /// The shared `A: [d_in_max, r]`, frozen.
    vera_a: Param<Tensor<2>>,
    /// The shared `B: [r, d_out_max]`, frozen.
    vera_b: Param<Tensor<2>>,
    /// `λ_d: [r]`.
    pub lambda_d: Param<Tensor<1>>,
    /// `λ_b: [d_out]`.
    pub lambda_b: Param<Tensor<1>>,
    dropout: Dropout,
    d_in: usize,
    save_projection: bool,
}

impl Vera {
    fn a(&self) -> Tensor<2> {
        self.vera_a.val().narrow(0, 0, self.d_in)
    }

    fn b(&self) -> Tensor<2> {
        self.vera_b.val().narrow(1, 0, self.lambda_b.dims()[0])
    }
}

impl Adapter for Vera {
    const NAME: &'static str = "vera";

    fn weight(&self, base: Tensor<2>) -> Tensor<2> {
        let a = self.a() * self.lambda_d.val().unsqueeze::<2>();
        let b = self.b() * self.lambda_b.val().unsqueeze::<2>();
        let dtype = base.dtype();
        base + as_type(a.matmul(b), dtype)
    }

    fn delta(&self, x: Tensor<2>) -> Option<Tensor<2>> {
        let dtype = x.dtype();
        let hidden = as_type(ops::dropout(&self.dropout, x), DType::F32).matmul(self.a()) * self.lambda_d.val().unsqueeze::<2>();
        Some(as_type(hidden.matmul(self.b()) * self.lambda_b.val().unsqueeze::<2>(), dtype))
    }

    fn export(&self) -> Vec<Stored> {
        let mut stored = vec![Stored::new("vera_lambda_b", self.lambda_b.val()), Stored::new("vera_lambda_d", self.lambda_d.val())];
        if self.save_projection {
            stored.push(Stored::transposed("/vera_A", self.vera_a.val()));
            stored.push(Stored::transposed("/vera_B", self.vera_b.val()));
        }
        stored
    }

    fn import(&mut self, read: &mut dyn FnMut(&str, &[usize]) -> Result<Tensor<1>>) -> Result<()> {
        let lambda_b = read("vera_lambda_b", &self.lambda_b.dims())?;
        let lambda_d = read("vera_lambda_d", &self.lambda_d.dims())?;
        self.lambda_b = peft_core::set(self.lambda_b.clone(), lambda_b);
        self.lambda_d = peft_core::set(self.lambda_d.clone(), lambda_d);
        if !self.save_projection {
            tracing::warn!("the VeRA adapter has no projections in its file; those of another library would be other numbers");
            return Ok(());
        }
        let mut projection = |name: &str, param: &mut Param<Tensor<2>>| -> Result<()> {
            let [rows, columns] = param.dims();
            let values = read(name, &[columns, rows])?;
            *param = peft_core::set(param.clone(), values.reshape([columns, rows]).transpose());
            Ok(())
        };
        projection("/vera_A", &mut self.vera_a)?;
        projection("/vera_B", &mut self.vera_b)
    }
}

impl Method for VeraConfig {
    fn name(&self) -> &'static str {
        "vera"
    }

    fn validate(&self) -> Result<()> {
        if self.r == 0 {
            return Err(Error::InvalidConfig("r must be positive".into()));
        }
        // No weight bounds the rank, as it does LoRA's.
        if self.r > MAX_RANK {
            return Err(Error::InvalidConfig(format!("r is {}, VeRA's rank is at most {MAX_RANK}", self.r)));
        }
        check(Kind::Vera, self)?;
        super::lora_config::check_dropout("vera_dropout", self.vera_dropout)
    }

    fn targets(&self) -> Option<&Targets> {
        Some(&self.targets)
    }

    fn extras(&self) -> Extras {
        Extras { modules_to_save: self.modules_to_save.clone().unwrap_or_default(), ..Extras::default() }
    }

    fn builder<'a>(&'a self, sites: &[&Site], _: &'a Context) -> Result<Builder<'a>> {
        let largest = |side: usize| sites.iter().map(|site| site.dims()[side]).max().unwrap_or(0);
        let (d_in_max, d_out_max) = (largest(0), largest(1));
        // The shared matrices exist once, with one identity; made when the first site tells the device.
        let mut shared: Option<(Param<Tensor<2>>, Param<Tensor<2>>)> = None;
        Ok(Box::new(move |site, weight| {
            let device = weight.device();
            let bound = |fan: usize| 3f64.sqrt() * 2f64.sqrt() / (fan as f64).sqrt();
            let (vera_a, vera_b) = shared.get_or_insert_with(|| {
                let frozen = |name: &str, shape: [usize; 2], fan: usize| {
                    let rng = &mut seed::rng(self.projection_prng_key, name);
                    Param::from_tensor(seed::uniform(shape, bound(fan), rng, &device)).set_require_grad(false)
                };
                (frozen("vera_A", [d_in_max, self.r], d_in_max), frozen("vera_B", [self.r, d_out_max], self.r))
            });
            let [d_in, d_out] = site.dims();
            let adapter = Vera {
                vera_a: vera_a.clone(),
                vera_b: vera_b.clone(),
                lambda_d: Param::from_tensor(Tensor::full([self.r], self.d_initial, &device)),
                lambda_b: Param::from_tensor(Tensor::zeros([d_out], &device)),
                dropout: ops::dropping(self.vera_dropout),
                d_in,
                save_projection: self.save_projection,
            };
            Ok(AnyAdapter::new(adapter))
        }))
    }
}
