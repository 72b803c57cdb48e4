//! Attention with grouped key/value heads over ranges of keys.

use crate::matrix::{Matrix, MatrixMut, Output, matmul_here};
use crate::simd::{dot, exp, max, sum, vectorized};
use rayon::prelude::*;
use std::ops::Range;

/// Queries, keys or values: `[batch, heads, positions, head_dim]` in any order in memory but for the last dimension, which is contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    data: &'a [f32],
    dims: [usize; 4],
    strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// A view of `data` with distances `strides` between rows of the batch, heads and positions.
    ///
    /// # Panics
    /// If an element would stand outside `data`.
    pub fn new(data: &'a [f32], dims: [usize; 4], strides: [usize; 3]) -> Self {
        let last: usize = dims.iter().zip(strides).map(|(dim, stride)| dim.saturating_sub(1) * stride).sum();
        assert!(dims.contains(&0) || last + dims[3] <= data.len(), "heads {dims:?} with strides {strides:?} in {}", data.len());
        Self { data, dims, strides }
    }

    /// `[positions, head_dim]` of one head.
    fn matrix(&self, batch: usize, head: usize) -> Matrix<'a> {
        let start = batch * self.strides[0] + head * self.strides[1];
        Matrix::new(&self.data[start.min(self.data.len())..], [self.dims[2], self.dims[3]], [self.strides[2], 1])
    }
}

/// Which keys a query sees: a range of consecutive ones.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a> {
    /// The first key of each range.
    pub starts: &'a [u32],
    /// The key behind the last of each range.
    pub ends: &'a [u32],
    /// The shape of both: `b` rows, or one where all rows see the same; `s` queries, or one where all queries of a row do.
    pub dims: [usize; 2],
}

impl Visible<'_> {
    fn keys(&self, batch: usize, query: usize) -> Range<usize> {
        let [rows, queries] = self.dims;
        let index = (batch % rows) * queries + query % queries;
        self.starts[index] as usize..self.ends[index] as usize
    }

    fn check(&self, q: Heads, k: Heads, v: Heads) {
        let ([b, h, s, hd], [kb, kv, t, _]) = (q.dims, k.dims);
        assert!(k.dims == v.dims && kb == b && k.dims[3] == hd && h.is_multiple_of(kv), "queries {:?}, keys {:?}", q.dims, k.dims);
        let [rows, queries] = self.dims;
        assert!((rows == b || rows == 1) && (queries == s || queries == 1), "ranges {rows} x {queries} for {b} rows of {s}");
        assert!(self.starts.len() == rows * queries && self.ends.len() == rows * queries, "a start and an end for each range");
        assert!(self.ends.iter().all(|end| *end as usize <= t), "a query would see keys after all {t}");
    }
}

/// Queries that one task handles together.
const BLOCK: usize = 64;

/// `softmax(scale · q kᵀ) v` over the visible keys (Vaswani et al., 2017), without ever holding all scores.
///
/// `q: [b, h, s, hd]`, `k, v: [b, kv, t, hd]`; head `i` of the queries reads key head `i / (h / kv)`. `out` is written as `[b, s, h, hd]`.
/// A query that sees no key gets zeros.
///
/// # Panics
/// If the shapes do not fit.
pub fn attention(out: &mut [f32], q: Heads, k: Heads, v: Heads, visible: Visible, scale: f32) {
    visible.check(q, k, v);
    let [b, h, s, hd] = q.dims;
    let group = h / k.dims[1];
    let mut tasks = Vec::new();
    let mut left = MatrixMut::rows_of(out, [b * s, h * hd]);
    for batch in 0..b {
        for first in (0..s).step_by(BLOCK) {
            let (mut rows, rest) = left.split_rows(BLOCK.min(s - first));
            left = rest;
            for head in 0..h {
                let (out, others) = rows.split_columns(hd);
                rows = others;
                tasks.push((batch, first, head, out));
            }
        }
    }
    let run = |(batch, first, head, out): (usize, usize, usize, MatrixMut)| {
        let [k, v] = [k, v].map(|keys| keys.matrix(batch, head / group));
        let q = q.matrix(batch, head).rows(first..first + out.dims()[0]);
        let keys = |query: usize| visible.keys(batch, first + query);
        if q.dims()[0] == 1 { one_query(out, q, k, v, keys(0), scale) } else { block(out, q, k, v, keys, scale) }
    };
    // A single token's scores are few; other threads would come too late.
    const SMALL: usize = 1 << 18;
    if b * h * s * k.dims[2] * hd < SMALL {
        tasks.into_iter().for_each(run);
    } else {
        tasks.into_par_iter().for_each(run);
    }
}

fn one_query(mut out: MatrixMut, q: Matrix, k: Matrix, v: Matrix, keys: Range<usize>, scale: f32) {
    let out = out.row_mut(0);
    out.fill(0.0);
    if keys.is_empty() {
        return;
    }
    let mut weights = vec![0.0; keys.len()];
    read(out, &mut weights, q, k.rows(keys.clone()), v.rows(keys), scale);
}

vectorized! {
    fn read(out: &mut [f32], weights: &mut [f32], q: Matrix, k: Matrix, v: Matrix, scale: f32) {
        let Some(query) = q.row(0) else { return };
        for (key, weight) in weights.iter_mut().enumerate() {
            *weight = k.row(key).map_or(0.0, |key| dot(query, key)) * scale;
        }
        softmax(weights);
        for (key, weight) in weights.iter().enumerate() {
            if let Some(value) = v.row(key) {
                out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
            }
        }
    }
}

fn block(out: MatrixMut, q: Matrix, k: Matrix, v: Matrix, keys: impl Fn(usize) -> Range<usize>, scale: f32) {
    let span = span(q.dims()[0], &keys);
    let mut weights = vec![0.0; q.dims()[0] * span.len()];
    attend(&mut weights, q, k.rows(span.clone()), &keys, span.start, scale);
    let weights = Matrix::rows_of(&weights, [q.dims()[0], span.len()]);
    matmul_here(out, Output::Replace, weights, v.rows(span), 1.0);
}

/// The keys that any query of a block sees.
fn span(queries: usize, keys: impl Fn(usize) -> Range<usize>) -> Range<usize> {
    let seen = (0..queries).map(keys).filter(|keys| !keys.is_empty());
    seen.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
}

/// The attention weights of a block, `[queries, keys]`, for keys from number `from` on.
fn attend(weights: &mut [f32], q: Matrix, k: Matrix, keys: impl Fn(usize) -> Range<usize>, from: usize, scale: f32) {
    let dims = [q.dims()[0], k.dims()[0]];
    matmul_here(MatrixMut::rows_of(weights, dims), Output::Replace, q, k.transpose(), scale);
    for (query, row) in weights.chunks_exact_mut(dims[1].max(1)).enumerate() {
        let seen = keys(query);
        let seen = if seen.is_empty() { 0..0 } else { seen.start - from..seen.end - from };
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        softmax_row(&mut row[seen]);
    }
}

vectorized! {
    fn softmax_row(row: &mut [f32]) {
        softmax(row);
    }
}

#[inline(always)]
fn softmax(row: &mut [f32]) {
    let highest = max(row);
    row.iter_mut().for_each(|score| *score = exp(*score - highest));
    let total = sum(row, |weight| weight);
    let inverse = total.recip();
    row.iter_mut().for_each(|weight| *weight *= inverse);
}

vectorized! {
    /// Gradients of weights become gradients of scores.
    fn softmax_backward(gradients: &mut [f32], weights: &[f32], width: usize) {
        for (gradients, weights) in gradients.chunks_exact_mut(width).zip(weights.chunks_exact(width)) {
            let mean = dot(gradients, weights);
            gradients.iter_mut().zip(weights).for_each(|(d, weight)| *d = weight * (*d - mean));
        }
    }
}

/// The gradients of [`attention`] for the gradient `dy: [b, h, s, hd]` of its output, from its inputs alone.
///
/// `dq`, `dk` and `dv` are written as `[b, s, h, hd]` and `[b, t, kv, hd]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn attention_backward(grads: [&mut [f32]; 3], dy: Heads, [q, k, v]: [Heads; 3], visible: Visible, scale: f32) {
    visible.check(q, k, v);
    assert_eq!(dy.dims, q.dims, "a gradient has the shape of its output");
    let ([b, h, s, hd], [_, kv, t, _]) = (q.dims, k.dims);
    let group = h / kv;
    let [dq, dk, dv] = grads;
    let mut tasks = Vec::new();
    let mut left = (MatrixMut::rows_of(dq, [b * s, h * hd]), [dk, dv].map(|grad| MatrixMut::rows_of(grad, [b * t, kv * hd])));
    for batch in 0..b {
        let (mut dq, q_rest) = left.0.split_rows(s);
        let [mut dk, mut dv] = {
            let [(dk, k_rest), (dv, v_rest)] = left.1.map(|grad| grad.split_rows(t));
            left = (q_rest, [k_rest, v_rest]);
            [dk, dv]
        };
        for head in 0..kv {
            let parts = (dq.split_columns(group * hd), dk.split_columns(hd), dv.split_columns(hd));
            tasks.push((batch, head, parts.0.0, parts.1.0, parts.2.0));
            (dq, dk, dv) = (parts.0.1, parts.1.1, parts.2.1);
        }
    }
    tasks.into_par_iter().for_each(|(batch, key_head, dq, mut dk, mut dv)| {
        dk.clear();
        dv.clear();
        let [k, v] = [k, v].map(|keys| keys.matrix(batch, key_head));
        let mut left = dq;
        for head in key_head * group..(key_head + 1) * group {
            let (mut dq, rest) = left.split_columns(hd);
            left = rest;
            let [q, dy] = [q, dy].map(|queries| queries.matrix(batch, head));
            for first in (0..s).step_by(BLOCK) {
                let rows = first..(first + BLOCK).min(s);
                let (now, later) = dq.split_rows(rows.len());
                dq = later;
                let keys = |query: usize| visible.keys(batch, first + query);
                let grads = [now, dk.reborrow(), dv.reborrow()];
                block_backward(grads, dy.rows(rows.clone()), [q.rows(rows), k, v], keys, scale);
            }
        }
    });
}

fn block_backward([dq, dk, dv]: [MatrixMut; 3], dy: Matrix, [q, k, v]: [Matrix; 3], keys: impl Fn(usize) -> Range<usize>, scale: f32) {
    let span = span(q.dims()[0], &keys);
    let dims = [q.dims()[0], span.len()];
    let [k, v] = [k, v].map(|keys| keys.rows(span.clone()));
    let mut weights = vec![0.0; dims[0] * dims[1]];
    attend(&mut weights, q, k, &keys, span.start, scale);
    let weights_of = Matrix::rows_of(&weights, dims);
    matmul_here(dv.split_rows(span.start).1.split_rows(span.len()).0, Output::Add, weights_of.transpose(), dy, 1.0);
    let mut dscores = vec![0.0; dims[0] * dims[1]];
    matmul_here(MatrixMut::rows_of(&mut dscores, dims), Output::Replace, dy, v.transpose(), 1.0);
    softmax_backward(&mut dscores, &weights, dims[1].max(1));
    let dscores = Matrix::rows_of(&dscores, dims);
    matmul_here(dk.split_rows(span.start).1.split_rows(span.len()).0, Output::Add, dscores.transpose(), q, scale);
    matmul_here(dq, Output::Replace, dscores, k, scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_without_keys_gets_zeros() {
        let values: Vec<f32> = (1..=8).map(|i| i as f32).collect();
        for queries in [1, 2] {
            let heads = |positions| Heads::new(&values, [1, 1, positions, 4], [8, 8, 4]);
            // The first query would see keys from the one after its own on.
            let starts: Vec<u32> = (0..queries as u32).map(|query| u32::from(query == 0)).collect();
            let ends: Vec<u32> = (1..=queries as u32).collect();
            let visible = Visible { starts: &starts, ends: &ends, dims: [1, queries] };
            let mut out = vec![f32::NAN; 4 * queries];
            attention(&mut out, heads(queries), heads(2), heads(2), visible, 1.0);
            assert_eq!(out[..4], [0.0; 4]);
            assert!(out[4..].iter().all(|value| *value > 0.0));
        }
    }
}
