//! Which keys the tokens of one call may see.

use super::config::DecoderConfig;
use peft_core::Packed;
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
        Self::of_layers(config, |window| Span::new(from, to, window, padding))
    }

    /// Every token sees its own sequence alone, in rows of `seq` tokens.
    pub fn packed(config: &DecoderConfig, packed: &Packed, seq: usize) -> Self {
        Self::of_layers(config, |window| Span::packed(packed, seq, window))
    }

    fn of_layers(config: &DecoderConfig, span: impl Fn(usize) -> Span) -> Self {
        let any = |windowed: bool| config.windowed.contains(&windowed);
        let windowed = config.sliding_window.filter(|_| any(true));
        Self { full: any(false).then(|| span(usize::MAX)), windowed: windowed.map(span) }
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

    fn packed(packed: &Packed, seq: usize, window: usize) -> Self {
        let seen = |(index, start): (usize, &u32)| (*start).max((index % seq + 1).saturating_sub(window) as u32);
        let starts = packed.starts().iter().enumerate().map(seen).collect();
        Self { start: 0, visible: Visible::new(starts, seq, 0) }
    }
}
