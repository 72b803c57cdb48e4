//! Operations over rows as kernels of their own on GPUs, where a sum over rows and what stands around it are many passes otherwise.
//!
//! Every function gives nothing for a tensor that is elsewhere, in a graph, or not in a type that it knows.

mod kernels;

use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Cube, backend_extension};
use burn::tensor::{DType, Int, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::{AddressType, BufferArg, Client, CubeCount, CubeDim};

/// The functions below, on the tensors of a backend.
#[backend_extension(Cube, Fusion)]
pub trait Rows: Backend {
    /// Softmax over ranges of columns.
    #[fusion(dtype = scores, shape = scores)]
    fn row_softmax(scores: FloatTensor<Self>, starts: IntTensor<Self>, ends: IntTensor<Self>, queries: usize) -> FloatTensor<Self>;

    /// The gradient of softmax.
    #[fusion(dtype = weights, shape = weights)]
    fn row_softmax_backward(weights: FloatTensor<Self>, gradient: FloatTensor<Self>, factor: f32) -> FloatTensor<Self>;

    /// Cross-entropy and its gradient.
    #[fusion(meta = loss_and_gradient)]
    fn row_cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>, scale: f32) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Root-mean-square normalisation.
    #[fusion(dtype = x, shape = x)]
    fn row_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;

    /// The gradient of what was normalised.
    #[fusion(dtype = x, shape = x)]
    fn row_rms_norm_backward(
        gradient: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
}

fn loss_and_gradient(logits: &TensorSpec, _: &TensorSpec, _: &f32) -> (TensorSpec, TensorSpec) {
    (TensorSpec::new(Shape::new([logits.shape[0]]), DType::F32), logits.clone())
}

/// Softmax of `scores: [b, heads, rows, t]` over the columns `starts[i] .. ends[i]`, 0 elsewhere. Ranges are for one batch or for all `b`,
/// and within a batch for `queries` rows, which repeat.
pub fn softmax(scores: &Tensor<4>, ranges: impl FnOnce() -> [Tensor<1, Int>; 2], queries: usize) -> Option<Tensor<4>> {
    let scores = single(scores)?;
    let [starts, ends] = ranges().map(integers);
    Some(Tensor::from_primitive::<Cube>(Cube::row_softmax(scores, starts?, ends?, queries)))
}

/// `factor · weights · (gradient − Σ gradient · weights)`: what `factor · scores` gets from the gradient of their softmax.
pub fn softmax_backward(weights: &Tensor<4>, gradient: &Tensor<4>, factor: f32) -> Option<Tensor<4>> {
    Some(Tensor::from_primitive::<Cube>(Cube::row_softmax_backward(single(weights)?, single(gradient)?, factor)))
}

/// For `logits: [n, vocabulary]` in any float type the loss of each row, `[n]` in f32, and `scale · (softmax − target)` in the type of the
/// logits; both 0 for a negative target.
pub fn cross_entropy(logits: &Tensor<2>, targets: impl FnOnce() -> Tensor<1, Int>, scale: f32) -> Option<(Tensor<1>, Tensor<2>)> {
    let logits = logits.clone().try_into_primitive::<Cube>().ok()?;
    let (losses, gradient) = Cube::row_cross_entropy(logits, integers(targets())?, scale);
    Some((Tensor::from_primitive::<Cube>(losses), Tensor::from_primitive::<Cube>(gradient)))
}

/// `x / √(mean(x²) + ε) · weight`.
pub fn rms_norm<const D: usize>(x: &Tensor<D>, weight: &Tensor<1>, epsilon: f64) -> Option<Tensor<D>> {
    Some(Tensor::from_primitive::<Cube>(Cube::row_rms_norm(single(x)?, single(weight)?, epsilon as f32)))
}

/// The gradient of `x` there.
pub fn rms_norm_backward<const D: usize>(gradient: &Tensor<D>, x: &Tensor<D>, weight: &Tensor<1>, epsilon: f64) -> Option<Tensor<D>> {
    let dx = Cube::row_rms_norm_backward(single(gradient)?, single(x)?, single(weight)?, epsilon as f32);
    Some(Tensor::from_primitive::<Cube>(dx))
}

fn single<const D: usize>(tensor: &Tensor<D>) -> Option<FloatTensor<Cube>> {
    (tensor.dtype() == DType::F32).then(|| tensor.clone().try_into_primitive::<Cube>().ok()).flatten()
}

fn integers(tensor: Tensor<1, Int>) -> Option<IntTensor<Cube>> {
    tensor.cast(DType::I32).try_into_primitive::<Cube>().ok()
}

impl Rows for CubeBackend {
    fn row_softmax(scores: CubeTensor, starts: CubeTensor, ends: CubeTensor, queries: usize) -> CubeTensor {
        let (matrix, batch) = (scores.meta.shape()[1] * scores.meta.shape()[2], starts.meta.shape()[0] / queries);
        let (Grid { client, cubes, address, size: [rows, columns] }, out) = (Grid::over(&scores), like(&scores));
        let [scores, starts, ends, written] = [scores, starts, ends, out.clone()].map(buffer);
        kernels::softmax::launch(&client, cubes, threads(), address, scores, starts, ends, written, rows, columns, matrix, batch, queries);
        out
    }

    fn row_softmax_backward(weights: CubeTensor, gradient: CubeTensor, factor: f32) -> CubeTensor {
        let (Grid { client, cubes, address, size: [rows, columns] }, out) = (Grid::over(&weights), like(&weights));
        let [weights, gradient, written] = [weights, gradient, out.clone()].map(buffer);
        kernels::softmax_backward::launch(&client, cubes, threads(), address, weights, gradient, written, rows, columns, factor);
        out
    }

    fn row_cross_entropy(logits: CubeTensor, targets: CubeTensor, scale: f32) -> (CubeTensor, CubeTensor) {
        let (Grid { client, cubes, address, size: [rows, columns] }, gradient) = (Grid::over(&logits), like(&logits));
        let losses = empty_device_contiguous_dtype(client.clone(), logits.device.clone(), Shape::new([rows]), DType::F32);
        let element = dtype_to_storage_type(logits.dtype);
        let [logits, targets, lost, written] = [logits, targets, losses.clone(), gradient.clone()].map(buffer);
        kernels::cross_entropy::launch(&client, cubes, threads(), address, logits, targets, lost, written, rows, columns, scale, element);
        (losses, gradient)
    }

    fn row_rms_norm(x: CubeTensor, weight: CubeTensor, epsilon: f32) -> CubeTensor {
        let (Grid { client, cubes, address, size: [rows, columns] }, out) = (Grid::over(&x), like(&x));
        let [x, weight, written] = [x, weight, out.clone()].map(buffer);
        kernels::rms_norm::launch(&client, cubes, threads(), address, x, weight, written, rows, columns, epsilon);
        out
    }

    fn row_rms_norm_backward(gradient: CubeTensor, x: CubeTensor, weight: CubeTensor, epsilon: f32) -> CubeTensor {
        let (Grid { client, cubes, address, size: [rows, columns] }, out) = (Grid::over(&x), like(&x));
        let [gradient, x, weight, written] = [gradient, x, weight, out.clone()].map(buffer);
        kernels::rms_norm_backward::launch(&client, cubes, threads(), address, gradient, x, weight, written, rows, columns, epsilon);
        out
    }
}

/// How a kernel runs over the rows of a tensor.
struct Grid {
    client: Client,
    /// One for each row, and some that find nothing to do.
    cubes: CubeCount,
    address: AddressType,
    /// Rows and columns.
    size: [usize; 2],
}

impl Grid {
    fn over(tensor: &CubeTensor) -> Self {
        // A dimension of the grid holds 65535 cubes at least.
        const LINE: usize = 32768;
        let shape = tensor.meta.shape();
        let columns = shape.last().copied().unwrap_or(1);
        let rows = shape.num_elements() / columns.max(1);
        let cubes = CubeCount::Static(rows.min(LINE) as u32, rows.div_ceil(LINE) as u32, 1);
        Self { client: tensor.client.clone(), cubes, address: tensor.required_address_type(), size: [rows, columns] }
    }
}

fn threads() -> CubeDim {
    CubeDim::new_1d(kernels::THREADS)
}

/// Memory for a result of this shape and type.
fn like(tensor: &CubeTensor) -> CubeTensor {
    empty_device_contiguous_dtype(tensor.client.clone(), tensor.device.clone(), tensor.meta.shape().clone(), tensor.dtype)
}

fn buffer(tensor: CubeTensor) -> BufferArg {
    into_contiguous(tensor).into_buffer_arg()
}
