//! AdaMerging.

use super::super::dm4::{Dm4Args, Report, Scores};
use super::{BASE, all, mean, points, task_arithmetic, unlabelled, unsure, vectors};
use crate::Outcome;
use clap::Args;
use peft_merge::adaptive::{self, AdaMergingConfig, Granularity};

/// AdaMerging against task arithmetic on four tasks with small networks.
#[derive(Args)]
pub struct AdaMerging {
    #[command(flatten)]
    common: Dm4Args,
}

const ARITHMETIC: &str = "task arithmetic, λ = 0.3";
const LAYER: &str = "AdaMerging, layer-wise";

impl AdaMerging {
    pub fn run(&self) -> Outcome {
        let mut scores = Scores::default();
        self.common.each(|seed, dm4| {
            scores.add(BASE, seed, dm4.score(&dm4.base));
            scores.add(ARITHMETIC, seed, dm4.score(&task_arithmetic(dm4, 0.3)?));
            let settings = [
                ("AdaMerging, task-wise", Granularity::Task, None),
                (LAYER, Granularity::Layer, None),
                ("AdaMerging++, layer-wise", Granularity::Layer, Some(0.2)),
            ];
            for (name, granularity, trim) in settings {
                let config = AdaMergingConfig { granularity, trim, steps: 200, seed, ..AdaMergingConfig::default() };
                let mut merge = adaptive::AdaMerging::new(vectors(dm4, &all(dm4))?, config)?;
                merge.train(&mut unlabelled(dm4, seed)?, &unsure(dm4), |_| {})?;
                scores.add(name, seed, dm4.score(&merge.merged()));
            }
            Ok(())
        })?;
        let gains = scores.gains(LAYER, ARITHMETIC);
        scores.publish(&Report {
            name: "adamerging",
            title: "AdaMerging on four tasks",
            setting: "How much of each task vector the merged trunk has is learned on test images without their digits: 64 of each task in each of \
                      200 steps of Adam at 10⁻³, coefficients from 0.3. AdaMerging++ keeps the largest 20 % of each vector, with elected signs.",
            criterion: "layer-wise AdaMerging is not below task arithmetic at λ = 0.3, where its coefficients start, in the mean of the seeds.",
            finding: format!("Layer-wise AdaMerging over task arithmetic, seed by seed: {} points.", points(&gains)),
            passed: mean(&gains) >= 0.0,
        })
    }
}
