//! Which keys the tokens of one call may see.

use super::config::DecoderConfig;
use peft_core::ops::Visible;

/// What a layer attends to: the keys from `start` on, as far as they are visible.
///
/// Right-padded batches need no mask of their own: a padding token stands behind all tokens of its row, so causality hides it from
/// them, and what it computes itself is never read.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// The first key that any query of the call sees.
    pub start: usize,
    /// Which of the keys from there on.
    pub visible: Visible,
}

/// The spans of full and of windowed layers for queries at positions `from..to`.
#[derive(Debug)]
pub(super) struct Spans {
    full: Option<Span>,
    windowed: Option<Span>,
}

impl Spans {
    /// `padding[i]` positions at the beginning of row `i` are seen by none of its later ones; an empty slice means no padding.
    pub fn new(config: &DecoderConfig, from: usize, to: usize, padding: &[usize]) -> Self {
        let any = |windowed: bool| config.windowed.contains(&windowed);
        let windowed = config.sliding_window.filter(|_| any(true));
        Self {
            full: any(false).then(|| Span::new(from, to, usize::MAX, padding)),
            windowed: windowed.map(|window| Span::new(from, to, window, padding)),
        }
    }

    pub fn of(&self, windowed: bool) -> &Span {
        let span = if windowed { &self.windowed } else { &self.full };
        span.as_ref().expect("there is a span for every kind of layer")
    }
}

impl Span {
    fn new(from: usize, to: usize, window: usize, padding: &[usize]) -> Self {
        let first = |query: usize| (query + 1).saturating_sub(window);
        let start = first(from);
        // Rows without padding see the same.
        let rows = if padding.iter().all(|padding| *padding == 0) { &[0] } else { padding };
        let seen_by = |padding: usize| (from..to).map(move |query| (first(query).max(padding).min(query) - start) as u32);
        let starts = rows.iter().flat_map(|padding| seen_by(*padding)).collect();
        Self { start, visible: Visible::new(starts, to - from, from - start) }
    }
}
