//! Which tokens of a rendered conversation are learned.

use super::rendered::Turn;
use super::tokenizer::{Piece, TextTokenizer};
use super::turns::Row;
use peft_core::Result;

/// The tokens of a row, and which of them count: all with `everything`, and else those of the turns.
pub(super) fn marked(row: &Row, tokenizer: &TextTokenizer, everything: bool) -> Result<(Vec<Piece>, Vec<bool>)> {
    let text = format!("{}{}", row.text, row.next);
    let mut pieces = tokenizer.pieces(&text, false)?;
    if !row.next.is_empty() {
        // Of what would follow, the token that ends a text is the turn's own.
        match end_behind(row.text.len(), &pieces, &text, tokenizer) {
            Some(end) => pieces.truncate(end + 1),
            None => pieces = tokenizer.pieces(&row.text, false)?,
        }
    }
    let mut counted = vec![everything; pieces.len()];
    for turn in &row.turns {
        mark(turn, &pieces, &mut counted, tokenizer);
        if turn.limit == turn.content_end
            && let Some(end) = end_behind(turn.content_end, &pieces, &text, tokenizer)
        {
            let behind = pieces.partition_point(|piece| piece.end <= turn.content_end);
            counted[behind..=end].fill(true);
        }
    }
    Ok((pieces, counted))
}

/// The token that ends a text, if it comes right behind `at`, spaces aside.
fn end_behind(at: usize, pieces: &[Piece], text: &str, tokenizer: &TextTokenizer) -> Option<usize> {
    let behind = pieces.partition_point(|piece| piece.end <= at);
    let first = behind + pieces[behind..].iter().position(|piece| piece.start >= at)?;
    let is_space = |piece: &Piece| text.get(piece.start..piece.end).is_some_and(|text| text.trim().is_empty());
    let end = first + pieces[first..].iter().position(|piece| !is_space(piece))?;
    tokenizer.eos_ids().contains(&pieces[end].id).then_some(end)
}

/// Mark the tokens of a turn: all that reach into its text, and those that close it, through the last special one, or through the first
/// that ends a text if more than the turn's own could follow.
fn mark(turn: &Turn, pieces: &[Piece], counted: &mut [bool], tokenizer: &TextTokenizer) {
    // Pieces stand in the order of the text, so that a turn's own can be found without a look at all.
    let first = pieces.partition_point(|p| p.end <= turn.start);
    let behind = first + pieces[first..].partition_point(|p| p.end <= turn.limit.max(turn.content_end) || p.start < turn.content_end);
    let (pieces, counted) = (&pieces[first..behind], &mut counted[first..behind]);
    // Tokenizers that trim spaces from the places of tokens report a token of spaces as empty, at its end.
    let spoken = |p: &Piece| p.end > turn.start && (p.start < turn.content_end || p.end <= turn.content_end);
    let closing = |p: &Piece| p.end > turn.content_end && p.end <= turn.limit;
    let given = |p: &Piece| turn.holes.iter().any(|(start, end)| p.start < *end && p.end > *start);
    let ends = |p: &Piece| closing(p) && tokenizer.eos_ids().contains(&p.id);
    let special = |p: &Piece| closing(p) && tokenizer.is_special(p.id);
    let last = match turn.opens_next {
        true => pieces.iter().position(ends).or_else(|| pieces.iter().position(special)),
        false => pieces.iter().rposition(special),
    };
    let last = last.unwrap_or(pieces.len());
    for (i, piece) in pieces.iter().enumerate() {
        counted[i] |= !given(piece) && (spoken(piece) || (closing(piece) && i <= last));
    }
}
