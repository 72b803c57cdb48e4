//! Causal self-attention with grouped key/value heads.

use super::cache::LayerCache;
use super::config::DecoderConfig;
use super::norm::RmsNorm;
use super::rotary::Rotation;
use super::span::Span;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use peft_core::{Project, ops};

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
        let values = self.split(self.v_proj.project(x), None).swap_dims(1, 2);
        let queries = place.rotation.apply(queries).swap_dims(1, 2);
        let keys = place.rotation.apply(keys).swap_dims(1, 2);
        let [keys, values] = match place.past {
            Some(past) => past.cache.append(keys, values, past.len, place.span.start, past.room),
            None => [keys, values],
        };
        let read = ops::attention(queries, keys, values, &place.span.visible);
        let [b, h, s, hd] = read.dims();
        read.swap_dims(1, 2).reshape([b, s, h * hd])
    }

    /// `[b, s, n·hd]` to `[b, s, n, hd]`, each head normalised.
    fn split(&self, x: Tensor<3>, norm: Option<&RmsNorm>) -> Tensor<4> {
        let [b, s, width] = x.dims();
        let heads = x.reshape([b, s, width / self.head_dim, self.head_dim]);
        match norm {
            Some(norm) => norm.forward(heads),
            None => heads,
        }
    }
}
