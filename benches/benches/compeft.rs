//! Compressing an adapter in bf16 on one core, writing and reading its file, making its tensors again, and products on bit planes.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peft_core::files::{Dtype, TensorSource, float_bytes, write_safetensors};
use peft_core::{CONFIG_FILE, TENSOR_FILE};
use peft_merge::compeft::{Expert, Settings, TaskVector, weighted_sum};
use std::borrow::Cow;
use std::path::Path;

/// LoRA matrices of rank 64 in 16 modules of width 4096.
const SHAPE: [usize; 2] = [64, 4096];
const TENSORS: usize = 32;

/// Numbers as training leaves them, about: a bell around 0.
fn adapter(dir: &Path) {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut numbers = || (0..SHAPE[0] * SHAPE[1]).map(|_| 0.01 * (uniform() + uniform() + uniform() + uniform())).collect::<Vec<f32>>();
    let sources = (0..TENSORS).map(|i| {
        let bytes = float_bytes(&numbers(), Dtype::BF16).expect("a floating-point type");
        TensorSource::new(format!("layers.{i}.lora_A.weight"), Dtype::BF16, &SHAPE, || Ok(Cow::Owned(bytes)))
    });
    write_safetensors(&dir.join(TENSOR_FILE), sources.collect::<Vec<_>>(), &Default::default()).expect("the directory can be written");
    std::fs::write(dir.join(CONFIG_FILE), r#"{"peft_type":"LORA","r":64}"#).expect("the directory can be written");
}

fn compeft(c: &mut Criterion) {
    // One core, to be comparable.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("nothing has used the pool");
    let dir = tempfile::tempdir().expect("a temporary directory");
    adapter(dir.path());
    let vector = TaskVector::of_adapter(dir.path()).expect("an adapter");
    let mut group = c.benchmark_group("compeft");
    group.throughput(Throughput::Bytes(2 * vector.elements())).sample_size(10);
    for density in [0.05, 0.2, 0.5] {
        let settings = Settings { density, ..Settings::default() };
        group.bench_function(BenchmarkId::new("compress", density), |b| b.iter(|| vector.compress(&settings).expect("finite numbers")));
        let expert = vector.compress(&settings).expect("finite numbers");
        let file = dir.path().join("expert.cpft");
        group.bench_function(BenchmarkId::new("write", density), |b| b.iter(|| expert.write(&file).expect("space")));
        group.bench_function(BenchmarkId::new("read", density), |b| b.iter(|| Expert::read(&file).expect("a good file")));
        group.bench_function(BenchmarkId::new("tensors", density), |b| {
            b.iter(|| expert.tensors(None, Path::new("memory")).expect("a good file"));
        });
        let planes: Vec<_> = expert.ternaries().expect("a good file").into_iter().map(|(_, ternary)| ternary).collect();
        group.bench_function(BenchmarkId::new("dot", density), |b| b.iter(|| planes.iter().map(|t| t.dot(t)).sum::<f64>()));
        group.bench_function(BenchmarkId::new("sum of two", density), |b| {
            b.iter(|| planes.iter().map(|t| weighted_sum(&[(t, 0.5), (t, 0.5)]).expect("equal lengths").len()).sum::<usize>());
        });
    }
    group.finish();
}

criterion_group!(benches, compeft);
criterion_main!(benches);
