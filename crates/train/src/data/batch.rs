//! Batches of token sequences as tensors.

use super::encode::Encoded;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// `b` sequences padded on the right to `s` tokens, and the `n` places whose next token is to be learned.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token ids, `[b, s]`.
    pub ids: Tensor<2, Int>,
    /// Flat indices `row · s + t` of the positions whose next token counts, ascending, `[n]`.
    pub positions: Tensor<1, Int>,
    /// Those next tokens, `[n]`.
    pub targets: Tensor<1, Int>,
    /// Tokens that are not padding.
    pub tokens: usize,
    /// `b`.
    pub rows: usize,
}

/// Makes batches on a device.
#[derive(Debug, Clone)]
pub struct Batcher {
    device: Device,
    pad_id: u32,
}

impl Batcher {
    /// Batches on `device`, short rows filled with `pad_id`.
    pub fn new(device: Device, pad_id: u32) -> Self {
        Self { device, pad_id }
    }

    /// One batch of all `rows`.
    ///
    /// # Panics
    /// If there are no rows, or none has a token that counts.
    pub fn batch<'a>(&self, rows: impl IntoIterator<Item = &'a Encoded>) -> Batch {
        let rows: Vec<&Encoded> = rows.into_iter().collect();
        let width = rows.iter().map(|row| row.ids.len()).max().expect("a batch has rows");
        let mut ids = vec![self.pad_id as i32; rows.len() * width];
        let (mut positions, mut targets) = (Vec::new(), Vec::new());
        for (row, encoded) in rows.iter().enumerate() {
            let first = row * width;
            for (t, &id) in encoded.ids.iter().enumerate() {
                ids[first + t] = id as i32;
                if t > 0 && encoded.labels_mask[t] {
                    positions.push((first + t - 1) as i32);
                    targets.push(id as i32);
                }
            }
        }
        assert!(!targets.is_empty(), "a batch has something to learn");
        let flat = |values: Vec<i32>| Tensor::from_data(TensorData::from(values.as_slice()), &self.device);
        Batch {
            tokens: rows.iter().map(|row| row.ids.len()).sum(),
            ids: Tensor::from_data(TensorData::new(ids, [rows.len(), width]), &self.device),
            positions: flat(positions),
            targets: flat(targets),
            rows: rows.len(),
        }
    }
}
