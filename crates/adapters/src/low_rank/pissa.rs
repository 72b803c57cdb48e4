//! PiSSA: principal singular values and vectors adaptation. Meng et al., NeurIPS 2024, equations 2–4.
//!
//! `W = U S Vᵀ`; the `r` largest components become the adapter, `A = U_r √(S_r / s)`, `B = √(S_r / s) V_rᵀ`, and it acts on the frozen rest
//! `W − s A₀ B₀`, where `A₀` and `B₀` are the factors at the start. The adapted model starts as the base; training moves the principal part.
//!
//! The rest is never stored: `x (W − s A₀ B₀) = x W − s (x A₀) B₀` leaves the base as it is, so that the adapter can be switched off, combined
//! with others and taken out. It is saved as the plain LoRA of twice the rank that it amounts to: `A' = [A, A₀]`, `B' = [B; −B₀]`.

use super::lora::Lora;
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use peft_core::linalg::{Svd, orthonormal, randomized_svd, svd};
use peft_core::{Adapter, Result, Stored, as_type};
use rand_chacha::ChaCha8Rng;

/// The state of PiSSA, or of another start that is taken out of the base, on one weight.
#[derive(Module, Debug)]
pub struct Pissa {
    /// The trained factors.
    pub lora: Lora,
    /// `A₀`, frozen.
    initial_a: Param<Tensor<2>>,
    /// `B₀`, frozen.
    initial_b: Param<Tensor<2>>,
}

impl Pissa {
    /// Make the adapter of the principal part of `weight: [d_in, d_out]`; with `iterations` by randomised decomposition.
    ///
    /// # Errors
    /// [`peft_core::Error::NonFinite`] if the weight is not finite.
    pub fn new(
        weight: Tensor<2>,
        rank: usize,
        scaling: f64,
        dropout: f64,
        iterations: Option<usize>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Self> {
        let exact = as_type(weight, DType::F32).detach();
        let Svd { u, s, vt } = match iterations {
            Some(iterations) => randomized_svd(exact, rank, iterations, rng)?,
            None => svd(exact, rank)?,
        };
        let root: Tensor<2> = (s / scaling).sqrt().unsqueeze();
        Ok(Self::starting(u * root.clone(), vt * root.transpose(), scaling, dropout))
    }

    /// Make the adapter of the first part of a QR decomposition of `weight: [d_in, d_out]`, as OLoRA does (Büyükakyüz 2024): of
    /// `Wᵀ = Q R` the first `r` columns of `Q` are `Bᵀ`, and the first `r` rows of `R` are `Aᵀ`.
    ///
    /// # Errors
    /// [`peft_core::Error::NonFinite`] if the weight is not finite.
    pub fn of_qr(weight: Tensor<2>, rank: usize, scaling: f64, dropout: f64) -> Result<Self> {
        let exact = as_type(weight, DType::F32).detach();
        // Q's first columns are an orthonormal basis of Wᵀ's first columns alone.
        let q = orthonormal(exact.clone().narrow(0, 0, rank).transpose())?;
        Ok(Self::starting(exact.matmul(q.clone()), q.transpose(), scaling, dropout))
    }

    fn starting(a: Tensor<2>, b: Tensor<2>, scaling: f64, dropout: f64) -> Self {
        let frozen = |tensor: &Tensor<2>| Param::from_tensor(tensor.clone()).set_require_grad(false);
        let (initial_a, initial_b) = (frozen(&a), frozen(&b));
        let lora = Lora::from_factors(a, b, scaling, dropout, false);
        Self { lora, initial_a, initial_b }
    }

    /// `s · (x A₀) B₀: [n, d_out]`, in the type of `x`.
    fn initial_branch(&self, x: Tensor<2>) -> Tensor<2> {
        let dtype = x.dtype();
        let hidden = as_type(x, DType::F32).matmul(self.initial_a.val());
        as_type(hidden.matmul(self.initial_b.val()) * self.lora.scaling(), dtype)
    }
}

impl Adapter for Pissa {
    const NAME: &'static str = "pissa";

    fn weight(&self, base: Tensor<2>) -> Tensor<2> {
        let initial = self.initial_a.val().matmul(self.initial_b.val()) * self.lora.scaling();
        let dtype = base.dtype();
        Adapter::weight(&self.lora, base) - as_type(initial, dtype)
    }

    fn delta(&self, x: Tensor<2>) -> Option<Tensor<2>> {
        let delta = self.lora.delta(x.clone())?;
        Some(delta - self.initial_branch(x))
    }

    fn export(&self) -> Vec<Stored> {
        let a = Tensor::cat(vec![self.lora.lora_a.val(), self.initial_a.val()], 1);
        let b = Tensor::cat(vec![self.lora.lora_b.val(), -self.initial_b.val()], 0);
        vec![Stored::transposed("lora_A.weight", a), Stored::transposed("lora_B.weight", b)]
    }

    /// Reads the trained factors as HF PEFT writes them without conversion: of rank `r`, on the rest.
    fn import(&mut self, read: &mut dyn FnMut(&str, &[usize]) -> Result<Tensor<1>>) -> Result<()> {
        self.lora.import(read)
    }
}
