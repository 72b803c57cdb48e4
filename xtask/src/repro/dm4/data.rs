//! The handwritten digits of scikit-learn, seen in four ways.

use crate::Outcome;
use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::seed;
use rand::seq::SliceRandom;
use std::fs;
use std::ops::Range;
use std::path::Path;

pub const TASKS: usize = 4;
pub const PIXELS: usize = 64;
pub const CLASSES: usize = 10;
pub const TRAIN: usize = 1200;
const SIDE: usize = 8;
const ROWS: usize = 1797;

/// How a task sees an image.
type View<'a> = dyn Fn(&[f32; PIXELS]) -> [f32; PIXELS] + 'a;

/// Images of 8 × 8 pixels between 0 and 1 with their digits.
pub struct Images {
    pixels: Vec<[f32; PIXELS]>,
    digits: Vec<i64>,
}

/// The images of one task: the first [`TRAIN`] are for training, the others for tests.
pub struct Task {
    images: Images,
    device: Device,
}

impl Images {
    /// Read scikit-learn's digits.csv: 64 pixels from 0 to 16 and the digit in each line.
    pub fn read(path: &Path) -> Outcome<Self> {
        let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return Err(format!("{} is compressed; unpack it with gunzip first", path.display()).into());
        }
        let text = String::from_utf8(bytes)?;
        let mut images = Self { pixels: Vec::new(), digits: Vec::new() };
        for (number, line) in text.lines().enumerate() {
            let row: Vec<f32> =
                line.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|e| format!("line {}: {e}", number + 1))?;
            let [pixels @ .., digit] = row.as_slice() else { continue };
            let pixels: [f32; PIXELS] =
                pixels.try_into().map_err(|_| format!("line {} has not {PIXELS} pixels and a digit", number + 1))?;
            images.pixels.push(pixels.map(|pixel| pixel / 16.0));
            images.digits.push(*digit as i64);
        }
        match images.digits.len() {
            ROWS => Ok(images),
            other => Err(format!("{}: {other} images; scikit-learn's digits.csv has {ROWS}", path.display()).into()),
        }
    }

    /// In another order for every seed.
    pub fn shuffled(mut self, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..ROWS).collect();
        order.shuffle(&mut seed::rng(seed, "digits"));
        self.pixels = order.iter().map(|row| self.pixels[*row]).collect();
        self.digits = order.iter().map(|row| self.digits[*row]).collect();
        self
    }

    /// As they are; turned by 90° to the left; as negatives; with all pixels moved by a fixed permutation.
    pub fn tasks(&self, device: &Device) -> Vec<Task> {
        let mut moved: Vec<usize> = (0..PIXELS).collect();
        moved.shuffle(&mut seed::rng(12345, "pixels"));
        let turned = |x: &[f32; PIXELS]| std::array::from_fn(|i| x[i % SIDE * SIDE + SIDE - 1 - i / SIDE]);
        let views: [&View; TASKS] = [&|x| *x, &turned, &|x| x.map(|pixel| 1.0 - pixel), &|x| std::array::from_fn(|i| x[moved[i]])];
        let task = |view: &View| {
            let pixels = self.pixels.iter().map(view).collect();
            Task { images: Images { pixels, digits: self.digits.clone() }, device: device.clone() }
        };
        views.into_iter().map(task).collect()
    }
}

impl Task {
    /// Number of images for tests.
    pub fn tests(&self) -> usize {
        ROWS - TRAIN
    }

    /// Images `[n, 64]` and digits `[n]` of these rows.
    pub fn rows(&self, rows: &[usize]) -> (Tensor<2>, Tensor<1, Int>) {
        let pixels: Vec<f32> = rows.iter().flat_map(|row| self.images.pixels[*row]).collect();
        let digits: Vec<i64> = rows.iter().map(|row| self.images.digits[*row]).collect();
        let x = Tensor::from_data(TensorData::new(pixels, [rows.len(), PIXELS]), &self.device);
        (x, Tensor::from_data(TensorData::new(digits, [rows.len()]), &self.device))
    }

    /// The images for training in this range.
    pub fn train(&self, range: Range<usize>) -> (Tensor<2>, Tensor<1, Int>) {
        assert!(range.end <= TRAIN);
        self.rows(&range.collect::<Vec<_>>())
    }

    /// The images for tests in this range.
    pub fn test(&self, range: Range<usize>) -> (Tensor<2>, Tensor<1, Int>) {
        self.rows(&range.map(|row| TRAIN + row).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_task_is_turned_to_the_left() {
        let pixels = std::array::from_fn(|i| i as f32);
        let tasks = Images { pixels: vec![pixels], digits: vec![3] }.tasks(&peft_core::device::host());
        let turned = tasks[1].images.pixels[0];
        // The right column becomes the top row.
        assert_eq!(turned[..SIDE], [7.0, 15.0, 23.0, 31.0, 39.0, 47.0, 55.0, 63.0]);
        assert_eq!(tasks[2].images.pixels[0][5], -4.0);
        let mut moved = tasks[3].images.pixels[0];
        assert_ne!(moved, pixels);
        moved.sort_by(f32::total_cmp);
        assert_eq!(moved, pixels);
    }
}
