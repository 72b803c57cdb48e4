//! The adapter-aware forms of Burn's linear and embedding layers.

use crate::adapter::{Base, as_type};
use crate::slot::Slot;
use crate::tap;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Int, Tensor};

/// A projection that takes the fast path through its adapters.
///
/// The plain `forward` of an adapted layer gives the same result by building the effective weight first. It knows the weight alone: an
/// adapter that changes the bias too ((IA)³ on an output with bias, LoRA with a bias of its own) needs `project`.
pub trait Project {
    /// `x W_eff + b_eff` over the last dimension of `x: [.., d_in]`, `[.., d_out]`.
    fn project<const D: usize>(&self, x: Tensor<D>) -> Tensor<D>;
}

impl Project for Linear {
    fn project<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut dims = x.dims();
        let d_in = dims[D - 1];
        let rows = x.shape().num_elements() / d_in.max(1);
        let x = x.reshape([rows, d_in]);
        tap::observe(self.weight.id, &x);
        let bias = self.bias.as_ref().map(|bias| bias.val());
        let y = match self.weight.reparameterization::<Slot>() {
            Some(slot) => slot.project(x, self.weight.base(), bias),
            None => Base::dense(self.weight.val()).affine(x, bias),
        };
        dims[D - 1] = y.dims()[1];
        y.reshape(dims)
    }
}

/// An embedding that looks up adapted rows without building the adapted table.
pub trait Lookup {
    /// Embeddings `[batch, seq, d]` of `ids: [batch, seq]`, in f32 where the table is stored in half precision.
    fn lookup(&self, ids: Tensor<2, Int>) -> Tensor<3>;

    /// `hidden · Eᵀ`: the output head of a model that ties it to the embedding, `[n, d]` to `[n, vocabulary]`.
    ///
    /// Reads the stored table: as in HF PEFT an adapter on the embedding does not change a tied head.
    fn unembed(&self, hidden: Tensor<2>) -> Tensor<2>;
}

impl Lookup for Embedding {
    fn lookup(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, seq] = ids.dims();
        let ids = ids.reshape([batch * seq]);
        let rows = match self.weight.reparameterization::<Slot>() {
            Some(slot) => slot.rows(ids, self.weight.base()),
            None => Base::dense(self.weight.val()).rows(ids),
        };
        let d = rows.dims()[1];
        as_type(rows, burn::tensor::DType::F32).reshape([batch, seq, d])
    }

    fn unembed(&self, hidden: Tensor<2>) -> Tensor<2> {
        Base::dense(self.weight.base().transpose()).matmul(hidden)
    }
}
