//! What training, evaluation and generation use of a language model.

use burn::module::Module;
use burn::tensor::{Int, Tensor};

/// A causal language model: token ids in, logits of the next token out.
pub trait LanguageModel: Module {
    /// Keys and values of the positions seen so far.
    type Cache: Send;

    /// Final hidden states `[batch, seq, d]` of right-padded `ids: [batch, seq]`.
    fn hidden(&self, ids: Tensor<2, Int>) -> Tensor<3>;

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
