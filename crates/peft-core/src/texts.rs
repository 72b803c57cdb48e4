//! What an encoder reads.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Right-padded token sequences, `b` rows of `s` positions.
#[derive(Clone, Debug)]
pub struct Texts {
    /// Token ids, `[b, s]`.
    pub ids: Tensor<2, Int>,
    /// Which text of a pair each token belongs to, 0 or 1, `[b, s]`; absent where all tokens belong to the first.
    pub type_ids: Option<Tensor<2, Int>>,
    /// Tokens of each row, at least 1 and at most `s`; what stands behind them is padding.
    pub lengths: Vec<usize>,
}

impl Texts {
    /// One batch of rows of token ids and of type ids; short rows are filled with `pad_id`.
    ///
    /// # Panics
    /// If there are no rows, a row is empty, or its two parts differ in length.
    pub fn new<'a>(rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>, pad_id: u32, device: &Device) -> Self {
        let (ids, types): (Vec<&[u32]>, Vec<&[u32]>) = rows.into_iter().unzip();
        let lengths: Vec<usize> = ids.iter().map(|ids| ids.len()).collect();
        assert!(!lengths.is_empty() && !lengths.contains(&0), "a batch has rows, and a row has tokens");
        assert!(ids.iter().zip(&types).all(|(ids, types)| ids.len() == types.len()), "every token has a type");
        let width = lengths.iter().copied().max().unwrap_or_default();
        let padded = |rows: &[&[u32]], fill: u32| {
            let filled =
                |row: &&[u32]| row.iter().copied().chain(std::iter::repeat(fill)).take(width).map(|id| id as i32).collect::<Vec<_>>();
            let values: Vec<i32> = rows.iter().flat_map(filled).collect();
            Tensor::from_data(TensorData::new(values, [rows.len(), width]), device)
        };
        let pairs = types.iter().any(|types| types.iter().any(|kind| *kind != 0));
        Self { ids: padded(&ids, pad_id), type_ids: pairs.then(|| padded(&types, 0)), lengths }
    }

    /// `1` for a token and `0` for padding, `[b, s]`.
    pub fn mask(&self) -> Tensor<2> {
        let width = self.ids.dims()[1];
        let row = |length: &usize| (0..width).map(|position| if position < *length { 1.0f32 } else { 0.0 }).collect::<Vec<_>>();
        let values: Vec<f32> = self.lengths.iter().flat_map(row).collect();
        Tensor::from_data(TensorData::new(values, [self.lengths.len(), width]), &self.ids.device())
    }
}

/// A model that says something about whole texts: a label, or a number.
pub trait TextClassifier: Module {
    /// Logits `[b, labels]`; of a model of numbers `[b, 1]`, the numbers themselves.
    fn logits(&self, texts: &Texts) -> Tensor<2>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(tensor: Tensor<2, Int>) -> Vec<i64> {
        tensor.into_data().iter::<i64>().collect()
    }

    #[test]
    fn short_rows_are_filled() {
        let device = crate::device::host();
        let texts = Texts::new([(&[5, 6, 7][..], &[0, 0, 0][..]), (&[8][..], &[0][..])], 9, &device);
        assert_eq!(integers(texts.ids.clone()), [5, 6, 7, 8, 9, 9]);
        assert_eq!(texts.lengths, [3, 1]);
        assert!(texts.type_ids.is_none());
        assert_eq!(texts.mask().into_data().iter::<f32>().collect::<Vec<_>>(), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn pairs_have_types() {
        let device = crate::device::host();
        let texts = Texts::new([(&[5, 6][..], &[0, 1][..]), (&[8][..], &[0][..])], 9, &device);
        assert_eq!(integers(texts.type_ids.unwrap()), [0, 1, 0, 0]);
    }
}
