//! Attention with grouped key/value heads.

use super::differentiable;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};
use std::sync::{Arc, OnceLock};

/// Which keys each query sees: consecutive ones.
///
/// This holds causal attention, sliding windows, sequences packed one after the other, rows padded on the left, and attention in both
/// directions over rows padded on the right. A clone shares the mask that devices without a kernel of their own build from it.
#[derive(Clone, Debug)]
pub struct Visible {
    starts: Arc<[u32]>,
    ends: Arc<[u32]>,
    /// The shape of both: all rows or one that stands for all, and the same for queries.
    dims: [usize; 2],
    mask: Arc<OnceLock<Tensor<4>>>,
    #[cfg(feature = "cube")]
    ranges: Arc<OnceLock<[Tensor<1, burn::tensor::Int>; 2]>>,
}

impl Visible {
    /// Causal: queries at the positions of the keys `first, first + 1, …` see nothing behind themselves; `starts[i]` is the first key
    /// that query `i` sees. `starts: [queries]` for all rows of a batch, or `[batch · queries]` where rows differ.
    ///
    /// # Panics
    /// If a query would not see itself.
    pub fn new(starts: Vec<u32>, queries: usize, first: usize) -> Self {
        let ends: Vec<u32> = (0..starts.len()).map(|index| (first + index % queries + 1) as u32).collect();
        assert!(starts.iter().zip(&ends).all(|(start, end)| start < end), "a query sees at least the key at its own position");
        let rows = starts.len().checked_div(queries).unwrap_or(1);
        Self::of_ranges(starts, ends, [rows, queries])
    }

    /// In both directions: every query of row `i` sees the first `lengths[i]` of `keys` keys.
    ///
    /// # Panics
    /// If a row has no key to see, or more than there are.
    pub fn padded(lengths: &[usize], keys: usize) -> Self {
        assert!(lengths.iter().all(|length| (1..=keys).contains(length)), "lengths {lengths:?} of rows with {keys} positions");
        // Rows without padding see the same.
        let whole = lengths.iter().all(|length| *length == keys);
        let ends: Vec<u32> = if whole { vec![keys as u32] } else { lengths.iter().map(|length| *length as u32).collect() };
        let rows = ends.len();
        Self::of_ranges(vec![0; rows], ends, [rows, 1])
    }

    fn of_ranges(starts: Vec<u32>, ends: Vec<u32>, dims: [usize; 2]) -> Self {
        Self {
            starts: starts.into(),
            ends: ends.into(),
            dims,
            mask: Arc::default(),
            #[cfg(feature = "cube")]
            ranges: Arc::default(),
        }
    }

    /// `0` where a query may look and `-∞` where not, `[1 or b, 1, 1 or queries, keys]`.
    fn mask(&self, keys: usize, device: &Device) -> Tensor<4> {
        let build = || {
            let mut values = vec![f32::NEG_INFINITY; self.starts.len() * keys];
            let ranges = self.starts.iter().zip(self.ends.iter());
            for (row, (start, end)) in values.chunks_exact_mut(keys).zip(ranges) {
                row[*start as usize..*end as usize].fill(0.0);
            }
            let [rows, queries] = self.dims;
            Tensor::from_data(TensorData::new(values, [rows, 1, queries, keys]), device)
        };
        self.mask.get_or_init(build).clone()
    }

    /// The first key of each range and the one behind its last, on a device.
    #[cfg(feature = "cube")]
    fn ranges(&self, device: &Device) -> [Tensor<1, burn::tensor::Int>; 2] {
        let on_device = |keys: &Arc<[u32]>| {
            let keys: Vec<i32> = keys.iter().map(|key| *key as i32).collect();
            Tensor::from_ints(keys.as_slice(), device)
        };
        self.ranges.get_or_init(|| [&self.starts, &self.ends].map(on_device)).clone()
    }

    #[cfg(feature = "cpu")]
    fn view(&self) -> peft_kernels::attention::Visible<'_> {
        peft_kernels::attention::Visible { starts: &self.starts, ends: &self.ends, dims: self.dims }
    }
}

/// `softmax(q kᵀ / √hd) v` over the visible keys (Vaswani et al., 2017), `[b, h, s, hd]`.
///
/// `q: [b, h, s, hd]` and `k, v: [b, kv, t, hd]` in f32; query head `i` reads key head `i / (h / kv)` (Ainslie et al., 2023), which is
/// never repeated. Keeps its inputs for the backward pass, and no scores.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, visible: &Visible) -> Tensor<4> {
    let values = [&q, &k, &v].map(|tensor| tensor.clone().inner());
    let y = forward(&values, visible);
    let visible = visible.clone();
    differentiable([q, k, v].map(Tensor::into_dispatch), y, move |dy, _| {
        backward(&dy, &values, &visible).map(|gradient| Some(gradient.into_dispatch()))
    })
}

/// The weights `softmax(q kᵀ / √hd)` themselves, `[b, h, s, t]`: for what [`attention`] cannot do with them, such as dropout.
///
/// Shapes as there. The weights stay in memory for the backward pass.
pub fn attention_weights(q: Tensor<4>, k: Tensor<4>, visible: &Visible) -> Tensor<4> {
    let ([b, h, s, _], t) = (q.dims(), k.dims()[2]);
    weights(q, k, visible).reshape([b, h, s, t])
}

fn scale(q: &Tensor<4>) -> f32 {
    (q.dims()[3] as f32).sqrt().recip()
}

fn forward(inputs: &[Tensor<4>; 3], visible: &Visible) -> Tensor<4> {
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{Cpu, filled};
        if let [Some(q), Some(k), Some(v)] = inputs.each_ref().map(Cpu::lined) {
            let [b, h, s, hd] = inputs[0].dims();
            let fill = |out: &mut [f32]| {
                peft_kernels::attention::attention(out, q.heads(), k.heads(), v.heads(), visible.view(), scale(&inputs[0]));
            };
            // Heads of a token stand side by side, as the output projection reads them.
            return filled([b, s, h, hd], fill).swap_dims(1, 2);
        }
    }
    let [q, k, v] = inputs.clone();
    composed(q, k, v, visible)
}

fn backward(dy: &Tensor<4>, inputs: &[Tensor<4>; 3], visible: &Visible) -> [Tensor<4>; 3] {
    #[cfg(feature = "cpu")]
    {
        use super::cpu::{Cpu, tensor, zeros};
        if let ([Some(q), Some(k), Some(v)], Some(dy)) = (inputs.each_ref().map(Cpu::lined), Cpu::lined(dy)) {
            let shapes = inputs.each_ref().map(|input| input.clone().swap_dims(1, 2).dims());
            let mut grads = shapes.map(zeros);
            let heads = [q.heads(), k.heads(), v.heads()];
            let slices = grads.each_mut().map(Vec::as_mut_slice);
            peft_kernels::attention::attention_backward(slices, dy.heads(), heads, visible.view(), scale(&inputs[0]));
            let [dq, dk, dv] = grads;
            let swapped = |data, shape| tensor(data, shape).swap_dims(1, 2);
            return [swapped(dq, shapes[0]), swapped(dk, shapes[1]), swapped(dv, shapes[2])];
        }
    }
    composed_backward(dy.clone(), inputs.clone(), visible)
}

/// The attention weights, `[b, kv, h / kv · s, t]`: the queries of a group stand below each other in one matrix.
fn weights(q: Tensor<4>, k: Tensor<4>, visible: &Visible) -> Tensor<4> {
    let ([b, h, s, hd], [_, kv, t, _]) = (q.dims(), k.dims());
    let device = q.clone().inner().device();
    let factor = f64::from(scale(&q));
    let scores = (q * factor).reshape([b, kv, h / kv * s, hd]).matmul(k.swap_dims(2, 3));
    #[cfg(feature = "cube")]
    if let Some(weights) = super::cube::softmax(&scores, || visible.ranges(&device), visible.dims[1]) {
        return weights;
    }
    softmax((scores.reshape([b, h, s, t]) + visible.mask(t, &device)).reshape([b, kv, h / kv * s, t]), 3)
}

fn composed(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, visible: &Visible) -> Tensor<4> {
    let dims = q.dims();
    weights(q, k, visible).matmul(v).reshape(dims)
}

/// The gradient of `factor` times the scores.
fn scores_gradient(weights: Tensor<4>, dweights: Tensor<4>, factor: f64) -> Tensor<4> {
    #[cfg(feature = "cube")]
    if let Some(gradient) = super::cube::softmax_backward(&weights, &dweights, factor as f32) {
        return gradient;
    }
    let along = (dweights.clone() * weights.clone()).sum_dim(3);
    weights * (dweights - along) * factor
}

fn composed_backward(dy: Tensor<4>, [q, k, v]: [Tensor<4>; 3], visible: &Visible) -> [Tensor<4>; 3] {
    let ([b, h, s, hd], kv) = (q.dims(), k.dims()[1]);
    let factor = f64::from(scale(&q));
    let grouped = |x: Tensor<4>| x.reshape([b, kv, h / kv * s, hd]);
    let weights = weights(q.clone(), k.clone(), visible);
    let dy = grouped(dy);
    let dv = weights.clone().swap_dims(2, 3).matmul(dy.clone());
    let dweights = dy.matmul(v.swap_dims(2, 3));
    let dscores = scores_gradient(weights, dweights, factor);
    let dk = dscores.clone().swap_dims(2, 3).matmul(grouped(q));
    [dscores.matmul(k).reshape([b, h, s, hd]), dk, dv]
}

#[cfg(test)]
mod tests {
    use super::super::check::{distance, gradient, random, same};
    use super::*;

    fn compare(dims: [usize; 4], kv: usize, t: usize, visible: &Visible) {
        let [b, h, s, hd] = dims;
        // As a backbone has them: positions before heads.
        let swapped = |x: &Tensor<4>| x.clone().swap_dims(1, 2);
        let (q, k, v) = (random([b, s, h, hd]), random([b, t, kv, hd]), random([b, t, kv, hd]));
        let found = attention(swapped(&q), swapped(&k), swapped(&v), visible);
        let expected = composed(swapped(&q), swapped(&k), swapped(&v), visible);
        same(found, expected, &[&gradient(&q), &gradient(&k), &gradient(&v)]);
        let inputs = [&q, &k, &v].map(|x| swapped(x).inner());
        let dy = random(dims).inner();
        for (found, expected) in backward(&dy, &inputs, visible).into_iter().zip(composed_backward(dy.clone(), inputs.clone(), visible)) {
            assert!(distance(found, expected) < 1e-5);
        }
    }

    #[test]
    fn causal() {
        for (s, kv) in [(1, 2), (5, 2), (70, 2), (150, 1), (130, 6)] {
            compare([2, 6, s, 8], kv, s, &Visible::new(vec![0; s], s, 0));
        }
    }

    #[test]
    fn after_a_past_and_through_a_window() {
        let (s, first, window) = (70, 11, 20);
        let starts = (0..s).map(|i| (first + i + 1usize).saturating_sub(window) as u32).collect();
        compare([1, 4, s, 16], 2, first + s, &Visible::new(starts, s, first));
    }

    #[test]
    fn rows_that_differ() {
        // The first row holds two sequences, the second is padded on the left.
        let starts = [[0, 0, 0, 3, 3, 3], [0, 1, 2, 2, 2, 2]].concat();
        compare([2, 2, 6, 4], 1, 6, &Visible::new(starts, 6, 0));
    }

    #[test]
    fn both_directions_over_padded_rows() {
        compare([3, 2, 70, 8], 2, 70, &Visible::padded(&[70, 1, 33], 70));
        compare([2, 4, 5, 8], 2, 5, &Visible::padded(&[5, 5], 5));
    }

    #[test]
    fn padding_changes_nothing_in_both_directions() {
        let [q, k, v] = [random([2, 2, 6, 4]), random([2, 2, 6, 4]), random([2, 2, 6, 4])].map(Tensor::inner);
        let visible = Visible::padded(&[6, 4], 6);
        let padded = attention(q.clone(), k.clone(), v.clone(), &visible);
        let read = attention_weights(q.clone(), k.clone(), &visible).matmul(v.clone());
        assert!(distance(read, padded.clone()) < 1e-6);
        let cut = |x: Tensor<4>| x.slice([1..2, 0..2, 0..4]);
        let alone = attention(cut(q), cut(k), cut(v), &Visible::padded(&[4], 4));
        assert!(distance(cut(padded), alone) < 1e-6);
    }

    #[test]
    #[should_panic(expected = "lengths [3, 0]")]
    fn a_row_without_keys_is_refused() {
        Visible::padded(&[3, 0], 3);
    }

    #[test]
    fn packed_sequences_do_not_see_each_other() {
        let [q, k, v] = [random([1, 2, 6, 4]), random([1, 2, 6, 4]), random([1, 2, 6, 4])].map(Tensor::inner);
        let packed = attention(q.clone(), k.clone(), v.clone(), &Visible::new(vec![0, 0, 0, 0, 4, 4], 6, 0));
        let alone = |range: std::ops::Range<usize>| {
            let n = range.len();
            let cut = |x: &Tensor<4>| x.clone().slice_dim(2, range.clone());
            attention(cut(&q), cut(&k), cut(&v), &Visible::new(vec![0; n], n, 0))
        };
        assert!(distance(packed, Tensor::cat(vec![alone(0..4), alone(4..6)], 2)) < 1e-6);
    }

    #[test]
    #[should_panic(expected = "at its own position")]
    fn a_query_that_sees_nothing_is_refused() {
        Visible::new(vec![0, 2], 2, 0);
    }
}
