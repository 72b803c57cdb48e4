//! Which of several continuations a model finds most likely.

use super::item::ChoiceItem;
use super::loss::{batcher, token_losses, warn_of_long};
use crate::data::{Encoded, TextTokenizer, encode_continuation};
use peft_core::{LanguageModel, Result};

/// The log-likelihood in nats of every choice of every item, given its prompt.
///
/// `batch_size` choices, of one item or of several, are scored together. `on_progress` gets the choices done and all.
///
/// # Errors
/// [`Data`](peft_core::Error::Data) for a prompt or a choice without tokens; [`NonFinite`](peft_core::Error::NonFinite).
pub fn choose<M: LanguageModel>(
    model: &M,
    tokenizer: &TextTokenizer,
    items: &[ChoiceItem],
    batch_size: usize,
    mut on_progress: impl FnMut(usize, usize),
) -> Result<Vec<Vec<f64>>> {
    let model = model.valid();
    let batcher = batcher(&model, tokenizer.pad_id());
    let mut rows = Vec::new();
    for item in items {
        rows.extend(continuations(tokenizer, item)?);
    }
    warn_of_long(rows.iter().map(|row| row.ids.len()), &model);
    let mut scores = vec![0.0; rows.len()];
    // Rows of similar length share a batch, so that little of it is padding.
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|index| rows[*index].ids.len());
    let mut done = 0;
    for indices in order.chunks(batch_size.max(1)) {
        let batch = batcher.batch(indices.iter().map(|index| &rows[*index]));
        let mut losses = token_losses(&model, &batch)?.into_iter();
        for index in indices {
            scores[*index] = -losses.by_ref().take(rows[*index].supervised()).sum::<f64>();
        }
        done += indices.len();
        on_progress(done, rows.len());
    }
    let mut scores = scores.into_iter();
    Ok(items.iter().map(|item| scores.by_ref().take(item.choices.len()).collect()).collect())
}

fn continuations(tokenizer: &TextTokenizer, item: &ChoiceItem) -> Result<Vec<Encoded>> {
    item.prompt.tokens(tokenizer, &item.origin)?;
    let encoded = |(index, choice): (usize, &String)| {
        let text = format!("{}{choice}", item.delimiter);
        let row = encode_continuation(tokenizer, &item.prompt.text, &text, item.prompt.special_tokens)?;
        match row.supervised() {
            0 => Err(item.origin.error(format!("choice {index} has no tokens"))),
            _ => Ok(row),
        }
    };
    item.choices.iter().enumerate().map(encoded).collect()
}
