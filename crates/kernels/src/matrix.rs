//! Views of matrices in memory, and their product.

use gemm::{Parallelism, gemm};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// A matrix somewhere in a slice: element `(i, j)` stands at `i · strides[0] + j · strides[1]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T = f32> {
    data: &'a [T],
    dims: [usize; 2],
    strides: [usize; 2],
}

impl<'a, T> Matrix<'a, T> {
    /// A view of `data`.
    ///
    /// # Panics
    /// If an element would stand outside `data`.
    pub fn new(data: &'a [T], dims: [usize; 2], strides: [usize; 2]) -> Self {
        assert!(fits(dims, strides, data.len()), "a matrix {dims:?} with strides {strides:?} needs more than {} elements", data.len());
        Self { data, dims, strides }
    }

    /// Rows one after the other.
    ///
    /// # Panics
    /// If `data` is shorter than the matrix.
    pub fn rows_of(data: &'a [T], dims: [usize; 2]) -> Self {
        Self::new(data, dims, [dims[1], 1])
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        self.dims
    }

    /// Distances in memory from row to row and from column to column.
    pub fn strides(&self) -> [usize; 2] {
        self.strides
    }

    /// The transposed view.
    pub fn transpose(self) -> Self {
        let ([rows, columns], [down, right]) = (self.dims, self.strides);
        Self { dims: [columns, rows], strides: [right, down], ..self }
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn rows(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.dims[0], "rows {rows:?} of {}", self.dims[0]);
        let start = (rows.start * self.strides[0]).min(self.data.len());
        Self { data: &self.data[start..], dims: [rows.len(), self.dims[1]], ..self }
    }

    /// Some of the columns.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn columns(self, columns: Range<usize>) -> Self {
        self.transpose().rows(columns).transpose()
    }

    /// Element `(i, j)`.
    ///
    /// # Panics
    /// If there is none.
    pub fn at(&self, i: usize, j: usize) -> T
    where
        T: Copy,
    {
        assert!(i < self.dims[0] && j < self.dims[1]);
        self.data[i * self.strides[0] + j * self.strides[1]]
    }

    /// Row `i`, if its elements stand one after the other.
    pub fn row(&self, i: usize) -> Option<&'a [T]> {
        let start = i * self.strides[0];
        (self.strides[1] == 1 || self.dims[1] <= 1).then(|| &self.data[start..start + self.dims[1]])
    }
}

/// A matrix to write to, its rows contiguous.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    // A pointer, so that a matrix can be cut between columns.
    data: *mut f32,
    dims: [usize; 2],
    stride: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is an exclusive borrow of the elements of its rows, like `&mut [f32]`.
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// A view of `data` whose rows are `stride` elements apart.
    ///
    /// # Panics
    /// If rows would overlap or stand outside `data`.
    pub fn new(data: &'a mut [f32], dims: [usize; 2], stride: usize) -> Self {
        assert!(fits(dims, [stride, 1], data.len()) && stride >= dims[1], "a matrix {dims:?} with stride {stride} in {}", data.len());
        Self { data: data.as_mut_ptr(), dims, stride, lifetime: PhantomData }
    }

    /// Rows one after the other.
    ///
    /// # Panics
    /// If `data` is shorter than the matrix.
    pub fn rows_of(data: &'a mut [f32], dims: [usize; 2]) -> Self {
        Self::new(data, dims, dims[1])
    }

    /// Rows one after the other in memory without values, which saves writing zeros that a product then replaces.
    ///
    /// # Safety
    /// Every element must be written, by [`fill_rows`](Self::fill_rows) or a product with [`Output::Replace`], before anything reads it.
    ///
    /// # Panics
    /// If `data` is shorter than the matrix.
    pub unsafe fn uninitialized(data: &'a mut [MaybeUninit<f32>], dims: [usize; 2]) -> Self {
        assert!(dims[0] * dims[1] <= data.len(), "a matrix {dims:?} in {}", data.len());
        Self { data: data.as_mut_ptr().cast(), dims, stride: dims[1], lifetime: PhantomData }
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        self.dims
    }

    /// The same matrix for a shorter time.
    pub fn reborrow(&mut self) -> MatrixMut<'_> {
        MatrixMut { data: self.data, dims: self.dims, stride: self.stride, lifetime: PhantomData }
    }

    /// Set every element to zero.
    pub fn clear(&mut self) {
        for i in 0..self.dims[0] {
            // SAFETY: the row lies within the exclusive borrow, and writing needs no earlier value.
            unsafe { self.data.add(i * self.stride).write_bytes(0, self.dims[1]) };
        }
    }

    /// Set every row to `row`.
    ///
    /// # Panics
    /// If `row` has another length than the rows.
    pub fn fill_rows(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.dims[1], "a row of {} elements for rows of {}", row.len(), self.dims[1]);
        for i in 0..self.dims[0] {
            // SAFETY: the row lies within the exclusive borrow, `row` is elsewhere, and writing needs no earlier value.
            unsafe { self.data.add(i * self.stride).copy_from_nonoverlapping(row.as_ptr(), row.len()) };
        }
    }

    /// The matrix to read.
    ///
    /// # Panics
    /// If there are gaps between its rows: another part of the same matrix may lie there.
    pub fn as_matrix(&self) -> Matrix<'_> {
        let [rows, columns] = self.dims;
        assert!(rows <= 1 || self.stride == columns, "rows of {columns} are {} apart", self.stride);
        // SAFETY: these are the elements of the exclusive borrow, without others between them, and writing needs `self` exclusively.
        let data = unsafe { std::slice::from_raw_parts(self.data, rows * columns) };
        Matrix::rows_of(data, self.dims)
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is none.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.dims[0]);
        // SAFETY: the row lies within the borrow, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.dims[1]) }
    }

    /// The rows before `at` and those from there.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_rows(self, at: usize) -> (Self, Self) {
        assert!(at <= self.dims[0]);
        let [rows, columns] = self.dims;
        // Of an empty second part the pointer is never followed.
        let second = self.data.wrapping_add(at * self.stride);
        (Self { dims: [at, columns], ..self }, Self { data: second, dims: [rows - at, columns], ..self })
    }

    /// The columns before `at` and those from there.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_columns(self, at: usize) -> (Self, Self) {
        assert!(at <= self.dims[1]);
        let [rows, columns] = self.dims;
        let second = self.data.wrapping_add(at);
        (Self { dims: [rows, at], ..self }, Self { data: second, dims: [rows, columns - at], ..self })
    }
}

fn fits([rows, columns]: [usize; 2], strides: [usize; 2], len: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * strides[0] + (columns - 1) * strides[1] < len
}

/// What becomes of the values that an output has before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// They are overwritten, and need not be initialised to anything in particular.
    Replace,
    /// The result is added to them.
    Add,
}

/// `out = scale · a b`, or `out += scale · a b`, by all threads.
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul(out: MatrixMut, mode: Output, a: Matrix, b: Matrix, scale: f32) {
    check(&out, a, b);
    let [m, n] = out.dims();
    // Small enough that cutting the problem costs more than it saves.
    const SMALL: usize = 64 * 64 * 64;
    let threads = if m * n * a.dims()[1] <= SMALL { 1 } else { rayon::current_num_threads() };
    shared(out, mode, a, b, scale, threads);
}

/// The same by this thread alone.
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul_here(out: MatrixMut, mode: Output, a: Matrix, b: Matrix, scale: f32) {
    check(&out, a, b);
    let [m, n] = out.dims();
    let k = a.dims()[1];
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 && mode == Output::Replace {
        let mut out = out;
        return out.clear();
    }
    let stride = |stride: usize| stride as isize;
    // SAFETY: both views keep every element within their slices, the output is borrowed exclusively, and the shapes were checked.
    unsafe {
        gemm(
            m,
            n,
            k,
            out.data,
            1,
            stride(out.stride),
            mode == Output::Add,
            a.data.as_ptr(),
            stride(a.strides[1]),
            stride(a.strides[0]),
            b.data.as_ptr(),
            stride(b.strides[1]),
            stride(b.strides[0]),
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

fn check(out: &MatrixMut, a: Matrix, b: Matrix) {
    let ([m, n], [am, ak], [bk, bn]) = (out.dims(), a.dims(), b.dims());
    assert!(m == am && n == bn && ak == bk, "[{am}, {ak}] · [{bk}, {bn}] does not give [{m}, {n}]");
}

/// Cut the longer side of the output in two until there is a part for every thread.
fn shared(out: MatrixMut, mode: Output, a: Matrix, b: Matrix, scale: f32, threads: usize) {
    let [m, n] = out.dims();
    // Narrower than this, a part leaves registers empty.
    const LEAST: usize = 32;
    if threads <= 1 || m.max(n) < 2 * LEAST {
        return matmul_here(out, mode, a, b, scale);
    }
    let first = threads / 2;
    let cut = |length: usize| (length * first / threads).next_multiple_of(LEAST / 2).min(length);
    if n >= m {
        let at = cut(n);
        let (left, right) = out.split_columns(at);
        rayon::join(
            || shared(left, mode, a, b.columns(0..at), scale, first),
            || shared(right, mode, a, b.columns(at..n), scale, threads - first),
        );
    } else {
        let at = cut(m);
        let (top, bottom) = out.split_rows(at);
        rayon::join(
            || shared(top, mode, a.rows(0..at), b, scale, first),
            || shared(bottom, mode, a.rows(at..m), b, scale, threads - first),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn naive(a: Matrix, b: Matrix) -> Vec<f64> {
        let at = |m: &Matrix, i: usize, j: usize| f64::from(m.data[i * m.strides[0] + j * m.strides[1]]);
        let ([rows, k], [_, columns]) = (a.dims(), b.dims());
        let element = |i, j| (0..k).map(|l| at(&a, i, l) * at(&b, l, j)).sum();
        (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| element(i, j)).collect()
    }

    #[test]
    fn products_of_any_layout_agree_with_the_definition() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (70, 33, 129), (200, 7, 65), (65, 300, 40)] {
            let (a, b) = (numbers(m * k), numbers(k * n));
            for (a, b) in [
                (Matrix::rows_of(&a, [m, k]), Matrix::rows_of(&b, [k, n])),
                (Matrix::rows_of(&a, [k, m]).transpose(), Matrix::rows_of(&b, [n, k]).transpose()),
            ] {
                let mut out = vec![1.0; m * n];
                matmul(MatrixMut::rows_of(&mut out, [m, n]), Output::Add, a, b, 0.5);
                let expected = naive(a, b).into_iter().map(|value| 1.0 + 0.5 * value);
                for (found, expected) in out.iter().zip(expected) {
                    assert!((f64::from(*found) - expected).abs() < 1e-4, "{m}x{k}x{n}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn replacing_ignores_what_was_there() {
        let mut out = vec![f32::NAN; 4];
        let a = [1.0, 2.0];
        matmul(MatrixMut::rows_of(&mut out, [2, 2]), Output::Replace, Matrix::rows_of(&a, [2, 1]), Matrix::rows_of(&a, [1, 2]), 1.0);
        assert_eq!(out, [1.0, 2.0, 2.0, 4.0]);
    }

    #[test]
    #[should_panic(expected = "rows of 1 are 3 apart")]
    fn a_part_between_columns_is_not_read_as_a_whole() {
        let mut data = [0.0; 6];
        let (left, _right) = MatrixMut::rows_of(&mut data, [2, 3]).split_columns(1);
        left.as_matrix();
    }

    #[test]
    #[should_panic(expected = "does not give")]
    fn shapes_that_do_not_fit_are_refused() {
        let a = [0.0; 6];
        let mut out = [0.0; 4];
        matmul(MatrixMut::rows_of(&mut out, [2, 2]), Output::Replace, Matrix::rows_of(&a, [2, 3]), Matrix::rows_of(&a, [2, 3]), 1.0);
    }

    #[test]
    #[should_panic(expected = "needs more than 6 elements")]
    fn a_view_beyond_its_slice_is_refused() {
        Matrix::new(&[0.0; 6], [2, 3], [4, 1]);
    }
}
