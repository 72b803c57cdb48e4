//! Batches of token sequences: collected on the host, then tensors on a device.

use super::encode::Encoded;
use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::Packed;
use std::borrow::Borrow;

/// `b` rows padded on the right to `s` tokens, and the `n` places whose next token is to be learned.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token ids, `[b, s]`.
    pub ids: Tensor<2, Int>,
    /// Flat indices `row · s + t` of the positions whose next token counts, ascending, `[n]`.
    pub positions: Tensor<1, Int>,
    /// Those next tokens, `[n]`.
    pub targets: Tensor<1, Int>,
    /// Where sequences begin, if a row holds more than one.
    pub packed: Option<Packed>,
    /// Tokens that are not padding.
    pub tokens: usize,
    /// `b`.
    pub rows: usize,
}

/// A batch as plain numbers, which any thread can prepare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBatch {
    ids: Vec<i32>,
    positions: Vec<i32>,
    targets: Vec<i32>,
    packed: Option<Packed>,
    tokens: usize,
    rows: usize,
}

impl HostBatch {
    /// A batch of `rows` of one or more sequences each, short rows filled with `pad_id`.
    ///
    /// # Panics
    /// If there are no rows, or none has a token that counts.
    pub fn new<E: Borrow<Encoded>>(rows: &[impl AsRef<[E]>], pad_id: u32) -> Self {
        let lengths = |row: &[E]| row.iter().map(|sequence| sequence.borrow().ids.len()).collect::<Vec<_>>();
        let lengths: Vec<Vec<usize>> = rows.iter().map(|row| lengths(row.as_ref())).collect();
        let width = lengths.iter().map(|row| row.iter().sum()).max().expect("a batch has rows");
        let mut ids = vec![pad_id as i32; rows.len() * width];
        let (mut positions, mut targets) = (Vec::new(), Vec::new());
        for (row, sequences) in rows.iter().enumerate() {
            let mut first = row * width;
            for sequence in sequences.as_ref() {
                let Encoded { ids: tokens, labels_mask } = sequence.borrow();
                for (t, (&id, &counts)) in tokens.iter().zip(labels_mask).enumerate() {
                    ids[first + t] = id as i32;
                    if t > 0 && counts {
                        positions.push((first + t - 1) as i32);
                        targets.push(id as i32);
                    }
                }
                first += tokens.len();
            }
        }
        assert!(!targets.is_empty(), "a batch has something to learn");
        let several = lengths.iter().any(|row| row.len() > 1);
        Self {
            ids,
            positions,
            targets,
            packed: several.then(|| Packed::new(&lengths, width)),
            tokens: lengths.iter().flatten().sum(),
            rows: rows.len(),
        }
    }

    /// Tokens that are not padding.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The same as tensors.
    pub fn to_device(&self, device: &Device) -> Batch {
        let flat = |values: &[i32]| Tensor::from_data(TensorData::from(values), device);
        let ids: Tensor<1, Int> = flat(&self.ids);
        Batch {
            ids: ids.reshape([self.rows, self.ids.len() / self.rows]),
            positions: flat(&self.positions),
            targets: flat(&self.targets),
            packed: self.packed.clone(),
            tokens: self.tokens,
            rows: self.rows,
        }
    }
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

    /// One batch of all `sequences`, each in a row of its own.
    ///
    /// # Panics
    /// If there are no sequences, or none has a token that counts.
    pub fn batch<'a>(&self, sequences: impl IntoIterator<Item = &'a Encoded>) -> Batch {
        let rows: Vec<[&Encoded; 1]> = sequences.into_iter().map(|sequence| [sequence]).collect();
        HostBatch::new(&rows, self.pad_id).to_device(&self.device)
    }
}
