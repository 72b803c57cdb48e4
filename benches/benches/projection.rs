//! One LoRA projection, forward and backward: the fast path beside the plain layer that builds the effective weight.

use burn::tensor::{Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peft_benches::One;

fn projection(c: &mut Criterion) {
    const TOKENS: usize = 512;
    let mut group = c.benchmark_group("lora_projection");
    group.throughput(Throughput::Elements(TOKENS as u64)).sample_size(20);
    for d in [288, 576] {
        let (one, device) = One::adapted(d);
        let x = Tensor::<2>::random([TOKENS, d], Distribution::Default, &device);
        let step = |y: Tensor<2>| {
            y.sum().backward();
            device.sync().expect("the device works");
        };
        group.bench_function(BenchmarkId::new("project", d), |b| b.iter(|| step(one.project(x.clone()))));
        group.bench_function(BenchmarkId::new("forward", d), |b| b.iter(|| step(one.forward(x.clone()))));
    }
    group.finish();
}

criterion_group!(benches, projection);
criterion_main!(benches);
