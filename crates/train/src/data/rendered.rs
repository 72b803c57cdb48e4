//! A rendered conversation with what is known of its parts.

use super::jsonl::Message;
use super::spans::{Span, Spans, common_prefix};

/// One assistant message in a rendered text, as byte offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    /// Where the assistant begins: after the generation prompt.
    pub(super) start: usize,
    /// Where the last that it says ends.
    pub(super) content_end: usize,
    /// Up to where the text that closes the turn can reach: what follows belongs to the next message.
    pub(super) limit: usize,
    /// What others say in between.
    pub(super) holes: Vec<(usize, usize)>,
    /// Whether the text up to the limit may hold the beginning of what follows: only the first token that ends a text closes the turn.
    pub(super) opens_next: bool,
}

/// A rendering of the first `cut` messages.
pub(super) struct Rendered {
    pub(super) cut: usize,
    pub(super) text: String,
    pub(super) spans: Spans,
}

impl Rendered {
    /// Where the text differs from another in how message `index` begins: at the first word, or at the beginning of a sign.
    pub(super) fn differs(&self, other: &str, index: usize) -> usize {
        let common = common_prefix(&self.text, other);
        if self.spans.of_message.get(&index).is_some_and(|(first, _)| *first <= common) {
            return common;
        }
        let said = self.spans.spans.iter().map(|span| span.end).filter(|end| *end <= common).max().unwrap_or(0);
        said + whole_signs(&self.text[said..], other.get(said..).unwrap_or_default())
    }

    pub(super) fn shows_nothing(&self, messages: &[Message]) -> bool {
        let says = messages.iter().any(|message| !message.content.trim().is_empty());
        says && self.spans.spans.is_empty() && !self.spans.hidden.is_empty()
    }

    /// What others said last before `at`, and the first and last that message `index` says.
    fn neighbours(&self, index: usize) -> Option<(usize, usize, usize)> {
        let (first, last) = *self.spans.of_message.get(&index)?;
        let place = self.spans.spans.partition_point(|span| span.start < first);
        let before = self.spans.spans[..place].last().map_or(0, |span| span.end);
        let next = self.spans.spans[place..].iter().find(|span| span.message != index);
        (before <= first && next.is_none_or(|next| next.start >= last)).then_some((before, first, last))
    }

    /// What is written before a turn and behind it, spaces aside.
    pub(super) fn around<'a>(&'a self, turn: &Turn, index: usize) -> (&'a str, &'a str) {
        let before = self.neighbours(index).map_or(turn.start, |(before, _, _)| before.min(turn.start));
        (self.text[before..turn.start].trim_start(), self.text[turn.content_end..turn.limit].trim_start())
    }

    /// The turn of a message that is written like another.
    pub(super) fn alike(&self, index: usize, before: &str, after: &str, opens_next: bool) -> Option<Turn> {
        let (gap, first, content_end) = self.neighbours(index)?;
        let trimmed = |from: usize| from + (self.text.len() - from - self.text[from..].trim_start().len());
        let (opening, closing) = (trimmed(gap), trimmed(content_end));
        let start = opening + before.len();
        let alike = self.text[opening..].starts_with(before) && start <= first && self.text[closing..].starts_with(after);
        alike.then_some(Turn { start, content_end, limit: closing + after.len(), holes: Vec::new(), opens_next })
    }

    /// What others than message `index` say between two places.
    pub(super) fn others(&self, index: usize, from: usize, to: usize) -> impl Iterator<Item = &Span> {
        self.spans.spans.iter().filter(move |span| span.message != index && span.end > from && span.start < to)
    }
}

/// The bytes that two texts have in common at their beginning, without the beginning of a sign (`<…>`, `[…]`) in which they differ.
pub(super) fn whole_signs(a: &str, b: &str) -> usize {
    let common = common_prefix(a, b);
    if common == a.len() || common == b.len() {
        return common;
    }
    let open = |begin: char, end: char| a[..common].rfind(begin).filter(|at| !a[*at..common].contains(end));
    open('<', '>').into_iter().chain(open('[', ']')).min().unwrap_or(common)
}
