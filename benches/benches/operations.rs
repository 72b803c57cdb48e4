//! The fused operations beside the same composed of Burn's, forward and backward, at the sizes of SmolLM2-135M.

use burn::nn::DropoutConfig;
use burn::tensor::activation::{self, log_softmax, silu, softmax};
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Distribution, Int, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use peft_core::device;
use peft_core::ops::{self, Visible};

const BATCH: usize = 2;
const LENGTH: usize = 256;
const WIDTH: usize = 576;
const INNER: usize = 1536;
const VOCABULARY: usize = 8192;
const HEADS: [usize; 2] = [9, 3];
const HEAD: usize = 64;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// A way to compute, and its name.
type Form<'a, const N: usize, const D: usize, const E: usize> = (&'a str, &'a dyn Fn([Tensor<D>; N]) -> Tensor<E>);

/// Time forward and backward of both forms, gradients with respect to `inputs`.
fn compare<const N: usize, const D: usize, const E: usize>(
    c: &mut Criterion,
    name: &str,
    inputs: [Tensor<D>; N],
    forms: [Form<N, D, E>; 2],
) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    let device = inputs[0].device();
    for (form, operation) in forms {
        group.bench_function(BenchmarkId::from_parameter(form), |b| {
            b.iter(|| {
                let inputs = inputs.clone().map(Tensor::require_grad);
                operation(inputs).sum().backward();
                device.sync().expect("the device works");
            });
        });
    }
    group.finish();
}

fn operations(c: &mut Criterion) {
    let device = device::host().autodiff();
    let rows = BATCH * LENGTH;

    let weight: Tensor<1> = random([WIDTH], &device);
    let composed = |[x]: [Tensor<2>; 1]| {
        let rms = (x.clone().square().mean_dim(1) + 1e-5).sqrt();
        x / rms * weight.clone().unsqueeze()
    };
    let fused = |[x]: [Tensor<2>; 1]| ops::rms_norm(x, weight.clone(), 1e-5);
    compare(c, "rms_norm", [random([rows, WIDTH], &device)], [("fused", &fused), ("composed", &composed)]);

    let pair = [random([rows, INNER], &device), random([rows, INNER], &device)];
    let composed = |[gate, up]: [Tensor<2>; 2]| silu(gate) * up;
    let fused = |[gate, up]: [Tensor<2>; 2]| ops::swiglu(gate, up);
    compare(c, "swiglu", pair, [("fused", &fused), ("composed", &composed)]);

    let x = || [random([rows, INNER], &device)];
    let composed = |[x]: [Tensor<2>; 1]| activation::gelu(x);
    let fused = |[x]: [Tensor<2>; 1]| ops::gelu(x);
    compare(c, "gelu", x(), [("fused", &fused), ("composed", &composed)]);
    let composed = |[x]: [Tensor<2>; 1]| activation::gelu_approximate(x);
    let fused = |[x]: [Tensor<2>; 1]| ops::gelu_tanh(x);
    compare(c, "gelu_tanh", x(), [("fused", &fused), ("composed", &composed)]);

    let bias: Tensor<1> = random([WIDTH], &device);
    let composed = |[x]: [Tensor<2>; 1]| layer_norm(x, weight.clone(), Some(bias.clone()), 1e-5);
    let fused = |[x]: [Tensor<2>; 1]| ops::layer_norm(x, weight.clone(), bias.clone(), 1e-5);
    compare(c, "layer_norm", [random([rows, WIDTH], &device)], [("fused", &fused), ("composed", &composed)]);

    let dropout = DropoutConfig::new(0.1).init();
    let composed = |[x]: [Tensor<2>; 1]| dropout.forward(x);
    let fused = |[x]: [Tensor<2>; 1]| ops::dropout(&dropout, x);
    compare(c, "dropout", [random([rows, WIDTH], &device)], [("fused", &fused), ("composed", &composed)]);

    let heads = |heads: usize| random([BATCH, LENGTH, heads, HEAD], &device);
    let visible = Visible::new(vec![0; LENGTH], LENGTH, 0);
    let mask = Tensor::<2>::full([LENGTH, LENGTH], f32::NEG_INFINITY, &device).triu(1).unsqueeze::<4>();
    let composed = |inputs: [Tensor<4>; 3]| {
        let [q, k, v] = inputs.map(|x| x.swap_dims(1, 2));
        let repeat = |x: Tensor<4>| {
            let [b, kv, t, hd] = x.dims();
            let x: Tensor<5> = x.unsqueeze_dim(2);
            x.expand([b, kv, HEADS[0] / kv, t, hd]).reshape([b, HEADS[0], t, hd])
        };
        let scores = q.matmul(repeat(k).swap_dims(2, 3)) / (HEAD as f64).sqrt() + mask.clone();
        softmax(scores, 3).matmul(repeat(v))
    };
    let fused = |inputs: [Tensor<4>; 3]| {
        let [q, k, v] = inputs.map(|x| x.swap_dims(1, 2));
        ops::attention(q, k, v, &visible)
    };
    compare(c, "attention", [heads(HEADS[0]), heads(HEADS[1]), heads(HEADS[1])], [("fused", &fused), ("composed", &composed)]);

    let head: Tensor<2> = random([VOCABULARY, WIDTH], &device).transpose();
    let targets = Tensor::<1, Int>::arange(0..rows as i64, &device);
    let composed = |[hidden]: [Tensor<2>; 1]| {
        let log = log_softmax(hidden.matmul(head.clone()), 1);
        -log.gather(1, targets.clone().reshape([rows, 1])).mean()
    };
    let fused = |[hidden]: [Tensor<2>; 1]| ops::linear_cross_entropy(hidden, head.clone(), targets.clone());
    compare(c, "linear_cross_entropy", [random([rows, WIDTH], &device)], [("fused", &fused), ("composed", &composed)]);
}

criterion_group!(benches, operations);
criterion_main!(benches);
