//! Every operation of `peft_core::ops`.

use super::Kind;
use super::compare::{Check, Output};
use super::tape::Tape;
use burn::tensor::{DType, Device, Int, Tensor};
use peft_core::{Result, ops};

type Operation = fn(Tape, DType) -> Result<Vec<Output>>;

/// Name, what is compared, the type of the weight, the operation.
const OPERATIONS: [(&str, Kind, DType, Operation); 20] = [
    ("rms_norm", Kind::Single, DType::F32, rms_norm),
    ("layer_norm", Kind::Single, DType::F32, layer_norm),
    ("swiglu", Kind::Single, DType::F32, swiglu),
    ("gelu", Kind::Single, DType::F32, |tape, _| activated(tape, ops::gelu)),
    ("gelu_tanh", Kind::Single, DType::F32, |tape, _| activated(tape, ops::gelu_tanh)),
    ("rotate", Kind::Single, DType::F32, rotate),
    ("attention, causal", Kind::Product, DType::F32, |tape, _| attention(tape, 4, [70, 70], &causal(70))),
    ("attention, grouped heads", Kind::Product, DType::F32, |tape, _| attention(tape, 2, [70, 70], &causal(70))),
    ("attention, one query after a past", Kind::Product, DType::F32, |tape, _| attention(tape, 2, [1, 33], &windowed(1, 32, 99))),
    ("attention, through a window after a past", Kind::Product, DType::F32, |tape, _| attention(tape, 1, [70, 81], &windowed(70, 11, 20))),
    ("attention, packed and padded rows", Kind::Product, DType::F32, |tape, _| attention(tape, 2, [70, 70], &rows(70))),
    ("project, f32", Kind::Product, DType::F32, project),
    ("project, bf16", Kind::Half, DType::BF16, project),
    ("project, f16", Kind::Half, DType::F16, project),
    ("project_low_rank, f32", Kind::Product, DType::F32, project_low_rank),
    ("project_low_rank, bf16", Kind::Half, DType::BF16, project_low_rank),
    ("linear_cross_entropy, f32", Kind::Product, DType::F32, |tape, dtype| head(tape, 40, 300, dtype)),
    ("linear_cross_entropy, bf16", Kind::Half, DType::BF16, |tape, dtype| head(tape, 40, 300, dtype)),
    ("linear_cross_entropy, f16", Kind::Half, DType::F16, |tape, dtype| head(tape, 40, 300, dtype)),
    ("linear_cross_entropy, more logits than exist at once", Kind::Product, DType::F32, |tape, dtype| head(tape, 300, 128_000, dtype)),
];

/// Compare them all.
pub fn checks(cpu: &Device, target: &Device, tolerance: impl Fn(Kind) -> f64) -> Vec<Check> {
    let check = |(name, kind, dtype, run): (&str, Kind, DType, Operation)| match target.supports_dtype(dtype) {
        true => Check::new(name, tolerance(kind), || run(Tape::on(cpu), dtype), || run(Tape::on(target), dtype)),
        false => Check::skipped(name, dtype),
    };
    OPERATIONS.into_iter().map(check).collect()
}

fn rms_norm(mut tape: Tape, _: DType) -> Result<Vec<Output>> {
    let (x, weight) = (tape.input("x", [3, 41, 96]), tape.input("weight", [96]));
    tape.outputs(ops::rms_norm(x, weight, 1e-5))
}

fn layer_norm(mut tape: Tape, _: DType) -> Result<Vec<Output>> {
    let (x, weight, bias) = (tape.input("x", [3, 41, 96]), tape.input("weight", [96]), tape.input("bias", [96]));
    tape.outputs(ops::layer_norm(x, weight, bias, 1e-5))
}

fn swiglu(mut tape: Tape, _: DType) -> Result<Vec<Output>> {
    let (gate, up) = (tape.input("gate", [2, 33, 70]), tape.input("up", [2, 33, 70]));
    tape.outputs(ops::swiglu(gate, up))
}

fn activated(mut tape: Tape, activation: fn(Tensor<3>) -> Tensor<3>) -> Result<Vec<Output>> {
    let x = tape.input("x", [2, 33, 70]);
    tape.outputs(activation(x * 3.0))
}

fn rotate(mut tape: Tape, _: DType) -> Result<Vec<Output>> {
    let x = tape.input("x", [2, 37, 3, 16]);
    let angles: Vec<f32> = (0..37 * 8).map(|i| (i / 8) as f32 * 0.5f32.powi(i % 8)).collect();
    let table = |of: fn(f32) -> f32| {
        let values: Vec<f32> = angles.iter().copied().map(of).collect();
        Tensor::<1>::from_floats(values.as_slice(), tape.device()).reshape([37, 8])
    };
    let turned = ops::rotate(x, &table(f32::cos), &table(f32::sin));
    tape.outputs(turned)
}

/// Two rows of four query heads on `kv` heads.
fn attention(mut tape: Tape, kv: usize, [queries, keys]: [usize; 2], visible: &ops::Visible) -> Result<Vec<Output>> {
    // As a backbone has them: positions before heads.
    let mut input = |name: &str, positions: usize, heads: usize| tape.input(name, [2, positions, heads, 16]).swap_dims(1, 2);
    let (q, k, v) = (input("queries", queries, 4), input("keys", keys, kv), input("values", keys, kv));
    tape.outputs(ops::attention(q, k, v, visible))
}

fn causal(queries: usize) -> ops::Visible {
    ops::Visible::new(vec![0; queries], queries, 0)
}

fn windowed(queries: usize, first: usize, window: usize) -> ops::Visible {
    let starts = (0..queries).map(|query| (first + query + 1).saturating_sub(window) as u32).collect();
    ops::Visible::new(starts, queries, first)
}

/// The first row holds two sequences, the second is padded on the left.
fn rows(queries: usize) -> ops::Visible {
    let packed = (0..queries).map(|query| if query < 30 { 0 } else { 30 });
    let padded = (0..queries).map(|query| query.min(25));
    ops::Visible::new(packed.chain(padded).map(|start| start as u32).collect(), queries, 0)
}

fn project(mut tape: Tape, dtype: DType) -> Result<Vec<Output>> {
    let (x, stored) = (tape.input("x", [70, 96]), tape.typed("weight", [130, 96], dtype));
    tape.outputs(ops::project(x, stored.transpose(), None))
}

fn project_low_rank(mut tape: Tape, dtype: DType) -> Result<Vec<Output>> {
    let (x, stored) = (tape.input("x", [70, 96]), tape.typed("weight", [130, 96], dtype));
    let (a, b) = (tape.input("a", [96, 8]), tape.input("b", [8, 130]));
    tape.outputs(ops::project_low_rank(x, stored.transpose(), [a, b], 1.5, None))
}

/// One target of three does not count.
fn head(mut tape: Tape, n: usize, vocabulary: usize, dtype: DType) -> Result<Vec<Output>> {
    let (hidden, table) = (tape.input("hidden", [n, 16]), tape.typed("weight", [vocabulary, 16], dtype));
    let targets: Vec<i64> = (0..n).map(|i| if i % 3 == 1 { -100 } else { (i * 7 % vocabulary) as i64 }).collect();
    let targets = Tensor::<1, Int>::from_ints(targets.as_slice(), tape.device());
    tape.outputs(ops::linear_cross_entropy(hidden, table.transpose(), targets))
}
