//! Averages weighted by Fisher information, on DM4.

use super::dm4::{Dm4, Dm4Args, Report, Scores, TASKS, Trunk, parameters};
use crate::Outcome;
use clap::Args;
use peft_core::for_each_parameter;
use peft_merge::fisher::{Estimator, Fisher, FisherConfig, Prediction};
use peft_merge::rules::{self, merge};

/// Four networks merged by their Fisher information.
#[derive(Args)]
pub struct FisherMerging {
    #[command(flatten)]
    common: Dm4Args,
}

/// Images that the information of a task is estimated on.
const EXAMPLES: usize = 200;
const FLOOR: f64 = 1e-6;
/// Pairs of tasks whose networks are merged with each other.
const PAIRS: [[usize; 2]; 3] = [[0, 1], [0, 2], [1, 3]];
/// Weights of the first of a pair, from 0 to 1.
const GRID: usize = 11;

const AVERAGE: &str = "average";
const FISHER: &str = "Fisher";

/// One network as a vector, and its Fisher information.
struct Expert {
    numbers: Vec<f32>,
    information: Vec<f32>,
}

impl FisherMerging {
    pub fn run(&self) -> Outcome {
        let mut scores = Scores::default();
        let mut pairs = Vec::new();
        self.common.each(|seed, dm4| {
            scores.add("base, not merged", seed, dm4.score(&dm4.base));
            scores.add("each task's own network", seed, dm4.experts_score());
            let exact = experts(dm4, Estimator::Exact, seed)?;
            let sampled = experts(dm4, Estimator::Sampled { samples: 1 }, seed)?;
            let empirical = experts(dm4, Estimator::Empirical, seed)?;
            let mut score = |name, experts: &[Expert], floor| -> Outcome {
                scores.add(name, seed, dm4.score(&merged(dm4, &all(experts), &[1.0 / TASKS as f64; TASKS], floor)?));
                Ok(())
            };
            // Without any information everything is at the floor.
            let flat: Vec<Expert> =
                exact.iter().map(|e| Expert { numbers: e.numbers.clone(), information: vec![0.0; e.numbers.len()] }).collect();
            score(AVERAGE, &flat, FLOOR)?;
            score(FISHER, &exact, FLOOR)?;
            score("Fisher, floor 1e-8", &exact, 1e-8)?;
            score("Fisher, floor 1e-3", &exact, 1e-3)?;
            score("Fisher, one sampled label", &sampled, FLOOR)?;
            score("Fisher, labels of the data (empirical)", &empirical, FLOOR)?;
            for pair in PAIRS {
                let [fisher, average] = [best(dm4, pair, &exact)?, best(dm4, pair, &flat)?];
                eprintln!("  tasks {pair:?}: average {average:.3}, Fisher {fisher:.3}");
                pairs.push(fisher - average);
            }
            Ok(())
        })?;
        publish(&scores, &pairs)
    }
}

fn publish(scores: &Scores, pairs: &[f64]) -> Outcome {
    let gains = scores.gains(FISHER, AVERAGE);
    let least = gains.iter().copied().fold(f64::INFINITY, f64::min);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let won = pairs.iter().filter(|gain| **gain >= 0.0).count();
    scores.publish(&Report {
        name: "fisher-merging",
        title: "Fisher merging of four networks",
        setting: "Four networks that were fine-tuned from one are merged without training, each number weighted by how much the predictions of its \
                  network depend on it ([Merge by Fisher information](../fisher.md); Matena and Raffel, 2022). The information is exact over the ten \
                  digits on the first 200 training images of each task and normalised; a floor of 1e-6 holds for all networks, and each counts a \
                  quarter. The average is the same rule without information.",
        criterion: "Fisher is at least 0.5 points above the average with every seed, and at least 1.0 on average.",
        finding: format!(
            "The gains are {:.1} points on average, of 1.0 asked for, and {:.1} at least, of 0.5. Two networks at a time (of the tasks 1 and 2, 1 and 3, \
             2 and 4), each way to merge with the best of {GRID} weights as the test images have it: Fisher is at least level in {won} of {} cases, \
             {:+.1} points on average and {:+.1} at worst.",
            mean(&gains) * 100.0,
            least * 100.0,
            pairs.len(),
            mean(pairs) * 100.0,
            pairs.iter().copied().fold(f64::INFINITY, f64::min) * 100.0
        ),
        passed: least >= 0.005 && mean(&gains) >= 0.01,
    })
}

fn experts(dm4: &Dm4, estimator: Estimator, seed: u64) -> Outcome<Vec<Expert>> {
    (0..TASKS)
        .map(|task| Ok(Expert { numbers: parameters(&dm4.experts[task]), information: information(dm4, task, estimator, seed)? }))
        .collect()
}

/// The Fisher information of the network of a task, in the order of its parameters.
fn information(dm4: &Dm4, task: usize, estimator: Estimator, seed: u64) -> Outcome<Vec<f32>> {
    let mut fisher = Fisher::new(dm4.experts[task].clone(), FisherConfig { estimator, per_row: false, seed }, |_| true)?;
    for row in 0..EXAMPLES {
        let (x, digit) = dm4.tasks[task].train(row..row + 1);
        let labels = Some(digit.into_data().iter::<i64>().map(|digit| digit as usize).collect());
        fisher.add(|trunk| Prediction::Classes { logits: dm4.logits(trunk, task, x.clone()), labels: labels.clone() })?;
    }
    let mut diagonal = fisher.diagonal()?;
    let mut all = Vec::new();
    for_each_parameter(&dm4.experts[task], |site, _| {
        let numbers = diagonal.remove(&site.path()).map(|numbers| numbers.into_data().try_to_vec::<f32>());
        all.extend(numbers.expect("information for every parameter").expect("information is f32"));
    });
    Ok(all)
}

fn all(experts: &[Expert]) -> Vec<&Expert> {
    experts.iter().collect()
}

/// The experts merged with these weights.
fn merged(dm4: &Dm4, experts: &[&Expert], weights: &[f64], floor: f64) -> Outcome<Trunk> {
    let norm = |numbers: &[f32]| numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let scale = |expert: &&Expert| Some(norm(&expert.information)).filter(|norm| *norm > 0.0).unwrap_or(1.0);
    let rule = rules::Fisher {
        coefficients: weights.iter().zip(experts).map(|(weight, expert)| weight / scale(expert)).collect(),
        floors: vec![floor; experts.len()],
        target: 0,
        undecided: Default::default(),
    };
    let information = experts.iter().map(|expert| expert.information.as_slice());
    let inputs: Vec<&[f32]> = experts.iter().map(|expert| expert.numbers.as_slice()).chain(information).collect();
    Ok(dm4.trunk(&merge(&rule, "trunk", &[inputs[0].len()], None, &inputs)?))
}

/// The best mean accuracy on two tasks over all weights of the grid.
fn best(dm4: &Dm4, pair: [usize; 2], experts: &[Expert]) -> Outcome<f64> {
    let chosen = pair.map(|task| &experts[task]);
    let mut best = 0f64;
    for step in 0..GRID {
        let first = step as f64 / (GRID - 1) as f64;
        let trunk = merged(dm4, &chosen, &[first, 1.0 - first], FLOOR)?;
        let tests = |task: usize| dm4.accuracy(&trunk, task, 0..dm4.tasks[task].tests());
        best = best.max(pair.map(tests).iter().sum::<f64>() / 2.0);
    }
    Ok(best)
}
