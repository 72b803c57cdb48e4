//! Rotary positions at run time.

use super::rope::Rope;
use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::{Packed, ops};
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

/// Cosines and sines of the angles of consecutive positions, `[s, hd/2]` each, or `[b · s, hd/2]` where rows differ.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Rotary {
    pub fn new(rope: &Rope, head_dim: usize) -> Self {
        Self { frequencies: rope.frequencies(head_dim), table: Arc::default() }
    }

    /// The rotation of positions `start..end`.
    pub fn positions(&self, start: usize, end: usize, device: &Device) -> Rotation {
        self.up_to(end, device).map(|table| table.slice_dim(0, start..end))
    }

    /// The rotation of `[batch, seq]` tokens whose positions count from the start of their sequence.
    pub fn packed(&self, packed: &Packed, seq: usize, device: &Device) -> Rotation {
        let starts = packed.starts().iter().enumerate();
        let positions: Vec<i32> = starts.map(|(index, start)| (index % seq) as i32 - *start as i32).collect();
        let end = positions.iter().max().map_or(0, |last| *last as usize + 1);
        let positions = Tensor::<1, Int>::from_data(TensorData::from(positions.as_slice()), &device.clone().without_autodiff());
        self.up_to(end, device).map(|table| table.select(0, positions.clone()))
    }

    /// The rotation of all positions below `end`, and of some more.
    fn up_to(&self, end: usize, device: &Device) -> Rotation {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let table = match table.take() {
            Some(grown) if grown.reaches(end, device) => table.insert(grown),
            _ => table.insert(self.rotation(end.next_power_of_two(), device)),
        };
        table.clone()
    }

    fn rotation(&self, positions: usize, device: &Device) -> Rotation {
        // The table is a constant: without autodiff it joins computations with and without.
        let device = device.clone().without_autodiff();
        let tensor = |of: fn(f32) -> f32| {
            let angles = (0..positions).flat_map(|position| self.frequencies.iter().map(move |frequency| position as f32 * frequency));
            let values: Vec<f32> = angles.map(of).collect();
            Tensor::from_data(TensorData::new(values, [positions, self.frequencies.len()]), &device)
        };
        Rotation { cos: tensor(f32::cos), sin: tensor(f32::sin) }
    }
}

impl Rotation {
    fn reaches(&self, end: usize, device: &Device) -> bool {
        self.cos.dims()[0] >= end && self.cos.device() == *device
    }

    fn map(self, part: impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        Self { cos: part(self.cos), sin: part(self.sin) }
    }

    /// Turn the channels of `x: [b, s, heads, hd]`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        ops::rotate(x, &self.cos, &self.sin)
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
        let device = peft_core::device::host();
        let x = Tensor::<4>::from_data([[[[1.0, 2.0, 3.0, 4.0]]]], &device);
        let turned = rotary().positions(3, 4, &device).apply(x).try_into_vec_as::<f32>().unwrap();
        let turn = |a: f32, b: f32, angle: f32| (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin());
        let ((a, c), (b, d)) = (turn(1.0, 3.0, 3.0), turn(2.0, 4.0, 0.3));
        for (found, expected) in turned.iter().zip([a, b, c, d]) {
            assert!((found - expected).abs() < 1e-5, "{turned:?}");
        }
    }

    #[test]
    fn positions_of_packed_sequences_begin_at_0() {
        let device = peft_core::device::host();
        let packed = rotary().packed(&Packed::new(&[vec![2, 3], vec![4]], 5), 5, &device).cos;
        let from_0 = rotary().positions(0, 4, &device).cos;
        let expected = from_0.select(0, Tensor::from_ints([0, 1, 0, 1, 2, 0, 1, 2, 3, 0], &device));
        assert_eq!(packed.into_data(), expected.into_data());
    }

    #[test]
    fn scores_depend_on_the_distance_alone() {
        let device = peft_core::device::host();
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
