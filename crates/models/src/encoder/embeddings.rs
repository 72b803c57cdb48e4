//! From token ids to the input of the first block.

use super::config::EncoderConfig;
use super::family::Family;
use super::named::named_module;
use super::norm::LayerNorm;
use burn::nn::{Dropout, DropoutConfig, Embedding, EmbeddingConfig};
use burn::tensor::{Device, Int, Tensor};
use peft_core::{Lookup, Texts, ops};

/// The sum of what a token is, where it stands and which text of a pair it belongs to, normalised.
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// `[vocab, d]`.
    pub word_embeddings: Embedding,
    /// `[positions, d]`.
    pub position_embeddings: Embedding,
    /// `[types, d]`.
    pub token_type_embeddings: Embedding,
    /// Of the sum.
    pub layer_norm: LayerNorm,
    /// Behind the norm.
    pub dropout: Dropout,
    family: Family,
    pad_id: u32,
}

named_module!(Embeddings {
    word_embeddings: |_| "word_embeddings",
    position_embeddings: |_| "position_embeddings",
    token_type_embeddings: |_| "token_type_embeddings",
    layer_norm: |_| "LayerNorm",
    dropout: |_| "dropout",
});

impl Embeddings {
    pub(super) fn new(config: &EncoderConfig, device: &Device) -> Self {
        let table = |rows| EmbeddingConfig::new(rows, config.hidden_size).init(device);
        Self {
            word_embeddings: table(config.vocab_size),
            position_embeddings: table(config.max_position_embeddings),
            token_type_embeddings: table(config.type_vocab_size),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            dropout: DropoutConfig::new(config.hidden_dropout_prob).init(),
            family: config.family,
            pad_id: config.pad_token_id,
        }
    }

    /// `[b, s, d]`.
    pub(super) fn forward(&self, texts: &Texts) -> Tensor<3> {
        let words = self.word_embeddings.lookup(texts.ids.clone());
        let positions = self.position_embeddings.lookup(self.positions(&texts.ids));
        let types = self.token_type_embeddings.lookup(self.types(texts));
        ops::dropout(&self.dropout, self.layer_norm.forward(words + types + positions))
    }

    /// Rows of the table of positions, `[1 or b, s]`.
    fn positions(&self, ids: &Tensor<2, Int>) -> Tensor<2, Int> {
        if self.family == Family::Bert {
            return Tensor::<1, Int>::arange(0..ids.dims()[1] as i64, &ids.device()).unsqueeze();
        }
        // Tokens count from the row behind the padding's, which is where padding itself stands, wherever it occurs.
        let is_token = ids.clone().not_equal_elem(self.pad_id).int();
        is_token.clone().cumsum(1) * is_token + i64::from(self.pad_id)
    }

    /// Rows of the table of types, `[1 or b, 1 or s]`. Tokenizers of the RoBERTa family tell no texts apart by type.
    fn types(&self, texts: &Texts) -> Tensor<2, Int> {
        match &texts.type_ids {
            Some(types) if self.family == Family::Bert => types.clone(),
            _ => Tensor::zeros([1, 1], &texts.ids.device()),
        }
    }
}
