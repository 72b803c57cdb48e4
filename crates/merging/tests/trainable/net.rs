//! The network, task vectors and data of `fixtures/trainable`.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::files::Checkpoint;
use peft_core::{device, for_each_parameter, with_parameters};
use peft_merge::{Loss, Stream, TaskVectors};
use peft_objectives::{cross_entropy, entropy};
use std::path::{Path, PathBuf};

pub const TASKS: usize = 3;
const BATCH: usize = 6;

/// The trunk.
#[derive(Module, Debug)]
pub struct Net {
    pub a: Linear,
    pub b: Linear,
}

impl Net {
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.b.forward(self.a.forward(x).tanh()).tanh()
    }
}

/// Inputs of one task.
#[derive(Clone)]
pub struct Batch {
    pub task: usize,
    pub x: Tensor<2>,
    pub y: Tensor<1, Int>,
}

pub struct Problem {
    file: Checkpoint,
    pub heads: Vec<(Tensor<2>, Tensor<1>)>,
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/trainable")
}

pub fn autodiff() -> Device {
    device::host().autodiff()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), &autodiff())
}

impl Problem {
    pub fn read() -> Self {
        let file = Checkpoint::open_file(&fixtures().join("problem.safetensors")).unwrap();
        let head = |task: usize| {
            let [weight, bias] = ["weight", "bias"].map(|name| file.f32s(&format!("head{task}.{name}")).unwrap());
            let classes = bias.len();
            (tensor(weight.clone(), [weight.len() / classes, classes]), tensor(bias, [classes]))
        };
        Self { heads: (0..TASKS).map(head).collect(), file }
    }

    /// The network whose parameters have this prefix, `base` or `task0`.
    pub fn net(&self, prefix: &str, device: &Device) -> Net {
        let net = Net { a: LinearConfig::new(5, 7).init(device), b: LinearConfig::new(7, 6).init(device) };
        with_parameters(net, |site, _| {
            let values = self.file.f32s(&format!("{prefix}.{}", site.path())).unwrap();
            Some(Tensor::from_floats(values.as_slice(), &device::host()))
        })
    }

    pub fn base(&self) -> Net {
        self.net("base", &autodiff())
    }

    pub fn vectors_of(&self, tasks: &[usize]) -> TaskVectors<Net> {
        let model = |task: &usize| (format!("task{task}"), self.net(&format!("task{task}"), &device::host()));
        TaskVectors::new(self.base(), tasks.iter().map(model).collect(), |_| true).unwrap()
    }

    pub fn vectors(&self) -> TaskVectors<Net> {
        self.vectors_of(&[0, 1, 2])
    }

    pub fn batch(&self, task: usize, round: usize) -> Batch {
        let part = |values: Vec<f32>, width: usize| values[round * BATCH * width..(round + 1) * BATCH * width].to_vec();
        let x = part(self.file.f32s(&format!("x{task}")).unwrap(), 5);
        let y: Vec<i32> = part(self.file.f32s(&format!("y{task}")).unwrap(), 1).into_iter().map(|y| y as i32).collect();
        Batch { task, x: tensor(x, [BATCH, 5]), y: Tensor::from_ints(y.as_slice(), &autodiff()) }
    }

    /// The rounds one after the other, again from the first after the last.
    pub fn stream(&self, task: usize) -> Stream<'_, Batch> {
        let mut round = 0;
        Stream::new(format!("task{task}"), move || {
            round += 1;
            self.batch(task, (round - 1) % 14)
        })
    }

    pub fn streams(&self, tasks: &[usize]) -> Vec<Stream<'_, Batch>> {
        tasks.iter().map(|task| self.stream(*task)).collect()
    }

    pub fn logits(&self, net: &Net, batch: &Batch) -> Tensor<2> {
        let (weight, bias) = &self.heads[batch.task];
        net.forward(batch.x.clone()).matmul(weight.clone()) + bias.clone().unsqueeze()
    }

    pub fn entropy(&self) -> impl Fn(&Net, &Batch) -> Loss + '_ {
        move |net, batch| {
            let logits = self.logits(net, batch);
            let predicted = logits.clone().argmax(1).reshape([BATCH]);
            Loss { value: entropy(logits), predicted: Some(predicted) }
        }
    }

    pub fn ce(&self) -> impl Fn(&Net, &Batch) -> Loss + '_ {
        move |net, batch| cross_entropy(self.logits(net, batch), batch.y.clone()).into()
    }
}

/// All parameters by path.
pub fn parameters(net: &Net) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    for_each_parameter(net, |site, value| all.push((site.path(), numbers(value))));
    all
}

pub fn numbers(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// The largest difference of two models over the largest parameter.
pub fn difference(a: &Net, b: &Net) -> f32 {
    let flat = |net: &Net| parameters(net).into_iter().flat_map(|(_, values)| values).collect::<Vec<_>>();
    relative(&flat(a), &flat(b))
}

pub fn relative(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    if difference.is_nan() { f32::NAN } else { difference / largest.max(f32::MIN_POSITIVE) }
}
