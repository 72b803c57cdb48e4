//! Rotary positions at run time.

use super::rope::Rope;
use burn::tensor::{Device, Tensor, TensorData};
use std::sync::{Arc, Mutex, PoisonError};

/// Turns pairs of a head's channels by angles proportional to the position.
///
/// Channel `i` is paired with channel `i + hd/2`, as Hugging Face checkpoints order them. Angles are products in f32, as in the
/// implementations that trained the models, so that long contexts round alike.
#[derive(Clone, Debug)]
pub(super) struct Rotary {
    frequencies: Vec<f32>,
    // Shared by clones of the model, grown on demand. Not a parameter: nothing trains, saves or counts it.
    table: Arc<Mutex<Option<Rotation>>>,
}

/// Cosines and sines of consecutive positions, `[1, 1, s, hd]` each.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    cos: Tensor<4>,
    // Negative in the first half, which takes the second half of the channels with a minus.
    sin: Tensor<4>,
}

impl Rotary {
    pub fn new(rope: &Rope, head_dim: usize) -> Self {
        Self { frequencies: rope.frequencies(head_dim), table: Arc::default() }
    }

    /// The rotation of positions `start..end`.
    pub fn positions(&self, start: usize, end: usize, device: &Device) -> Rotation {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let table = match table.take() {
            Some(grown) if grown.reaches(end, device) => table.insert(grown),
            _ => table.insert(self.rotation(end.next_power_of_two(), device)),
        };
        table.slice(start, end)
    }

    fn rotation(&self, positions: usize, device: &Device) -> Rotation {
        // The table is a constant: without autodiff it joins computations with and without.
        let device = device.clone().without_autodiff();
        let tensor = |half: [fn(f32) -> f32; 2]| {
            let values = (0..positions).flat_map(|position| {
                let angle = move |frequency: &f32| position as f32 * frequency;
                let [first, second] = half.map(|of| self.frequencies.iter().map(angle).map(of));
                first.chain(second)
            });
            let shape = [1, 1, positions, 2 * self.frequencies.len()];
            Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), &device)
        };
        Rotation { cos: tensor([f32::cos, f32::cos]), sin: tensor([|angle| -angle.sin(), f32::sin]) }
    }
}

impl Rotation {
    fn reaches(&self, end: usize, device: &Device) -> bool {
        self.cos.dims()[2] >= end && self.cos.device() == *device
    }

    fn slice(&self, start: usize, end: usize) -> Self {
        let slice = |table: &Tensor<4>| table.clone().slice_dim(2, start..end);
        Self { cos: slice(&self.cos), sin: slice(&self.sin) }
    }

    /// Turn the channels of `x: [b, h, s, hd]`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let [first, second] = [0..half, half..2 * half].map(|channels| x.clone().slice_dim(3, channels));
        let swapped = Tensor::cat(vec![second, first], 3);
        x * self.cos.clone() + swapped * self.sin.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rope::RopeScaling;
    use super::*;

    fn rotary() -> Rotary {
        Rotary::new(&Rope { theta: 100.0, scaling: RopeScaling::Default }, 4)
    }

    #[test]
    fn pairs_turn_by_position_times_frequency() {
        let device = Device::default();
        let x = Tensor::<4>::from_data([[[[1.0, 2.0, 3.0, 4.0]]]], &device);
        let turned = rotary().positions(3, 4, &device).apply(x).try_into_vec_as::<f32>().unwrap();
        let turn = |a: f32, b: f32, angle: f32| (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin());
        let ((a, c), (b, d)) = (turn(1.0, 3.0, 3.0), turn(2.0, 4.0, 0.3));
        for (found, expected) in turned.iter().zip([a, b, c, d]) {
            assert!((found - expected).abs() < 1e-5, "{turned:?}");
        }
    }

    #[test]
    fn scores_depend_on_the_distance_alone() {
        let device = Device::default();
        let q = Tensor::<4>::from_data([[[[0.3, -1.0, 0.7, 0.2]]]], &device);
        let k = Tensor::<4>::from_data([[[[1.1, 0.4, -0.6, 0.9]]]], &device);
        let rotary = rotary();
        let score = |p: usize, r: usize| {
            let q = rotary.positions(p, p + 1, &device).apply(q.clone());
            let k = rotary.positions(r, r + 1, &device).apply(k.clone());
            (q * k).sum().into_scalar::<f32>()
        };
        assert!((score(5, 2) - score(13, 10)).abs() < 1e-5);
    }
}
