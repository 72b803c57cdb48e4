//! Concrete.

use super::super::dm4::{Dm4Args, Report, Scores};
use super::{BASE, all, mean, points, task_arithmetic, unlabelled, unsure, vectors};
use crate::Outcome;
use clap::Args;
use peft_merge::adaptive::{AdaMerging, AdaMergingConfig};
use peft_merge::concrete::{self, Algorithm, ConcreteConfig, EvalMask};

/// Concrete masks against task arithmetic and AdaMerging on four tasks with small networks.
#[derive(Args)]
pub struct Concrete {
    #[command(flatten)]
    common: Dm4Args,
}

const ARITHMETIC: &str = "task arithmetic, λ = 0.3";
const CONCRETE: &str = "Concrete, λ = 0.3";

impl Concrete {
    pub fn run(&self) -> Outcome {
        let mut scores = Scores::default();
        self.common.each(|seed, dm4| {
            scores.add(BASE, seed, dm4.score(&dm4.base));
            let tasks = all(dm4);
            let masked = |algorithm: Algorithm, scaling: f64| -> Outcome<_> {
                let config = ConcreteConfig {
                    algorithm,
                    scaling,
                    steps: 200,
                    lr: 1e-2,
                    base_lr: 1e-2,
                    adamerging_steps: 200,
                    seed,
                    ..ConcreteConfig::default()
                };
                let mut merge = concrete::Concrete::new(vectors(dm4, &tasks)?, config)?;
                merge.train(&mut unlabelled(dm4, seed)?, &unsure(dm4), |_| {})?;
                Ok(merge)
            };
            scores.add(ARITHMETIC, seed, dm4.score(&task_arithmetic(dm4, 0.3)?));
            let merge = masked(Algorithm::TaskArithmetic, 0.3)?;
            scores.add(CONCRETE, seed, dm4.score(&merge.merged()));
            scores.add("Concrete, λ = 0.3, one relaxed draw", seed, dm4.score(&merge.merged_with(EvalMask::Continuous)));
            scores.add("Concrete, λ = 0.3, one hard draw", seed, dm4.score(&merge.merged_with(EvalMask::Discrete)));
            scores.add("task arithmetic, λ = 0.5", seed, dm4.score(&task_arithmetic(dm4, 0.5)?));
            scores.add("Concrete, λ = 0.5", seed, dm4.score(&masked(Algorithm::TaskArithmetic, 0.5)?.merged()));
            let config = AdaMergingConfig { steps: 200, seed, ..AdaMergingConfig::default() };
            let mut adaptive = AdaMerging::new(vectors(dm4, &tasks)?, config)?;
            adaptive.train(&mut unlabelled(dm4, seed)?, &unsure(dm4), |_| {})?;
            scores.add("AdaMerging, layer-wise", seed, dm4.score(&adaptive.merged()));
            scores.add("Concrete AdaMerging, layer-wise", seed, dm4.score(&masked(Algorithm::AdaMerging, 0.3)?.merged()));
            Ok(())
        })?;
        let gains = scores.gains(CONCRETE, ARITHMETIC);
        let least = gains.iter().copied().fold(f64::INFINITY, f64::min);
        scores.publish(&Report {
            name: "concrete",
            title: "Concrete masks on four tasks",
            setting: "A mask over all parameters, shared by the tasks, is learned on test images without their digits: 64 of each task in each of \
                      200 steps, Adam at 10⁻² for the logits, temperature 0.5. Scores are of the expected mask σ(x) unless they say otherwise. \
                      Concrete AdaMerging takes the step of its coefficients at 10⁻², then trains them for 200 more steps at 10⁻³.",
            criterion: "Concrete Task Arithmetic at λ = 0.3 is above task arithmetic at λ = 0.3 with every seed, and by at least 1 point in the mean.",
            finding: format!("Concrete over task arithmetic at λ = 0.3, seed by seed: {} points.", points(&gains)),
            passed: least > 0.0 && mean(&gains) >= 0.01,
        })
    }
}
