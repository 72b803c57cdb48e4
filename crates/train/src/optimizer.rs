//! AdamW, and LoRA+'s two learning rates.
//!
//! LoRA+ (Hayou, Ghosh and Yu, ICML 2024) trains `B` and one-dimensional adapter tensors faster than `A`, by the factor λ.

use crate::schedule::{Schedule, SchedulerType};
use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Tensor;
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Settings of AdamW and of its learning rate.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct OptimizerConfig {
    /// The highest learning rate.
    pub lr: f64,
    /// How it moves.
    pub lr_scheduler_type: SchedulerType,
    /// Steps over which it rises from 0.
    pub warmup_steps: usize,
    /// Decoupled weight decay, on matrices.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub adam_beta1: f64,
    /// Decay of the second moment.
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    pub adam_epsilon: f64,
    /// Largest norm of all gradients together; 0 for no limit.
    pub max_grad_norm: f64,
    /// λ of LoRA+: the learning rate of `B` over that of `A`.
    pub loraplus_lr_ratio: Option<f64>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            lr: 2e-4,
            lr_scheduler_type: SchedulerType::default(),
            warmup_steps: 0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            loraplus_lr_ratio: None,
        }
    }
}

impl OptimizerConfig {
    /// Check the ranges.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, message: String| if ok { Ok(()) } else { Err(Error::InvalidConfig(message)) };
        check(self.lr.is_finite() && self.lr > 0.0, format!("lr is {}; it must be above 0", self.lr))?;
        check(self.weight_decay >= 0.0, format!("weight_decay is {}; it must be at least 0", self.weight_decay))?;
        check(self.max_grad_norm >= 0.0, format!("max_grad_norm is {}; it must be at least 0", self.max_grad_norm))?;
        for (name, beta) in [("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2)] {
            check((0.0..1.0).contains(&beta), format!("{name} is {beta}; it must be at least 0 and below 1"))?;
        }
        check(self.adam_epsilon > 0.0, format!("adam_epsilon is {}; it must be above 0", self.adam_epsilon))?;
        let ratio = self.loraplus_lr_ratio.unwrap_or(1.0);
        check(ratio >= 1.0, format!("loraplus_lr_ratio is {ratio}; it must be at least 1"))
    }

    /// The optimizer, without weight decay on one-dimensional parameters.
    pub(crate) fn optimizer<M: Module>(&self, model: &M) -> ModuleOptimizer {
        let adamw = |weight_decay: f64| {
            AdamWConfig::new()
                .with_beta_1(self.adam_beta1 as f32)
                .with_beta_2(self.adam_beta2 as f32)
                .with_epsilon(self.adam_epsilon as f32)
                .with_weight_decay(weight_decay as f32)
        };
        let optimizer = adamw(self.weight_decay).init();
        let vectors = trained_paths(model, |path, rank| rank == 1 || is_vector(path));
        if self.weight_decay == 0.0 || vectors.is_empty() {
            return optimizer;
        }
        optimizer.with_group(ParamGroup::from_paths(vectors), adamw(0.0).build(), None)
    }

    /// The learning rates over `total` steps, from step `step` on.
    pub(crate) fn scheduler<M: Module>(&self, model: &M, total: usize, step: usize) -> ModuleLrScheduler {
        let schedule = |peak: f64| Schedule { peak, warmup: self.warmup_steps, total, kind: self.lr_scheduler_type, step };
        let scheduler = ModuleLrScheduler::new(schedule(self.lr));
        let Some(ratio) = self.loraplus_lr_ratio else { return scheduler };
        let faster = trained_paths(model, |path, rank| path.ends_with(".lora_b") || rank == 1 || is_vector(path));
        match faster.is_empty() {
            true => scheduler,
            false => scheduler.with_group(ParamGroup::from_paths(faster), schedule(self.lr * ratio)),
        }
    }
}

/// Whether a whole parameter that is trained as a copy is a vector; the copy itself is a matrix of one row.
fn is_vector(path: &str) -> bool {
    path.contains(".bias.peft.") && path.ends_with(".full.value")
}

/// Paths of the trained parameters for which `wanted(path, rank)` holds.
fn trained_paths<M: Module>(model: &M, wanted: impl Fn(&str, usize) -> bool) -> Vec<String> {
    struct Collect<F> {
        path: Vec<String>,
        wanted: F,
        found: Vec<String>,
    }
    impl<F: Fn(&str, usize) -> bool> ModuleVisitor for Collect<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.path.join(".");
            if param.is_require_grad() && (self.wanted)(&path, D) {
                self.found.push(path);
            }
        }
    }
    let mut collect = Collect { path: Vec::new(), wanted, found: Vec::new() };
    model.visit(&mut collect);
    collect.found
}
