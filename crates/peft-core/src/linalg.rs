//! Decompositions on the host, through faer in f32 (as HF PEFT computes them) or f64.

use crate::{Error, Result};
use burn::tensor::{DType, Device, Tensor, TensorData};
use faer::{Mat, MatRef};
use rand_chacha::ChaCha8Rng;

/// A singular value decomposition `U · diag(s) · Vᵀ`, truncated to `k` components, largest first.
pub struct Svd {
    /// Left singular vectors, `[m, k]`.
    pub u: Tensor<2>,
    /// Singular values, `[k]`.
    pub s: Tensor<1>,
    /// Right singular vectors transposed, `[k, n]`.
    pub vt: Tensor<2>,
}

/// The `k` largest components of the decomposition of `matrix: [m, n]`.
///
/// # Errors
/// [`Error::NonFinite`] if the matrix is not finite or the iteration does not converge.
pub fn svd(matrix: Tensor<2>, k: usize) -> Result<Svd> {
    let device = matrix.device();
    let a = to_host(matrix);
    let svd = a.thin_svd().map_err(|_| Error::NonFinite { what: "singular value decomposition".into() })?;
    truncated(svd.U(), svd.S().column_vector().iter().copied().collect(), svd.V(), k, &device)
}

/// Like [`svd`] by randomised range finding with `iterations` subspace iterations (Halko, Martinsson and Tropp 2011, algorithm 4.4),
/// for `k` much smaller than the matrix.
///
/// # Errors
/// As [`svd`].
pub fn randomized_svd(matrix: Tensor<2>, k: usize, iterations: usize, rng: &mut ChaCha8Rng) -> Result<Svd> {
    const OVERSAMPLING: usize = 10;
    let device = matrix.device();
    let [m, n] = matrix.dims();
    let width = (k + OVERSAMPLING).min(m).min(n);
    let a = to_host(matrix);
    let probe = to_host(crate::seed::normal([n, width], 1.0, rng, &device.clone().without_autodiff()));
    let mut q = basis(&(&a * &probe));
    for _ in 0..iterations {
        let z = basis(&(a.transpose() * &q));
        q = basis(&(&a * &z));
    }
    let small = q.transpose() * &a;
    let svd = small.thin_svd().map_err(|_| Error::NonFinite { what: "singular value decomposition".into() })?;
    let u = &q * svd.U();
    truncated(u.as_ref(), svd.S().column_vector().iter().copied().collect(), svd.V(), k, &device)
}

/// The `k` largest components of the product of `left: [m, r]` and `right: [r, n]`, which is not formed: the cost is that of two
/// decompositions of thin matrices and one of a square of `r`.
///
/// # Errors
/// As [`svd`].
pub fn product_svd(left: Tensor<2>, right: Tensor<2>, k: usize) -> Result<Svd> {
    let device = left.device();
    let (left, right) = (to_host(left).qr(), to_host(right).transpose().qr());
    let core = left.thin_R() * right.thin_R().transpose();
    let svd = core.thin_svd().map_err(|_| Error::NonFinite { what: "singular value decomposition".into() })?;
    let (u, v) = (left.compute_thin_Q() * svd.U(), right.compute_thin_Q() * svd.V());
    truncated(u.as_ref(), svd.S().column_vector().iter().copied().collect(), v.as_ref(), k, &device)
}

fn truncated(u: MatRef<f32>, s: Vec<f32>, v: MatRef<f32>, k: usize, device: &Device) -> Result<Svd> {
    let k = k.min(s.len());
    if s.iter().any(|value| !value.is_finite()) {
        return Err(Error::NonFinite { what: "singular value decomposition".into() });
    }
    Ok(Svd {
        u: to_device(u.subcols(0, k), device),
        s: Tensor::from_data(TensorData::new(s[..k].to_vec(), [k]), device),
        vt: to_device(v.subcols(0, k).transpose(), device),
    })
}

/// An orthonormal basis of the columns of `matrix: [m, k]`, one column after the other, `[m, k]` for `k ≤ m`.
///
/// # Errors
/// [`Error::NonFinite`] if the matrix is not finite.
pub fn orthonormal(matrix: Tensor<2>) -> Result<Tensor<2>> {
    let device = matrix.device();
    let basis = basis(&to_host(matrix));
    match (0..basis.ncols()).all(|j| basis.col(j).iter().all(|x| x.is_finite())) {
        true => Ok(to_device(basis.as_ref(), &device)),
        false => Err(Error::NonFinite { what: "orthonormal basis".into() }),
    }
}

fn basis(matrix: &Mat<f32>) -> Mat<f32> {
    matrix.qr().compute_thin_Q()
}

fn to_host(matrix: Tensor<2>) -> Mat<f32> {
    let [rows, columns] = matrix.dims();
    let values: Vec<f32> = crate::adapter::as_type(matrix, DType::F32).into_data().try_into_vec().expect("cast to f32 above");
    Mat::from_fn(rows, columns, |i, j| values[i * columns + j])
}

fn to_device(matrix: MatRef<f32>, device: &Device) -> Tensor<2> {
    let (rows, columns) = matrix.shape();
    let values: Vec<f32> = (0..rows).flat_map(|i| (0..columns).map(move |j| matrix[(i, j)])).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;

    fn rebuilt(svd: Svd) -> Tensor<2> {
        let s: Tensor<2> = svd.s.unsqueeze();
        (svd.u * s).matmul(svd.vt)
    }

    fn distance(a: Tensor<2>, b: Tensor<2>) -> f32 {
        (a - b).abs().max().into_scalar::<f32>()
    }

    #[test]
    fn all_components_rebuild_the_matrix() {
        let device = crate::device::host();
        for shape in [[7, 4], [4, 7]] {
            let a = seed::normal(shape, 1.0, &mut seed::rng(0, "a"), &device);
            assert!(distance(rebuilt(svd(a.clone(), 4).unwrap()), a) < 1e-5);
        }
    }

    #[test]
    fn randomized_components_agree_with_exact_ones_on_a_decaying_spectrum() {
        let device = crate::device::host();
        let rng = &mut seed::rng(0, "b");
        let left = seed::normal([60, 6], 1.0, rng, &device);
        let scale: Tensor<2> = Tensor::<1>::from_floats([32.0, 16.0, 8.0, 4.0, 2.0, 1.0], &device).unsqueeze();
        let a = (left * scale).matmul(seed::normal([6, 50], 1.0, rng, &device));
        let exact = rebuilt(svd(a.clone(), 3).unwrap());
        let approximate = rebuilt(randomized_svd(a, 3, 4, rng).unwrap());
        let size = exact.clone().abs().max().into_scalar::<f32>();
        assert!(distance(exact, approximate) < 1e-4 * size);
    }

    #[test]
    fn components_of_a_product_are_those_of_the_matrix_it_is() {
        let device = crate::device::host();
        let rng = &mut seed::rng(0, "c");
        // Thin factors, and factors wider than the matrix is.
        for (m, r, n) in [(40, 3, 20), (5, 9, 30), (30, 12, 4)] {
            let (left, right) = (seed::normal([m, r], 1.0, rng, &device), seed::normal([r, n], 1.0, rng, &device));
            for k in [2, 3] {
                let expected = rebuilt(svd(left.clone().matmul(right.clone()), k).unwrap());
                let found = rebuilt(product_svd(left.clone(), right.clone(), k).unwrap());
                assert!(distance(found, expected) < 1e-4, "{m} {r} {n}");
            }
        }
        let bad = Tensor::<2>::from_floats([[f32::NAN], [1.0]], &device);
        assert!(matches!(product_svd(bad.clone(), bad.transpose(), 1), Err(Error::NonFinite { .. })));
    }

    #[test]
    fn a_matrix_with_nan_is_an_error() {
        let a = Tensor::<2>::from_floats([[f32::NAN, 1.0], [0.0, 1.0]], &crate::device::host());
        assert!(matches!(svd(a, 1), Err(Error::NonFinite { .. })));
    }
}
