//! Projections on weights in any float type.

use crate::matrix::{Matrix, MatrixMut, Output, matmul, matmul_here};
use crate::simd::{dot, vectorized, widened_dot};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// A matrix as it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// Single precision.
    F32(Matrix<'a, f32>),
    /// Brain floats.
    Bf16(Matrix<'a, bf16>),
    /// Half precision.
    F16(Matrix<'a, f16>),
}

impl Weight<'_> {
    /// The transposed view.
    pub fn transpose(self) -> Self {
        match self {
            Self::F32(weight) => Self::F32(weight.transpose()),
            Self::Bf16(weight) => Self::Bf16(weight.transpose()),
            Self::F16(weight) => Self::F16(weight.transpose()),
        }
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::F32(weight) => weight.dims(),
            Self::Bf16(weight) => weight.dims(),
            Self::F16(weight) => weight.dims(),
        }
    }
}

/// `out = x W + b` for `x: [n, d_in]`, `W: [d_in, d_out]` and `b: [d_out]`. The bias is where the product starts from, not another pass.
///
/// # Panics
/// If the shapes do not fit.
pub fn project_with_bias(mut out: MatrixMut, x: Matrix, weight: Weight, bias: Option<&[f32]>) {
    let mode = match bias {
        Some(bias) => {
            out.fill_rows(bias);
            Output::Add
        }
        None => Output::Replace,
    };
    project(out, mode, x, weight);
}

/// `out = x W` or `out += x W` for `x: [n, d_in]` and `W: [d_in, d_out]`.
///
/// A weight in half precision is converted by pieces that fit the cache, never as a whole.
///
/// # Panics
/// If the shapes do not fit.
pub fn project(out: MatrixMut, mode: Output, x: Matrix, weight: Weight) {
    match weight {
        Weight::F32(weight) => match x.row(0) {
            Some(row) if x.dims()[0] == 1 => project_row(out, mode, row, weight),
            _ => matmul(out, mode, x, weight, 1.0),
        },
        Weight::Bf16(weight) => project_half(out, mode, x, weight),
        Weight::F16(weight) => project_half(out, mode, x, weight),
    }
}

/// A number that weights are stored in.
trait Stored: Copy + Send + Sync {
    /// Convert `from` to single precision.
    fn load(from: &[Self], to: &mut [f32]);

    /// The product of a stored row and `x`.
    #[inline(always)]
    fn row_dot(row: &[Self], x: &[f32]) -> f32 {
        let mut buffer = [0.0; PIECE];
        let pieces = row.chunks(PIECE).zip(x.chunks(PIECE));
        pieces.fold(0.0, |total, (row, x)| {
            Self::load(row, &mut buffer[..row.len()]);
            total + dot(&buffer[..row.len()], x)
        })
    }

    /// `out += factor · row`.
    #[inline(always)]
    fn add_scaled(out: &mut [f32], factor: f32, row: &[Self]) {
        let mut buffer = [0.0; PIECE];
        for (out, row) in out.chunks_mut(PIECE).zip(row.chunks(PIECE)) {
            Self::load(row, &mut buffer[..row.len()]);
            f32::add_scaled(out, factor, &buffer[..row.len()]);
        }
    }
}

/// Numbers that are converted at a time on the stack.
const PIECE: usize = 256;

impl Stored for f32 {
    #[inline(always)]
    fn load(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn row_dot(row: &[f32], x: &[f32]) -> f32 {
        dot(row, x)
    }

    #[inline(always)]
    fn add_scaled(out: &mut [f32], factor: f32, row: &[f32]) {
        out.iter_mut().zip(row).for_each(|(out, w)| *out += factor * w);
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn load(from: &[bf16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }

    #[inline(always)]
    fn row_dot(row: &[bf16], x: &[f32]) -> f32 {
        widened_dot(row, x, |w| f32::from_bits(u32::from(w.to_bits()) << 16))
    }
}

impl Stored for f16 {
    #[inline(always)]
    fn load(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
}

/// One row times a matrix: bound by reading the matrix, so every thread streams through its own part of it.
fn project_row<T: Stored>(mut out: MatrixMut, mode: Output, x: &[f32], weight: Matrix<T>) {
    assert_eq!([x.len(), out.dims()[1]], weight.dims(), "a row of {} does not fit", x.len());
    if mode == Output::Replace {
        out.clear();
    }
    let out = out.row_mut(0);
    let [d_in, d_out] = weight.dims();
    let rows = weight.transpose();
    let each = |first: usize, out: &mut [f32]| match rows.strides()[1] {
        1 => add_dots(out, x, rows.rows(first..first + out.len())),
        _ => add_rows(out, x, weight.columns(first..first + out.len())),
    };
    // Bytes below which one thread is done before another has woken up.
    const SMALL: usize = 1 << 18;
    let threads = rayon::current_num_threads();
    if threads == 1 || d_in * d_out * size_of::<T>() < SMALL {
        return each(0, out);
    }
    let share = d_out.div_ceil(threads).next_multiple_of(8);
    out.par_chunks_mut(share).enumerate().for_each(|(index, out)| each(index * share, out));
}

vectorized! {
    /// `outᵢ += rowᵢ · x`, for the contiguous rows of a transposed weight.
    fn add_dots<T: Stored>(out: &mut [f32], x: &[f32], rows: Matrix<T>) {
        for (i, out) in out.iter_mut().enumerate() {
            if let Some(row) = rows.row(i) {
                *out += T::row_dot(row, x);
            }
        }
    }
}

vectorized! {
    /// `out += x W` for a `W` whose rows are contiguous.
    fn add_rows<T: Stored>(out: &mut [f32], x: &[f32], weight: Matrix<T>) {
        for (i, x) in x.iter().enumerate() {
            if let Some(row) = weight.row(i) {
                T::add_scaled(out, *x, row);
            }
        }
    }
}

/// The product with a weight in half precision, converted piece by piece.
fn project_half<T: Stored>(out: MatrixMut, mode: Output, x: Matrix, weight: Matrix<T>) {
    let [n, d_out] = out.dims();
    let contiguous = weight.strides()[0] == 1 || weight.strides()[1] == 1;
    match x.row(0) {
        Some(row) if n == 1 && contiguous => return project_row(out, mode, row, weight),
        _ => {}
    }
    // Columns of one piece: wide enough for the product, and at least one for every thread.
    const WIDTH: usize = 128;
    let width = WIDTH.min(d_out.div_ceil(rayon::current_num_threads()).next_multiple_of(16)).max(1);
    let mut pieces = Vec::new();
    let mut left = out;
    for first in (0..d_out).step_by(width) {
        let (piece, rest) = left.split_columns(width.min(d_out - first));
        pieces.push((first, piece));
        left = rest;
    }
    pieces.into_par_iter().for_each(|(first, out)| {
        let width = out.dims()[1];
        project_piece(out, mode, x, weight.columns(first..first + width));
    });
}

/// Convert as many rows of `weight` at a time as fit the cache, and multiply.
fn project_piece<T: Stored>(mut out: MatrixMut, mut mode: Output, x: Matrix, weight: Matrix<T>) {
    const DEPTH: usize = 512;
    let [d_in, width] = weight.dims();
    let mut buffer = vec![0.0; DEPTH.min(d_in) * width];
    if d_in == 0 && mode == Output::Replace {
        out.clear();
    }
    for first in (0..d_in).step_by(DEPTH) {
        let rows = first..(first + DEPTH).min(d_in);
        let part = weight.rows(rows.clone());
        let converted = convert(part, &mut buffer[..rows.len() * width]);
        matmul_here(out.reborrow(), mode, x.columns(rows), converted, 1.0);
        mode = Output::Add;
    }
}

/// The matrix in single precision, in `buffer`, stored in the order of the original.
fn convert<'a, T: Stored>(weight: Matrix<T>, buffer: &'a mut [f32]) -> Matrix<'a> {
    let by_columns = weight.strides()[0] == 1;
    let lines = if by_columns { weight.transpose() } else { weight };
    let [count, length] = lines.dims();
    load_lines(buffer, lines);
    let converted = Matrix::rows_of(buffer, [count, length]);
    if by_columns { converted.transpose() } else { converted }
}

vectorized! {
    fn load_lines<T: Stored>(buffer: &mut [f32], lines: Matrix<T>) {
        let [_, length] = lines.dims();
        for (i, to) in buffer.chunks_exact_mut(length).enumerate() {
            match lines.row(i) {
                Some(row) => T::load(row, to),
                None => (0..length).for_each(|j| T::load(&[lines.at(i, j)], &mut to[j..=j])),
            }
        }
    }
}

/// The output and the hidden state of a projection with a low-rank branch.
///
/// `out = x W + s · (x A) B + bias` and `hidden = x A`, for `A: [d_in, r]` and `B: [r, d_out]` (Hu et al., 2022, equation 3).
///
/// # Panics
/// If the shapes do not fit.
pub fn project_low_rank(
    mut out: MatrixMut,
    mut hidden: MatrixMut,
    x: Matrix,
    weight: Weight,
    [a, b]: [Matrix; 2],
    scale: f32,
    bias: Option<&[f32]>,
) {
    project_with_bias(out.reborrow(), x, weight, bias);
    matmul(hidden.reborrow(), Output::Replace, x, a, 1.0);
    matmul(out, Output::Add, hidden.as_matrix(), b, scale);
}

/// What [`project_low_rank`] hands back for a gradient of its output.
pub struct LowRankGradients<'a> {
    /// Of `x: [n, d_in]`.
    pub x: Option<MatrixMut<'a>>,
    /// Of `A: [d_in, r]`.
    pub a: MatrixMut<'a>,
    /// Of `B: [r, d_out]`.
    pub b: MatrixMut<'a>,
}

/// The backward pass of [`project_low_rank`]: it needs `x` and `hidden`, and never forms a gradient of `W`.
///
/// `dB = s · hiddenᵀ dy`, `dh = s · dy Bᵀ`, `dA = xᵀ dh`, `dx = dy Wᵀ + dh Aᵀ`.
///
/// # Panics
/// If the shapes do not fit.
pub fn project_low_rank_backward(
    grads: LowRankGradients,
    dy: Matrix,
    [x, hidden]: [Matrix; 2],
    weight: Weight,
    [a, b]: [Matrix; 2],
    scale: f32,
) {
    let shape = hidden.dims();
    let mut dh = vec![0.0; shape[0] * shape[1]];
    let mut dh = MatrixMut::rows_of(&mut dh, shape);
    matmul(dh.reborrow(), Output::Replace, dy, b.transpose(), scale);
    matmul(grads.b, Output::Replace, hidden.transpose(), dy, scale);
    matmul(grads.a, Output::Replace, x.transpose(), dh.as_matrix(), 1.0);
    if let Some(mut dx) = grads.x {
        project(dx.reborrow(), Output::Replace, dy, weight.transpose());
        matmul(dx, Output::Add, dh.as_matrix(), a.transpose(), 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn product(x: Matrix, w: Matrix) -> Vec<f32> {
        let dims = [x.dims()[0], w.dims()[1]];
        let mut out = vec![0.0; dims[0] * dims[1]];
        matmul_here(MatrixMut::rows_of(&mut out, dims), Output::Replace, x, w, 1.0);
        out
    }

    #[test]
    fn half_precision_is_exact_up_to_the_order_of_the_sum() {
        for (n, d_in, d_out) in [(1, 700, 300), (3, 40, 20), (70, 600, 150)] {
            let x = numbers(n * d_in, 5);
            // Multiples of 1/50 rounded to brain floats.
            let stored: Vec<bf16> = numbers(d_in * d_out, 9).into_iter().map(bf16::from_f32).collect();
            let wide: Vec<f32> = stored.iter().map(|w| w.to_f32()).collect();
            let small: Vec<f16> = wide.iter().map(|w| f16::from_f32(*w)).collect();
            let x = Matrix::rows_of(&x, [n, d_in]);
            for flip in [false, true] {
                let dims = if flip { [d_out, d_in] } else { [d_in, d_out] };
                let turn = |w: Weight<'_>| if flip { w.transpose().dims() } else { w.dims() };
                let forms = [
                    Weight::F32(Matrix::rows_of(&wide, dims)),
                    Weight::Bf16(Matrix::rows_of(&stored, dims)),
                    Weight::F16(Matrix::rows_of(&small, dims)),
                ];
                let reference = Matrix::rows_of(&wide, dims);
                let expected = product(x, if flip { reference.transpose() } else { reference });
                for form in forms {
                    assert_eq!(turn(form), [d_in, d_out]);
                    let form = if flip { form.transpose() } else { form };
                    for mode in [Output::Replace, Output::Add] {
                        let mut out = vec![2.0; n * d_out];
                        project(MatrixMut::rows_of(&mut out, [n, d_out]), mode, x, form);
                        let before = if mode == Output::Add { 2.0 } else { 0.0 };
                        for (found, expected) in out.iter().zip(&expected) {
                            assert!((found - before - expected).abs() < 1e-4 * (1.0 + expected.abs()), "{form:.0?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_low_rank_branch_is_added() {
        let (x, w, a, b) = (numbers(6, 1), numbers(12, 2), numbers(3, 3), numbers(4, 4));
        let (x, w) = (Matrix::rows_of(&x, [2, 3]), Matrix::rows_of(&w, [3, 4]));
        let (a, b) = (Matrix::rows_of(&a, [3, 1]), Matrix::rows_of(&b, [1, 4]));
        let (mut out, mut hidden) = (vec![9.0; 8], vec![9.0; 2]);
        for bias in [None, Some(&[0.5, -1.0, 2.0, 0.25][..])] {
            let hidden_out = MatrixMut::rows_of(&mut hidden, [2, 1]);
            project_low_rank(MatrixMut::rows_of(&mut out, [2, 4]), hidden_out, x, Weight::F32(w), [a, b], 0.5, bias);
            assert_eq!(hidden, product(x, a));
            let branch = product(Matrix::rows_of(&hidden, [2, 1]), b);
            for (i, ((found, base), branch)) in out.iter().zip(product(x, w)).zip(branch).enumerate() {
                let bias = bias.map_or(0.0, |bias| bias[i % 4]);
                assert!((found - base - 0.5 * branch - bias).abs() < 1e-6);
            }
        }
    }
}
