//! From tensors on the CPU to slices for the kernels, and back.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape, Tensor, bf16, f16};
use peft_kernels::attention::Heads;
use peft_kernels::{Matrix, MatrixMut, Weight};

/// A float tensor on the CPU; nothing for one elsewhere or in a graph.
pub struct Cpu(FlexTensor);

impl Cpu {
    /// The tensor as it is stored.
    pub fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        tensor.clone().try_into_primitive::<Flex>().ok().map(Self)
    }

    /// The tensor, if it is in single precision, its elements in order and without gaps.
    pub fn contiguous<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        let Self(tensor) = Self::single(tensor)?;
        let whole = tensor.layout().contiguous_offsets().is_some();
        Some(Self(if whole { tensor } else { tensor.to_contiguous() }))
    }

    /// The tensor, if it is in single precision, with no stride below zero.
    pub fn single<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        let Self(tensor) = Self::of(tensor)?;
        let backwards = tensor.layout().strides().iter().any(|stride| *stride < 0);
        (tensor.dtype() == DType::F32).then(|| Self(if backwards { tensor.to_contiguous() } else { tensor }))
    }

    /// The same with its last dimension contiguous.
    pub fn lined<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        let Self(tensor) = Self::single(tensor)?;
        let lined = tensor.layout().strides().last() == Some(&1);
        Some(Self(if lined { tensor } else { tensor.to_contiguous() }))
    }

    /// All elements in order; for a tensor from [`contiguous`](Self::contiguous).
    pub fn slice(&self) -> &[f32] {
        let (start, end) = self.0.layout().contiguous_offsets().expect("made contiguous");
        &self.0.storage::<f32>()[start..end]
    }

    /// A matrix view; for a tensor from [`single`](Self::single).
    pub fn matrix(&self) -> Matrix<'_> {
        view(self.0.storage::<f32>(), self.0.layout())
    }

    /// A weight in its own type; nothing for quantised and double-precision ones.
    pub fn weight(&self) -> Option<Weight<'_>> {
        if self.0.layout().strides().iter().any(|stride| *stride < 0) {
            return None;
        }
        let Self(tensor) = self;
        match tensor.dtype() {
            DType::F32 => Some(Weight::F32(view(tensor.storage::<f32>(), tensor.layout()))),
            DType::BF16 => Some(Weight::Bf16(view(tensor.storage::<bf16>(), tensor.layout()))),
            DType::F16 => Some(Weight::F16(view(tensor.storage::<f16>(), tensor.layout()))),
            _ => None,
        }
    }

    /// Heads; for a tensor `[b, heads, positions, hd]` from [`lined`](Self::lined).
    pub fn heads(&self) -> Heads<'_> {
        let layout = self.0.layout();
        let data = &self.0.storage::<f32>()[layout.start_offset()..];
        let (dims, strides) = (layout.shape(), layout.strides());
        Heads::new(data, [0, 1, 2, 3].map(|i| dims[i]), [0, 1, 2].map(|i| strides[i] as usize))
    }
}

fn view<'a, T>(storage: &'a [T], layout: &Layout) -> Matrix<'a, T> {
    let (dims, strides) = (layout.shape(), layout.strides());
    Matrix::new(&storage[layout.start_offset()..], [dims[0], dims[1]], [strides[0] as usize, strides[1] as usize])
}

/// A tensor that a kernel fills.
pub fn filled<const D: usize>(shape: [usize; D], fill: impl FnOnce(&mut [f32])) -> Tensor<D> {
    let mut data = zeros(shape);
    fill(&mut data);
    tensor(data, shape)
}

/// A matrix that a product writes.
///
/// # Safety
/// `fill` must write every element, by a product with `Output::Replace`, before it reads any.
pub unsafe fn product(dims: [usize; 2], fill: impl FnOnce(MatrixMut)) -> Tensor<2> {
    let length = dims[0] * dims[1];
    let mut data = Vec::with_capacity(length);
    // SAFETY: the caller's promise.
    fill(unsafe { MatrixMut::uninitialized(data.spare_capacity_mut(), dims) });
    // SAFETY: there is room, and the caller has written the elements.
    unsafe { data.set_len(length) };
    tensor(data, dims)
}

/// Memory for a tensor.
pub fn zeros<const D: usize>(shape: [usize; D]) -> Vec<f32> {
    vec![0.0; shape.iter().product()]
}

/// The tensor with these elements.
pub fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    let layout = Layout::contiguous(Shape::from(shape));
    Tensor::from_primitive::<Flex>(FlexTensor::new(Bytes::from_elems(data), layout, DType::F32))
}
