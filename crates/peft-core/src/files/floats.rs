//! Bytes of a file to numbers and back, for the floating-point types that a tensor can be trained in.

use burn::tensor::{DType, TensorData, bf16, f16};
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;

// Tensors are copied byte for byte between file and memory, and files are little-endian.
const _: () = assert!(cfg!(target_endian = "little"), "burn-peft needs a little-endian machine");

/// Numbers converted at a time: small enough for the first-level cache.
const BLOCK: usize = 2048;

/// What to say where another type was asked for or found.
pub(super) const FLOATS: &str = "f32, f16 or bf16";

/// A floating-point type that both the file format and Burn have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Float {
    F64,
    F32,
    F16,
    BF16,
}

impl Float {
    pub fn from_file(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    pub fn from_burn(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F64 => Some(Self::F64),
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    pub fn file(self) -> Dtype {
        match self {
            Self::F64 => Dtype::F64,
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
        }
    }

    pub fn burn(self) -> DType {
        match self {
            Self::F64 => DType::F64,
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }
}

/// The numbers in `bytes` as f32.
pub(super) fn to_f32(bytes: &[u8], from: Float) -> Vec<f32> {
    if from == Float::F32 {
        return read(bytes, f32::from_le_bytes);
    }
    let mut numbers = Vec::with_capacity(bytes.len() / from.burn().size());
    f32_blocks(bytes, from, |block| numbers.extend_from_slice(block));
    numbers
}

/// Fills `numbers` with those in `bytes`, which must hold as many.
pub(super) fn read_f32s(bytes: &[u8], from: Float, numbers: &mut [f32]) {
    let mut rest = numbers;
    f32_blocks(bytes, from, |block| {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(block.len());
        head.copy_from_slice(block);
        rest = tail;
    });
}

/// What to call `tensor` where one of its numbers is beyond the largest of type `dtype`.
pub(super) fn rounded(tensor: &str, dtype: Dtype) -> String {
    let largest = match dtype {
        Dtype::F16 => ", whose largest number is 65504",
        _ => "",
    };
    format!("{tensor}, rounded to {dtype}{largest}")
}

/// Whether two tensors of as many numbers hold the same, which need not be the same bytes: zeros have signs, and types differ.
pub(super) fn are_equal((a, from): (&[u8], Float), (b, other_from): (&[u8], Float)) -> bool {
    let (mut ours, mut theirs) = ([0f32; BLOCK], [0f32; BLOCK]);
    let blocks = a.chunks(BLOCK * from.burn().size()).zip(b.chunks(BLOCK * other_from.burn().size()));
    blocks.into_iter().all(|(a, b)| {
        let count = a.len() / from.burn().size();
        decode_block(a, from, &mut ours[..count]);
        decode_block(b, other_from, &mut theirs[..count]);
        ours[..count] == theirs[..count]
    })
}

/// `numbers` as little-endian bytes of type `to`, rounded to the nearest even; nothing if that is not f64, f32, f16 or bf16.
pub fn float_bytes(numbers: &[f32], to: Dtype) -> Option<Vec<u8>> {
    fn write<T: Copy, const N: usize>(numbers: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        let mut out = vec![0; numbers.len() * N];
        out.as_chunks_mut::<N>().0.iter_mut().zip(numbers).for_each(|(out, number)| *out = bytes(*number));
        out
    }
    Some(match Float::from_file(to)? {
        Float::F64 => write(numbers, |x| f64::from(x).to_le_bytes()),
        Float::F32 => write(numbers, f32::to_le_bytes),
        Float::F16 => {
            let mut halves = vec![f16::ZERO; numbers.len()];
            halves.convert_from_f32_slice(numbers);
            write(&halves, f16::to_le_bytes)
        }
        Float::BF16 => {
            let mut halves = vec![bf16::ZERO; numbers.len()];
            halves.convert_from_f32_slice(numbers);
            write(&halves, bf16::to_le_bytes)
        }
    })
}

/// The numbers in `bytes` as Burn data of type `to`; the one copy between file and device.
///
/// Between different types the numbers pass through f32, as they do in torch. `bytes` must hold as many numbers as `shape`.
pub(super) fn tensor_data<const D: usize>(bytes: &[u8], from: Float, to: Float, shape: [usize; D]) -> TensorData {
    // Typed vectors rather than raw bytes: Burn re-allocates bytes that lack the alignment of their elements.
    match (from, to) {
        (Float::F64, Float::F64) => TensorData::new(read(bytes, f64::from_le_bytes), shape),
        (Float::F16, Float::F16) => TensorData::new(read(bytes, f16::from_le_bytes), shape),
        (Float::BF16, Float::BF16) => TensorData::new(read(bytes, bf16::from_le_bytes), shape),
        (_, Float::F32) => TensorData::new(to_f32(bytes, from), shape),
        (_, Float::F64) => {
            let mut numbers: Vec<f64> = Vec::with_capacity(bytes.len() / from.burn().size());
            f32_blocks(bytes, from, |block| numbers.extend(block.iter().copied().map(f64::from)));
            TensorData::new(numbers, shape)
        }
        (_, Float::F16) => TensorData::new(to_half::<f16>(bytes, from, f16::ZERO), shape),
        (_, Float::BF16) => TensorData::new(to_half::<bf16>(bytes, from, bf16::ZERO), shape),
    }
}

fn to_half<H: Copy>(bytes: &[u8], from: Float, zero: H) -> Vec<H>
where
    [H]: HalfFloatSliceExt,
{
    let mut numbers = vec![zero; bytes.len() / from.burn().size()];
    let mut rest = numbers.as_mut_slice();
    f32_blocks(bytes, from, |block| {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(block.len());
        head.convert_from_f32_slice(block);
        rest = tail;
    });
    numbers
}

fn read<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|b| number(*b)).collect()
}

fn fill<const N: usize, T>(numbers: &mut [T], bytes: &[u8], number: impl Fn([u8; N]) -> T) {
    for (n, b) in numbers.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *n = number(*b);
    }
}

/// Hands the numbers in `bytes` to `sink`, a block at a time and in order.
fn f32_blocks(bytes: &[u8], from: Float, mut sink: impl FnMut(&[f32])) {
    let mut block = [0f32; BLOCK];
    let size = from.burn().size();
    for chunk in bytes.chunks(BLOCK * size) {
        let block = &mut block[..chunk.len() / size];
        decode_block(chunk, from, block);
        sink(block);
    }
}

/// At most [`BLOCK`] numbers.
fn decode_block(bytes: &[u8], from: Float, block: &mut [f32]) {
    match from {
        Float::F64 => fill(block, bytes, |b| f64::from_le_bytes(b) as f32),
        Float::F32 => fill(block, bytes, f32::from_le_bytes),
        Float::BF16 => fill(block, bytes, |b| bf16::from_le_bytes(b).to_f32()),
        // Only the conversion of whole slices uses the processor's f16 instructions without asking for each number.
        Float::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            let halves = &mut halves[..block.len()];
            fill(halves, bytes, f16::from_le_bytes);
            halves.convert_to_f32_slice(block);
        }
    }
}

/// Reads the numbers in `bytes`, little-endian and of type `dtype`, into `numbers`; false if `dtype` is not f64, f32, f16 or bf16.
///
/// `bytes` holds as many numbers as there are places.
pub fn decode(dtype: Dtype, bytes: &[u8], numbers: &mut [f32]) -> bool {
    let Some(from) = Float::from_file(dtype) else { return false };
    for (chunk, block) in bytes.chunks(BLOCK * from.burn().size()).zip(numbers.chunks_mut(BLOCK)) {
        decode_block(chunk, from, block);
    }
    true
}

/// Writes `numbers`, little-endian and rounded to the nearest of type `dtype`, into `bytes`; false if `dtype` is not f64, f32, f16
/// or bf16.
///
/// `bytes` has room for as many numbers as there are.
pub fn encode(numbers: &[f32], dtype: Dtype, bytes: &mut [u8]) -> bool {
    match Float::from_file(dtype) {
        Some(Float::F64) => store(numbers, bytes, |x| f64::from(x).to_le_bytes()),
        Some(Float::F32) => store(numbers, bytes, f32::to_le_bytes),
        Some(Float::BF16) => store(numbers, bytes, |x| bf16::from_f32(x).to_le_bytes()),
        Some(Float::F16) => {
            let mut halves = [f16::ZERO; BLOCK];
            for (block, out) in numbers.chunks(BLOCK).zip(bytes.chunks_mut(2 * BLOCK)) {
                let halves = &mut halves[..block.len()];
                halves.convert_from_f32_slice(block);
                for (half, out) in halves.iter().zip(out.as_chunks_mut::<2>().0) {
                    *out = half.to_le_bytes();
                }
            }
        }
        None => return false,
    }
    true
}

fn store<const N: usize>(numbers: &[f32], bytes: &mut [u8], number: impl Fn(f32) -> [u8; N]) {
    for (x, b) in numbers.iter().zip(bytes.as_chunks_mut::<N>().0) {
        *b = number(*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Float; 4] = [Float::F64, Float::F32, Float::F16, Float::BF16];

    /// Numbers that each of the types holds exactly.
    fn exact(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i % 256) as f32 - 128.0).collect()
    }

    #[test]
    fn every_pair_of_types_converts_exact_numbers_exactly() {
        // Longer than a block, and not a multiple of one.
        let numbers = exact(2 * BLOCK + 7);
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        for from in ALL {
            let stored = tensor_data(&bytes, Float::F32, from, [numbers.len()]);
            assert_eq!(stored.dtype(), from.burn());
            for to in ALL {
                let converted = tensor_data(stored.as_bytes(), from, to, [numbers.len()]);
                assert_eq!(converted.dtype(), to.burn());
                assert_eq!(to_f32(converted.as_bytes(), to), numbers, "{from:?} to {to:?}");
            }
            assert_eq!(float_bytes(&numbers, from.file()).unwrap(), stored.as_bytes(), "{from:?}");
            let mut part = [0f32; BLOCK + 1];
            let size = from.burn().size();
            read_f32s(&stored.as_bytes()[3 * size..][..part.len() * size], from, &mut part);
            assert_eq!(part, numbers[3..BLOCK + 4], "{from:?}");
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_even_number() {
        let bytes: Vec<u8> =
            [1.0f32 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::MAX, f32::INFINITY].iter().flat_map(|x| x.to_le_bytes()).collect();
        let rounded = tensor_data(&bytes, Float::F32, Float::BF16, [4]);
        let inf = f32::INFINITY;
        assert_eq!(to_f32(rounded.as_bytes(), Float::BF16), [1.0, 1.0 + 4.0 / 256.0, inf, inf]);
    }

    #[test]
    fn not_a_number_stays_not_a_number() {
        let bytes = f32::NAN.to_le_bytes();
        for to in ALL {
            let data = tensor_data(&bytes, Float::F32, to, [1]);
            assert!(to_f32(data.as_bytes(), to)[0].is_nan(), "{to:?}");
        }
    }

    #[test]
    fn slices_are_read_and_written_as_tensors_are() {
        let numbers = exact(BLOCK + 5);
        for float in ALL {
            let mut bytes = vec![0; numbers.len() * float.burn().size()];
            assert!(encode(&numbers, float.file(), &mut bytes));
            let mut again = vec![0.0; numbers.len()];
            assert!(decode(float.file(), &bytes, &mut again));
            assert_eq!(again, numbers, "{float:?}");
        }
        assert!(!decode(Dtype::I64, &[0; 8], &mut [0.0]) && !encode(&[0.0], Dtype::I64, &mut [0; 8]));
    }
}
