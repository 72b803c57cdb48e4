//! DoRA: weight-decomposed low-rank adaptation. Liu et al., ICML 2024, equation 5.
//!
//! `W' = (W + s A B) · diag(m / n)`, where `m: [d_out]` is trained and `n` is the column norm of `W + s A B`, recomputed at every call but
//! treated as a constant by the backward pass (section 4.3). At the start `m = n`, so the adapted model starts as the base.
//!
//! The norm comes from `n² = ‖w‖² + 2 s ⟨w, AB⟩ + s² ‖AB‖²` per column, which needs `Aᵀ W` and `Aᵀ A` but no matrix the size of `W`. Only on
//! top of other active adapters, where `‖w‖` is not known beforehand, the weight is built.

use super::lora::Lora;
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use peft_core::{Adapter, Base, Result, Stored, as_type};

/// The state of DoRA on one weight.
#[derive(Module, Debug)]
pub struct Dora {
    /// The direction's change.
    pub lora: Lora,
    /// The magnitude `m: [d_out]`.
    pub magnitude: Param<Tensor<1>>,
    /// `‖w‖²` of the base's columns, `[d_out]`, frozen.
    base_norm_squared: Param<Tensor<1>>,
}

impl Dora {
    /// An adapter on `weight: [d_in, d_out]` whose magnitude is the present norm.
    pub fn new(lora: Lora, weight: Tensor<2>) -> Self {
        let weight = as_type(weight, DType::F32).detach();
        let base_norm_squared = weight.clone().powf_scalar(2.0).sum_dim(0).flatten(0, 1);
        let adapted = Adapter::weight(&lora, weight).detach();
        let magnitude = column_norm(adapted);
        if magnitude.clone().min().into_scalar::<f32>() == 0.0 {
            tracing::warn!("DoRA: a column of the weight is zero; its output keeps its scale");
        }
        let base_norm_squared = Param::from_tensor(base_norm_squared).set_require_grad(false);
        Self { lora, magnitude: Param::from_tensor(magnitude), base_norm_squared }
    }

    /// `m / n: [1, d_out]`, 1 where `n` is 0.
    fn ratio(&self, base: &Base) -> Tensor<2> {
        if base.is_adapted() {
            let adapted = Adapter::weight(&self.lora, as_type(base.weight(), DType::F32));
            return self.over(column_norm(adapted.detach()).unsqueeze());
        }
        let a = self.lora.lora_a.val().detach();
        let b = self.lora.lora_b.val().detach();
        let s = self.lora.scaling();
        let with_base = as_type(base.matmul(a.clone().transpose()).detach(), DType::F32);
        let cross = (b.clone() * with_base).sum_dim(0);
        let gram = a.clone().transpose().matmul(a);
        let change = (b.clone() * gram.matmul(b)).sum_dim(0);
        let base_squared: Tensor<2> = self.base_norm_squared.val().detach().unsqueeze();
        let squared = base_squared + cross * (2.0 * s) + change * (s * s);
        self.over(squared.clamp_min(0.0).sqrt())
    }

    fn over(&self, norm: Tensor<2>) -> Tensor<2> {
        let zero = norm.clone().equal_elem(0.0);
        let magnitude: Tensor<2> = self.magnitude.val().unsqueeze();
        (magnitude / norm.mask_fill(zero.clone(), 1.0)).mask_fill(zero, 1.0)
    }
}

fn column_norm(weight: Tensor<2>) -> Tensor<1> {
    weight.powf_scalar(2.0).sum_dim(0).sqrt().flatten(0, 1)
}

impl Adapter for Dora {
    const NAME: &'static str = "dora";

    fn weight(&self, base: Tensor<2>) -> Tensor<2> {
        let dtype = base.dtype();
        let adapted = Adapter::weight(&self.lora, as_type(base, DType::F32));
        let norm = column_norm(adapted.clone().detach()).unsqueeze();
        as_type(adapted * self.over(norm), dtype)
    }

    fn forward(&self, x: Tensor<2>, base: &Base) -> Tensor<2> {
        let ratio = as_type(self.ratio(base), x.dtype());
        if !self.lora.drops() {
            return (base.matmul(x.clone()) + self.lora.branch(x)) * ratio;
        }
        let dropped = self.lora.dropped(x.clone());
        base.matmul(x) + base.matmul(dropped.clone()) * (ratio.clone() - 1.0) + self.lora.branch(dropped) * ratio
    }

    fn export(&self) -> Vec<Stored> {
        let mut stored = self.lora.export();
        stored.push(Stored::new("lora_magnitude_vector", self.magnitude.val()));
        stored
    }

    fn import(&mut self, read: &mut dyn FnMut(&str, &[usize]) -> Result<Tensor<1>>) -> Result<()> {
        self.lora.import(read)?;
        let magnitude = read("lora_magnitude_vector", &self.magnitude.dims())?;
        self.magnitude = peft_core::set(self.magnitude.clone(), magnitude);
        Ok(())
    }
}
