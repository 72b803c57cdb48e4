//! aTLAS.

use super::super::dm4::{Dm4, Dm4Args, Report, Scores, TRAIN, Trunk};
use super::{BASE, all, labelled, mean, points, task_arithmetic, vectors, wrong};
use crate::Outcome;
use clap::Args;
use peft_merge::atlas::{self, AtlasConfig, Span};

/// aTLAS against learned and fixed task arithmetic on four tasks with small networks.
#[derive(Args)]
pub struct Atlas {
    #[command(flatten)]
    common: Dm4Args,
}

const ARITHMETIC: &str = "task arithmetic, λ = 0.3";
const GLOBAL: &str = "aTLAS, one λ for each task";
const BLOCK: &str = "aTLAS, one λ for each tensor of each task";
/// The task that is learned from a few images.
const NEW: usize = 3;
const SHOTS: usize = 5;

impl Atlas {
    pub fn run(&self) -> Outcome {
        let mut scores = Scores::default();
        let mut few_shot = Vec::new();
        self.common.each(|seed, dm4| {
            scores.add(BASE, seed, dm4.score(&dm4.base));
            scores.add(ARITHMETIC, seed, dm4.score(&task_arithmetic(dm4, 0.3)?));
            scores.add(GLOBAL, seed, dm4.score(&added(dm4, Span::Global, seed)?));
            scores.add(BLOCK, seed, dm4.score(&added(dm4, Span::Block, seed)?));
            let tests = 0..dm4.tasks[NEW].tests();
            let [before, after] = [dm4.base.clone(), adapted(dm4, seed)?].map(|trunk| dm4.accuracy(&trunk, NEW, tests.clone()));
            few_shot.push((before, after));
            Ok(())
        })?;
        let gains = scores.gains(BLOCK, GLOBAL);
        let above = gains.iter().filter(|gain| **gain > 0.0).count();
        let over = |method: &str| mean(&scores.gains(method, ARITHMETIC));
        let shots: Vec<_> = few_shot.iter().map(|(before, after)| format!("{:.1} → {:.1}", before * 100.0, after * 100.0)).collect();
        let few_shot_gain = mean(&few_shot.iter().map(|(before, after)| after - before).collect::<Vec<_>>());
        let enough = 3 * above >= 2 * gains.len();
        scores.publish(&Report {
            name: "atlas",
            title: "aTLAS on four tasks",
            setting: "Coefficients of four task vectors are learned on the last 100 training images of each task: 200 steps of AdamW at 10⁻² with weight \
                      decay 0.1, 64 images of each task in a step, from zero. One coefficient for each tensor of each task (24) against one for each \
                      task (4).",
            criterion: "coefficients by tensor are at least 0.4 points above those by task in the mean, and above them in two of three seeds; both \
                        are not below task arithmetic at λ = 0.3 in the mean.",
            finding: format!(
                "By tensor over by task, seed by seed: {} points; over task arithmetic in the mean: {:+.1} and {:+.1} points. Few shots: without its \
                 own vector, the fourth task goes from the accuracy of the base to that of coefficients learned from {SHOTS} images of each digit \
                 (100 steps at 0.1): {} %, {:+.1} points in the mean. The vectors of these three tasks {} it.",
                points(&gains),
                over(BLOCK) * 100.0,
                over(GLOBAL) * 100.0,
                shots.join(", "),
                few_shot_gain * 100.0,
                if few_shot_gain >= 0.01 { "help" } else { "do nothing for" }
            ),
            passed: mean(&gains) >= 0.004 && enough && over(BLOCK) >= 0.0 && over(GLOBAL) >= 0.0,
        })
    }
}

/// All tasks added with learned coefficients.
fn added(dm4: &Dm4, granularity: Span, seed: u64) -> Outcome<Trunk> {
    let config = AtlasConfig { granularity, lr: 1e-2, steps: 200, seed, ..AtlasConfig::default() };
    let mut merge = atlas::Atlas::new(vectors(dm4, &all(dm4))?, config)?;
    let stream = |task: usize| labelled(dm4, task, (TRAIN - 100..TRAIN).collect(), 64, seed);
    let mut streams = (0..dm4.tasks.len()).map(stream).collect::<Outcome<Vec<_>>>()?;
    merge.train(&mut streams, &wrong(dm4), |_| {})?;
    Ok(merge.merged())
}

/// The new task from a few images, by the vectors of the others.
fn adapted(dm4: &Dm4, seed: u64) -> Outcome<Trunk> {
    let config = AtlasConfig { lr: 0.1, steps: 100, seed, ..AtlasConfig::default() };
    let others: Vec<usize> = all(dm4).into_iter().filter(|task| *task != NEW).collect();
    let mut merge = atlas::Atlas::new(vectors(dm4, &others)?, config)?;
    let digits: Vec<i64> = dm4.tasks[NEW].train(0..TRAIN).1.into_data().iter::<i64>().collect();
    let of = |digit: i64| digits.iter().enumerate().filter(move |(_, found)| **found == digit).map(|(row, _)| row).take(SHOTS);
    let rows: Vec<usize> = (0..10).flat_map(of).collect();
    let count = rows.len();
    merge.train(&mut [labelled(dm4, NEW, rows, count, seed)?], &wrong(dm4), |_| {})?;
    Ok(merge.merged())
}
