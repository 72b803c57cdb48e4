//! Causal self-attention with grouped key/value heads.

use super::cache::LayerCache;
use super::config::DecoderConfig;
use super::norm::RmsNorm;
use super::rotary::Rotation;
use super::span::Span;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor, activation};
use peft_core::{Project, as_type};

/// Self-attention whose query heads share key/value heads in groups (Ainslie et al., 2023, arXiv:2305.13245).
#[derive(Module, Debug)]
pub struct Attention {
    /// `[d, h·hd]`.
    pub q_proj: Linear,
    /// `[d, kv·hd]`.
    pub k_proj: Linear,
    /// `[d, kv·hd]`.
    pub v_proj: Linear,
    /// `[h·hd, d]`.
    pub o_proj: Linear,
    /// Normalises each query head, in Qwen3.
    pub q_norm: Option<RmsNorm>,
    /// Normalises each key head, in Qwen3.
    pub k_norm: Option<RmsNorm>,
    head_dim: usize,
}

/// Where the tokens of one call stand.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub rotation: &'a Rotation,
    pub span: &'a Span,
    pub past: Option<Past<'a>>,
}

/// The tokens before those of this call.
#[derive(Debug)]
pub(super) struct Past<'a> {
    pub cache: &'a mut LayerCache,
    pub len: usize,
    pub room: usize,
}

impl Attention {
    pub(super) fn new(config: &DecoderConfig, device: &Device) -> Self {
        let (d, hd) = (config.hidden_size, config.head_dim);
        let [q, kv] = [config.num_attention_heads, config.num_key_value_heads].map(|heads| heads * hd);
        let linear = |d_in, d_out, bias| LinearConfig::new(d_in, d_out).with_bias(bias).init(device);
        let norm = || config.qk_norm.then(|| RmsNorm::new(hd, config.rms_norm_eps, device));
        Self {
            q_proj: linear(d, q, config.qkv_bias),
            k_proj: linear(d, kv, config.qkv_bias),
            v_proj: linear(d, kv, config.qkv_bias),
            o_proj: linear(q, d, config.output_bias),
            q_norm: norm(),
            k_norm: norm(),
            head_dim: hd,
        }
    }

    /// What the heads read from `x: [b, s, d]`, side by side before the output projection: `[b, s, h·hd]`.
    pub(super) fn heads(&self, x: Tensor<3>, place: Place) -> Tensor<3> {
        let queries = self.split(self.q_proj.project(x.clone()), self.q_norm.as_ref());
        let keys = self.split(self.k_proj.project(x.clone()), self.k_norm.as_ref());
        let values = self.split(self.v_proj.project(x), None);
        let queries = place.rotation.apply(queries);
        let keys = place.rotation.apply(keys);
        let [keys, values] = match place.past {
            Some(past) => past.cache.append(keys, values, past.len, place.span.start, past.room),
            None => [keys, values],
        };
        let read = self.attend(queries, keys, values, place.span.mask.as_ref());
        let [b, h, s, hd] = read.dims();
        read.swap_dims(1, 2).reshape([b, s, h * hd])
    }

    /// `[b, s, n·hd]` to `[b, n, s, hd]`, each head normalised.
    fn split(&self, x: Tensor<3>, norm: Option<&RmsNorm>) -> Tensor<4> {
        let [b, s, width] = x.dims();
        let heads = x.reshape([b, s, width / self.head_dim, self.head_dim]);
        let heads = match norm {
            Some(norm) => norm.forward(heads),
            None => heads,
        };
        heads.swap_dims(1, 2)
    }

    /// `softmax(q kᵀ / √hd + mask) v` for `q: [b, h, s, hd]` and `k, v: [b, kv, t, hd]`; `[b, h, s, hd]`.
    ///
    /// The queries of a group stand below each other in one matrix, so that keys and values are never repeated.
    fn attend(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Option<&Tensor<4>>) -> Tensor<4> {
        let [b, h, s, hd] = q.dims();
        let [_, kv, t, _] = k.dims();
        let q = (q * (hd as f64).powf(-0.5)).reshape([b, kv, h / kv * s, hd]);
        let scores = q.matmul(k.swap_dims(2, 3));
        let scores = match mask {
            Some(mask) => {
                let mask = as_type(mask.clone(), scores.dtype());
                (scores.reshape([b, h, s, t]) + mask).reshape([b, kv, h / kv * s, t])
            }
            None => scores,
        };
        average(scores, v).reshape([b, h, s, hd])
    }
}

/// `softmax(scores) · values`, the softmax in f32.
fn average(scores: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
    let dtype = values.dtype();
    let scores = as_type(scores, DType::F32);
    if !scores.is_autodiff() {
        return as_type(activation::softmax(scores, 3), dtype).matmul(values);
    }
    // Dividing after the product keeps one matrix of the size of the scores for the backward pass instead of two.
    let weights = (scores.clone() - scores.detach().max_dim(3)).exp();
    let total = weights.clone().sum_dim(3);
    as_type(weights, dtype).matmul(values) / as_type(total, dtype)
}
