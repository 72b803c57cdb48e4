//! Concrete: one mask over all parameters, shared by all tasks, is learned on inputs without labels, so that masked task vectors
//! interfere less when they are added.
//!
//! The mask is relaxed, `m̂ = σ((log u − log(1 − u) + x) / T)` with `u ~ U(0, 1)`, and each masked vector keeps its size:
//! `τ̂_{i,b} = τ_{i,b} ⊙ m̂_b / mean(m̂_b)`. Concrete Task Arithmetic trains the logits `x` of `θ⁰ + Σ_i λ τ̂_i` at a fixed `λ`; Concrete
//! AdaMerging trains them against a step of `λ`, and then `λ` under one mask.
//!
//! No graph goes through the vectors: with `G = ∂L/∂θ_b`, `S = Σ_i λ_i τ_{i,b}` and `μ = mean(m̂)` over `N` entries,
//! `∂L/∂m̂ = G ⊙ S / μ − ⟨G, m̂ ⊙ S⟩ / (μ² N)` and `∂m̂/∂x = m̂ (1 − m̂) / T`. `u` is drawn again from its seed where it is needed.
//!
//! Tang et al., "Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion", 2023, arXiv 2312.06173.

mod config;
mod mask;
mod train;

use crate::adaptive::{Granularity, Scales};
use crate::composition::{Adam, Coefficient, TaskVectors, host};
use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::Result;
use peft_core::files::{Dtype, TensorSource, float_bytes, pytorch_metadata, write_safetensors};
use std::borrow::Cow;
use std::path::Path;

pub use config::{Algorithm, ConcreteConfig, EvalMask};

use mask::Mask;

/// A merge with a learned mask.
pub struct Concrete<M> {
    vectors: TaskVectors<M>,
    config: ConcreteConfig,
    /// `x` by block.
    logits: Vec<Tensor<1>>,
    adam: Adam,
    scales: Scales,
    /// `Σ_i λ_i τ_i` by block, where `λ` is fixed.
    sums: Option<Vec<Option<Tensor<1>>>>,
    /// Masks that have been drawn so far.
    draws: u64,
}

impl<M: Module> Concrete<M> {
    /// All logits and coefficients at their start.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](peft_core::Error::InvalidConfig) for a setting outside its range.
    pub fn new(vectors: TaskVectors<M>, config: ConcreteConfig) -> Result<Self> {
        config.check()?;
        if vectors.tasks() == 1 {
            tracing::warn!("a mask against interference has nothing to do with one task vector");
        }
        let granularity = if config.algorithm == Algorithm::TaskArithmetic { Granularity::Task } else { config.granularity };
        let scales = Scales::new(&vectors, granularity, config.scaling, config.clamp);
        let logits = |site: &peft_core::Site| Tensor::full([site.shape.iter().product::<usize>()], config.initial_logits, vectors.device());
        let logits: Vec<Tensor<1>> = vectors.blocks().map(logits).collect();
        let fixed = config.algorithm == Algorithm::TaskArithmetic;
        let sums = fixed.then(|| (0..logits.len()).map(|block| scales.sum(block, vectors.deltas(block))).collect());
        let adam = Adam::new(logits.len(), 0.0);
        Ok(Self { vectors, config, logits, adam, scales, sums, draws: 0 })
    }

    /// The merged model under the mask that the settings ask for.
    pub fn merged(&self) -> M {
        self.merged_with(self.config.eval_mask)
    }

    /// The merged model under a mask of this kind.
    pub fn merged_with(&self, kind: EvalMask) -> M {
        self.vectors.compose(|block| self.sum(block).map(|sum| self.final_mask(kind, block).scaled(sum)))
    }

    /// The model of one task, `θ⁰ + τ̂_i`, under a mask of this kind.
    ///
    /// # Panics
    /// If there are not so many tasks.
    pub fn individual(&self, task: usize, kind: EvalMask) -> M {
        self.vectors.compose(|block| Some(self.final_mask(kind, block).scaled(self.vectors.delta(task, block))))
    }

    /// `λ` as they count.
    pub fn coefficients(&self) -> Vec<Coefficient> {
        self.scales.coefficients(&self.vectors)
    }

    /// The logits of the mask of a block, flat.
    pub fn logits(&self, block: usize) -> Tensor<1> {
        self.logits[block].clone()
    }

    /// The task vectors.
    pub fn vectors(&self) -> &TaskVectors<M> {
        &self.vectors
    }

    /// Write the logits of the mask as safetensors, `mask_logits.` before the path of each parameter, in the shape that Burn has it
    /// (`[d_in, d_out]` for a linear weight).
    ///
    /// # Errors
    /// [`Error::Io`](peft_core::Error::Io).
    pub fn write_mask(&self, file: &Path) -> Result<u64> {
        let source = |(site, logits): (&peft_core::Site, &Tensor<1>)| {
            let logits = logits.clone();
            let bytes = move || Ok(Cow::Owned(float_bytes(&host(logits), Dtype::F32).expect("f32 is a type of files")));
            TensorSource::new(format!("mask_logits.{}", site.path()), Dtype::F32, &site.shape, bytes)
        };
        write_safetensors(file, self.vectors.blocks().zip(&self.logits).map(source), &pytorch_metadata())
    }

    /// `S = Σ_i λ_i τ_i` of a block; nothing where all are zero.
    fn sum(&self, block: usize) -> Option<Tensor<1>> {
        match &self.sums {
            Some(sums) => sums[block].clone(),
            None => self.scales.sum(block, self.vectors.deltas(block)),
        }
    }

    /// The relaxed mask of the draw of this number.
    fn drawn(&self, draw: u64, block: usize) -> Mask {
        let path = self.vectors.block(block).path();
        Mask::relaxed(self.logits[block].clone(), (self.config.seed, draw, &path), self.config.temperature)
    }

    fn final_mask(&self, kind: EvalMask, block: usize) -> Mask {
        match kind {
            EvalMask::Expected => Mask::expected(self.logits[block].clone()),
            EvalMask::Continuous => self.drawn(self.draws, block),
            EvalMask::Discrete => self.drawn(self.draws, block).hard(),
        }
    }
}
