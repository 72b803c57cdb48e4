//! The kernels: one cube (a group of threads that share memory) computes one row.

#![allow(clippy::too_many_arguments)] // A kernel has no other way to get its inputs.

use cubecl::prelude::*;

/// Threads of a cube.
pub const THREADS: u32 = 128;

/// The sum of every thread's value, for all of them.
#[cube]
fn sum(value: f32, shared: &mut [f32]) -> f32 {
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    let mut half = (THREADS as usize / 2).runtime();
    while half > 0 {
        sync_cube();
        if unit < half {
            shared[unit] += shared[unit + half];
        }
        half /= 2;
    }
    sync_cube();
    let total = shared[0];
    // The next value may come only when all have read this one.
    sync_cube();
    total
}

/// The largest of every thread's value, for all of them.
#[cube]
fn largest(value: f32, shared: &mut [f32]) -> f32 {
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    let mut half = (THREADS as usize / 2).runtime();
    while half > 0 {
        sync_cube();
        if unit < half {
            shared[unit] = max(shared[unit], shared[unit + half]);
        }
        half /= 2;
    }
    sync_cube();
    let most = shared[0];
    sync_cube();
    most
}

/// `softmax` over the columns `starts[i] .. ends[i]` of each row and 0 elsewhere. Rows of one matrix of `matrix` rows share the ranges of
/// one of `batch` batches; the `queries` ranges of a batch repeat.
#[cube(launch, address_type = "dynamic")]
pub fn softmax(
    scores: &[f32],
    starts: &[i32],
    ends: &[i32],
    out: &mut [f32],
    rows: usize,
    columns: usize,
    matrix: usize,
    batch: usize,
    queries: usize,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut shared = Shared::new_slice(THREADS as usize);
    let range = (row / matrix) % batch * queries + row % queries;
    let (start, end) = (starts[range] as usize, ends[range] as usize);
    let (first, unit) = (row * columns, UNIT_POS as usize);

    let mut most = f32::min_value();
    let mut column = start + unit;
    while column < end {
        most = max(most, scores[first + column]);
        column += THREADS as usize;
    }
    let most = largest(most, &mut shared);

    let mut total = 0.0f32;
    let mut column = start + unit;
    while column < end {
        total += (scores[first + column] - most).exp();
        column += THREADS as usize;
    }
    let total = sum(total, &mut shared);

    let mut column = unit;
    while column < columns {
        let seen = column >= start && column < end;
        let mut weight = 0.0f32;
        if seen {
            weight = (scores[first + column] - most).exp() / total;
        }
        out[first + column] = weight;
        column += THREADS as usize;
    }
}

/// `factor · weights · (gradient − Σ gradient · weights)` for each row.
#[cube(launch, address_type = "dynamic")]
pub fn softmax_backward(weights: &[f32], gradient: &[f32], out: &mut [f32], rows: usize, columns: usize, factor: f32) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut shared = Shared::new_slice(THREADS as usize);
    let (first, unit) = (row * columns, UNIT_POS as usize);

    let mut along = 0.0f32;
    let mut column = unit;
    while column < columns {
        along += weights[first + column] * gradient[first + column];
        column += THREADS as usize;
    }
    let along = sum(along, &mut shared);

    let mut column = unit;
    while column < columns {
        out[first + column] = weights[first + column] * (gradient[first + column] - along) * factor;
        column += THREADS as usize;
    }
}

/// For each row of logits the loss of its target in nats, and `(softmax − target) · scale`; both 0 for a negative target.
#[cube(launch, address_type = "dynamic")]
pub fn cross_entropy<F: Float>(
    logits: &[F],
    targets: &[i32],
    losses: &mut [f32],
    gradient: &mut [F],
    rows: usize,
    columns: usize,
    scale: f32,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut shared = Shared::new_slice(THREADS as usize);
    let (first, unit) = (row * columns, UNIT_POS as usize);
    let target = targets[row];

    let mut most = f32::min_value();
    let mut column = unit;
    while column < columns {
        most = max(most, f32::cast_from(logits[first + column]));
        column += THREADS as usize;
    }
    let most = largest(most, &mut shared);

    let mut total = 0.0f32;
    let mut column = unit;
    while column < columns {
        total += (f32::cast_from(logits[first + column]) - most).exp();
        column += THREADS as usize;
    }
    let total = sum(total, &mut shared);

    let counts = target >= 0;
    if unit == 0 {
        let mut loss = 0.0f32;
        if counts {
            loss = total.ln() + most - f32::cast_from(logits[first + target as usize]);
        }
        losses[row] = loss;
    }
    let mut column = unit;
    while column < columns {
        let mut change = 0.0f32;
        if counts {
            change = (f32::cast_from(logits[first + column]) - most).exp() / total;
            if column == target as usize {
                change -= 1.0f32;
            }
        }
        gradient[first + column] = F::cast_from(change * scale);
        column += THREADS as usize;
    }
}

/// `x / √(mean(x²) + ε) · weight` for each row.
#[cube(launch, address_type = "dynamic")]
pub fn rms_norm(x: &[f32], weight: &[f32], out: &mut [f32], rows: usize, columns: usize, epsilon: f32) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut shared = Shared::new_slice(THREADS as usize);
    let (first, unit) = (row * columns, UNIT_POS as usize);

    let mut squares = 0.0f32;
    let mut column = unit;
    while column < columns {
        squares += x[first + column] * x[first + column];
        column += THREADS as usize;
    }
    let rms = (sum(squares, &mut shared) / f32::cast_from(columns) + epsilon).sqrt();

    let mut column = unit;
    while column < columns {
        out[first + column] = x[first + column] / rms * weight[column];
        column += THREADS as usize;
    }
}

/// The gradient of `x` in [`rms_norm`].
#[cube(launch, address_type = "dynamic")]
pub fn rms_norm_backward(gradient: &[f32], x: &[f32], weight: &[f32], out: &mut [f32], rows: usize, columns: usize, epsilon: f32) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut shared = Shared::new_slice(THREADS as usize);
    let (first, unit) = (row * columns, UNIT_POS as usize);

    let mut squares = 0.0f32;
    let mut along = 0.0f32;
    let mut column = unit;
    while column < columns {
        let value = x[first + column];
        squares += value * value;
        along += value * gradient[first + column] * weight[column];
        column += THREADS as usize;
    }
    let count = f32::cast_from(columns);
    let rms = (sum(squares, &mut shared) / count + epsilon).sqrt();
    let along = sum(along, &mut shared) / (count * rms * rms);

    let mut column = unit;
    while column < columns {
        out[first + column] = (gradient[first + column] * weight[column] - x[first + column] * along) / rms;
        column += THREADS as usize;
    }
}
