//! DM4, a bench for merging: one small network learns four views of the digits, each in a copy of its own, and the copies are merged.
//!
//! Trunk and heads learn a little of all tasks together; from then on heads are frozen, and a copy of the trunk goes on with each task. The
//! score of a merged trunk is the mean accuracy over the tasks, each with its own head.

mod data;
mod net;
mod report;

use crate::Outcome;
use burn::module::Module;
use burn::nn::Linear;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Int, Tensor};
use clap::Args;
use data::Images;
pub use data::{TASKS, TRAIN, Task};
pub use net::Trunk;
use net::Whole;
use peft_core::{device, for_each_parameter, seed, with_parameters};
use peft_objectives::cross_entropy;
use rand::seq::index::sample;
pub use report::{Report, Scores};
use std::ops::Range;
use std::path::PathBuf;

/// What every experiment on DM4 takes.
#[derive(Args)]
pub struct Dm4Args {
    /// scikit-learn's digits.csv (sklearn/datasets/data/digits.csv.gz, unpacked).
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Runs, with seeds 0, 1, ….
    #[arg(long, default_value_t = 3)]
    pub seeds: u64,
}

/// The bench of one seed.
pub struct Dm4 {
    /// The four views of the images.
    pub tasks: Vec<Task>,
    /// The trunk that knows a little of all tasks.
    pub base: Trunk,
    /// One frozen head for each task.
    pub heads: Vec<Linear>,
    /// The trunk of each task.
    pub experts: Vec<Trunk>,
}

impl Dm4Args {
    /// Train the networks of each seed and give them to `experiment`.
    pub fn each(&self, mut experiment: impl FnMut(u64, &Dm4) -> Outcome) -> Outcome {
        for seed in 0..self.seeds {
            let dm4 = Dm4::new(Images::read(&self.data)?.shuffled(seed), seed);
            eprintln!("seed {seed}: base {:.3}, experts {:.3}", dm4.score(&dm4.base), dm4.experts_score());
            experiment(seed, &dm4)?;
        }
        Ok(())
    }
}

impl Dm4 {
    fn new(images: Images, seed: u64) -> Self {
        let device = device::host().autodiff();
        let tasks = images.tasks(&device);
        let whole = pretrained(Whole::new(TASKS, seed, &device), &tasks);
        let (base, heads) = (whole.trunk, whole.heads.into_iter().map(Module::no_grad).collect::<Vec<_>>());
        let tune = |(index, task)| tuned(base.clone(), &heads[index], task, seed::rng(seed, &format!("batches/{index}")));
        let experts = tasks.iter().enumerate().map(tune).collect();
        Self { tasks, base, heads, experts }
    }

    /// The logits `[n, 10]` of a trunk with the head of a task.
    pub fn logits(&self, trunk: &Trunk, task: usize, x: Tensor<2>) -> Tensor<2> {
        self.heads[task].forward(trunk.forward(x))
    }

    /// The share of right answers over these test images of a task.
    pub fn accuracy(&self, trunk: &Trunk, task: usize, rows: Range<usize>) -> f64 {
        let count = rows.len();
        let (x, digits) = self.tasks[task].test(rows);
        let answers: Tensor<1, Int> = self.logits(trunk, task, x).argmax(1).flatten(0, 1);
        f64::from(answers.equal(digits).int().sum().into_scalar::<i32>()) / count as f64
    }

    /// The mean over all tasks of the accuracy on these test images.
    pub fn score_on(&self, trunk: &Trunk, rows: Range<usize>) -> f64 {
        (0..TASKS).map(|task| self.accuracy(trunk, task, rows.clone())).sum::<f64>() / TASKS as f64
    }

    /// The mean over all tasks of the accuracy on their test images.
    pub fn score(&self, trunk: &Trunk) -> f64 {
        self.score_on(trunk, 0..self.tasks[0].tests())
    }

    /// The mean over all tasks of the accuracy of their own trunks.
    pub fn experts_score(&self) -> f64 {
        let own = |(task, expert)| self.accuracy(expert, task, 0..self.tasks[task].tests());
        self.experts.iter().enumerate().map(own).sum::<f64>() / TASKS as f64
    }

    /// The trunk with these parameters, all tensors as one vector.
    ///
    /// # Panics
    /// If there are not as many as the trunk has.
    pub fn trunk(&self, parameters: &[f32]) -> Trunk {
        let mut left = parameters;
        with_parameters(self.base.clone(), |site, value| {
            let (now, rest) = left.split_at(site.shape.iter().product());
            left = rest;
            Some(Tensor::from_floats(now, &value.device()))
        })
    }
}

/// All parameters of a trunk as one vector.
pub fn parameters(trunk: &Trunk) -> Vec<f32> {
    let mut all = Vec::new();
    for_each_parameter(trunk, |_, value| all.extend(value.into_data().try_to_vec::<f32>().expect("parameters are f32")));
    all
}

/// 200 steps over the first 100 images of every task at once.
fn pretrained(mut whole: Whole, tasks: &[Task]) -> Whole {
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.01).init();
    let batches: Vec<_> = tasks.iter().map(|task| task.train(0..100)).collect();
    for _ in 0..200 {
        let loss = |(head, (x, digits)): (&Linear, &(Tensor<2>, Tensor<1, Int>))| {
            cross_entropy(head.forward(whole.trunk.forward(x.clone())), digits.clone())
        };
        let losses: Vec<Tensor<1>> = whole.heads.iter().zip(&batches).map(loss).collect();
        let gradients = Tensor::cat(losses, 0).mean().backward();
        let gradients = GradientsParams::from_grads(gradients, &whole);
        whole = optimizer.step(1e-3, whole, gradients);
    }
    whole
}

/// 150 steps over 64 images of one task.
fn tuned(mut trunk: Trunk, head: &Linear, task: &Task, mut rng: impl rand::Rng) -> Trunk {
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
    for _ in 0..150 {
        let (x, digits) = task.rows(&sample(&mut rng, TRAIN, 64).into_vec());
        let gradients = cross_entropy(head.forward(trunk.forward(x)), digits).backward();
        let gradients = GradientsParams::from_grads(gradients, &trunk);
        trunk = optimizer.step(5e-4, trunk, gradients);
    }
    trunk
}
