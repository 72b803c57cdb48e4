//! The customary merges, on DM4.

use super::dm4::{Dm4, Dm4Args, Report, Scores, Trunk, parameters};
use crate::Outcome;
use clap::Args;
use peft_merge::rules::{Linear, ModelStock, Rule, Sparse, Sparsity, TaskVectors, merge};

/// Task arithmetic, TIES and others on four tasks with small networks.
#[derive(Args)]
pub struct Merging {
    #[command(flatten)]
    common: Dm4Args,
}

const BASE: &str = "base, not merged";
const EXPERTS: &str = "each task's own network";
const ARITHMETIC_LOW: &str = "task arithmetic, λ = 0.3";
const ARITHMETIC: &str = "task arithmetic, λ = 1";
const TIES: &str = "TIES, 20 %, λ = 1";

impl Merging {
    pub fn run(&self) -> Outcome {
        let mut scores = Scores::default();
        self.common.each(|seed, dm4| {
            scores.add(BASE, seed, dm4.score(&dm4.base));
            scores.add(EXPERTS, seed, dm4.experts_score());
            let average = Linear { weights: vec![1.0; dm4.experts.len()], normalize: true };
            let mut score = |name, rule: &dyn Rule| -> Outcome {
                scores.add(name, seed, dm4.score(&global(dm4, rule)?));
                Ok(())
            };
            score("average", &average)?;
            score("Model Stock", &ModelStock { filter_wise: false })?;
            score(ARITHMETIC_LOW, &arithmetic(dm4, Sparsity::None, 1.0, 0.3, seed))?;
            score("DARE, 50 %, λ = 0.3", &arithmetic(dm4, Sparsity::Random, 0.5, 0.3, seed))?;
            score(ARITHMETIC, &arithmetic(dm4, Sparsity::None, 1.0, 1.0, seed))?;
            score(TIES, &arithmetic(dm4, Sparsity::Magnitude, 0.2, 1.0, seed))
        })?;
        let gains = scores.gains(TIES, ARITHMETIC);
        let least = gains.iter().copied().fold(f64::INFINITY, f64::min);
        scores.publish(&Report {
            name: "merging",
            title: "Merging four networks",
            setting: "Four networks that were fine-tuned from one are merged into one without any training. All tensors are one vector here, as in \
                      the papers (recipes merge each tensor for itself). λ = 0.3 is what task arithmetic is usually run with; at λ = 1 the four \
                      changes are added whole, and TIES shows what sign election is for.",
            criterion: "at λ = 1 TIES (the largest 20 %, election by sign) is at least 5 points above task arithmetic with every seed.",
            finding: format!("The smallest difference is {:.1} points.", least * 100.0),
            passed: least >= 0.05,
        })
    }
}

fn arithmetic(dm4: &Dm4, sparsity: Sparsity, density: f64, lambda: f64, seed: u64) -> TaskVectors {
    let consensus = sparsity == Sparsity::Magnitude;
    let one = Sparse { weight: 1.0, density, gamma: 0.0, epsilon: 0.0 };
    let models = vec![one; dm4.experts.len()];
    TaskVectors { sparsity, consensus, models, normalize: consensus, rescale: sparsity == Sparsity::Random, lambda, seed, masks: None }
}

/// Merge the parameters of all tensors as one vector.
fn global(dm4: &Dm4, rule: &dyn Rule) -> Outcome<Trunk> {
    let base = parameters(&dm4.base);
    let experts: Vec<Vec<f32>> = dm4.experts.iter().map(parameters).collect();
    let experts: Vec<&[f32]> = experts.iter().map(Vec::as_slice).collect();
    Ok(dm4.trunk(&merge(rule, "trunk", &[base.len()], Some(&base), &experts)?))
}
