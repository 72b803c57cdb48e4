//! What training, evaluation and generation use of a language model.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use std::sync::Arc;

/// A causal language model: token ids in, logits of the next token out.
pub trait LanguageModel: Module {
    /// Keys and values of the positions seen so far.
    type Cache: Send;

    /// Final hidden states `[batch, seq, d]` of right-padded `ids: [batch, seq]`.
    fn hidden(&self, ids: Tensor<2, Int>) -> Tensor<3>;

    /// Final hidden states `[batch, seq, d]` of `ids: [batch, seq]` whose rows hold several sequences, none of which knows of the others:
    /// each sees its own tokens alone, and its positions begin at 0.
    fn hidden_packed(&self, ids: Tensor<2, Int>, packed: &Packed) -> Tensor<3>;

    /// Logits `[n, vocabulary]` of hidden states `[n, d]`.
    fn head(&self, hidden: Tensor<2>) -> Tensor<2>;

    /// The head as one matrix `[d, vocabulary]`, if it is no more than a product with it.
    fn head_weight(&self) -> Option<Tensor<2>> {
        None
    }

    /// An empty cache for up to `capacity` positions, with a row for each element of `padding`.
    ///
    /// Row `i` begins with `padding[i]` ids of any value that its other tokens do not see, so that rows of different lengths end together.
    fn cache(&self, padding: &[usize], capacity: usize) -> Self::Cache;

    /// Append `ids: [batch, new]` to the cache; logits `[batch, vocabulary]` of the last position.
    fn step(&self, ids: Tensor<2, Int>, cache: &mut Self::Cache) -> Tensor<2>;

    /// Number of token ids.
    fn vocab_size(&self) -> usize;

    /// The longest sequence the model was made for.
    fn max_positions(&self) -> usize;
}

/// Where the sequences begin in rows that hold several of them one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    starts: Arc<[u32]>,
}

impl Packed {
    /// `lengths[i]` are the lengths of the sequences in row `i`, in order; what they leave of the row's `width` is padding.
    ///
    /// # Panics
    /// If a row's sequences are longer than `width`.
    pub fn new(lengths: &[Vec<usize>], width: usize) -> Self {
        let mut starts = Vec::with_capacity(lengths.len() * width);
        for row in lengths {
            let first = starts.len();
            for length in row {
                let start = (starts.len() - first) as u32;
                starts.resize(starts.len() + length, start);
            }
            let filled = starts.len() - first;
            assert!(filled <= width, "{filled} tokens in a row of {width}");
            starts.resize(first + width, filled as u32);
        }
        Self { starts: starts.into() }
    }

    /// For each token the place in its row where its sequence begins, `[batch · seq]`. Padding is a sequence of its own.
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_knows_where_its_sequence_begins() {
        let packed = Packed::new(&[vec![2, 3], vec![4]], 5);
        assert_eq!(packed.starts(), [0, 0, 2, 2, 2, 0, 0, 0, 0, 4]);
    }

    #[test]
    #[should_panic(expected = "6 tokens in a row of 5")]
    fn sequences_must_fit_in_their_row() {
        Packed::new(&[vec![2, 4]], 5);
    }
}
