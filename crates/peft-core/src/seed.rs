//! Numbers that a seed and a path determine, the same on every device.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use std::cell::Cell;

thread_local! {
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// Start this thread's sequence of seeds at `seed`, so that what draws random numbers after it repeats.
pub fn begin(seed: u64) {
    NEXT.set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
}

/// Run `work` with this thread's sequence started at `seed`, and go on with the sequence as it was.
pub fn within<R>(seed: u64, work: impl FnOnce() -> R) -> R {
    struct Back(u64);
    impl Drop for Back {
        fn drop(&mut self) {
            NEXT.set(self.0);
        }
    }
    let _back = Back(NEXT.get());
    begin(seed);
    work()
}

/// The next seed of this thread's sequence.
pub fn next() -> u64 {
    NEXT.set(NEXT.get().wrapping_add(1));
    rng(NEXT.get(), "next").random()
}

/// The generator that belongs to `path` under `seed`. Different paths give independent streams.
pub fn rng(seed: u64, path: &str) -> ChaCha8Rng {
    // FNV-1a over the path, started from the seed: stable across platforms and versions, which a std hasher is not.
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in path.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&hash.to_le_bytes());
    ChaCha8Rng::from_seed(bytes)
}

/// A tensor of numbers uniform in `[-bound, bound)`.
pub fn uniform<const D: usize>(shape: [usize; D], bound: f64, rng: &mut ChaCha8Rng, device: &Device) -> Tensor<D> {
    let values = (0..shape.iter().product()).map(|_| ((rng.random::<f64>() * 2.0 - 1.0) * bound) as f32).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A tensor of normal numbers with mean 0.
pub fn normal<const D: usize>(shape: [usize; D], std: f64, rng: &mut ChaCha8Rng, device: &Device) -> Tensor<D> {
    let values = (0..shape.iter().product()).map(|_| (rng.sample::<f64, _>(StandardNormal) * std) as f32).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, path: &str) -> u64 {
        rng(seed, path).random()
    }

    #[test]
    fn seed_and_path_determine_the_numbers() {
        assert_eq!(draw(1, "a.b"), draw(1, "a.b"));
        assert_ne!(draw(1, "a.b"), draw(2, "a.b"));
        assert_ne!(draw(1, "a.b"), draw(1, "a.c"));
    }

    #[test]
    fn a_sequence_within_another_leaves_it_as_it_was() {
        let (outer, inner) = (|| (next(), next()), || within(7, || (next(), next())));
        begin(3);
        let (expected, first) = (outer(), inner());
        begin(3);
        let a = next();
        assert_eq!(inner(), first);
        assert_eq!((a, next()), expected);
    }

    #[test]
    fn normal_numbers_have_the_deviation_asked_for() {
        let x = normal([4000], 0.5, &mut rng(3, "x"), &crate::device::host());
        let mean = x.clone().mean().into_scalar::<f32>();
        let std = (x.powf_scalar(2.0).mean().into_scalar::<f32>() - mean * mean).sqrt();
        assert!(mean.abs() < 0.03 && (std - 0.5).abs() < 0.02, "{mean} {std}");
    }
}
