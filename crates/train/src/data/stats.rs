//! What became of the examples of a file.

use serde::Serialize;
use std::fmt::{Display, Formatter, Result};

/// Why an example is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It has no text, or no token but one.
    Empty,
    /// None of its tokens is to be learned.
    NothingToLearn,
    /// All that is to be learned lies beyond `max_length`.
    TooLong,
    /// The chat template does not show what is the assistant's, in some turns of a conversation.
    Unclear,
    /// It is marked as a bad answer.
    Unwanted,
}

/// Examples left out, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Those without text, or with one token alone.
    pub empty: usize,
    /// Those of which no token is to be learned.
    pub nothing_to_learn: usize,
    /// Those of which all that is to be learned lies beyond `max_length`.
    pub too_long: usize,
    /// Turns of conversations of which the chat template does not show what is the assistant's.
    pub unclear: usize,
    /// Those with `label` false: answers marked as bad.
    pub unwanted: usize,
}

impl Skipped {
    /// All of them.
    pub fn all(&self) -> usize {
        self.empty + self.nothing_to_learn + self.too_long + self.unclear + self.unwanted
    }
}

/// What became of the examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct EncodeStats {
    /// Sequences made.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those of their tokens that count in the loss.
    pub supervised: usize,
    /// Mean tokens of a sequence.
    pub mean_length: f64,
    /// Tokens of the longest example that was not left out, before it was cut.
    pub longest: usize,
    /// Sequences that lost their end to `max_length`.
    pub truncated: usize,
    /// The tokens that they lost.
    pub cut_tokens: usize,
    /// Conversations that gave a sequence for each of their turns, because the chat template writes earlier turns anew.
    pub split: usize,
    /// Sequences whose text lacks something that the messages say, because the chat template leaves it out.
    pub incomplete: usize,
    /// Examples left out.
    pub skipped: Skipped,
}

impl EncodeStats {
    /// Count a sequence of `tokens` tokens, `supervised` of which are learned, that had `length` before it was cut.
    pub(super) fn made(&mut self, tokens: usize, supervised: usize, length: usize) {
        self.examples += 1;
        self.tokens += tokens;
        self.supervised += supervised;
        self.mean_length = self.tokens as f64 / self.examples as f64;
        self.longest = self.longest.max(length);
        self.truncated += usize::from(length > tokens);
        self.cut_tokens += length - tokens;
    }

    pub(super) fn skipped(&mut self, why: Skip) {
        match why {
            Skip::Empty => self.skipped.empty += 1,
            Skip::NothingToLearn => self.skipped.nothing_to_learn += 1,
            Skip::TooLong => self.skipped.too_long += 1,
            Skip::Unclear => self.skipped.unclear += 1,
            Skip::Unwanted => self.skipped.unwanted += 1,
        }
    }
}

const LACK: &str = "lack something that their messages say (a content, a reasoning, a tool call): the chat template leaves it out";

impl EncodeStats {
    /// Say what the texts lack.
    pub(super) fn warn(&self) {
        if self.incomplete > 0 {
            tracing::warn!("{} of {} sequences {LACK}", self.incomplete, self.examples);
        }
    }
}

impl Display for EncodeStats {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { examples, tokens, supervised, mean_length, longest, truncated, cut_tokens, split, incomplete, skipped } = self;
        write!(f, "{examples} examples, {tokens} tokens, {supervised} of them learned; mean length {mean_length:.0}, longest {longest}")?;
        if *truncated > 0 {
            write!(f, "\n{truncated} are longer than max_length and lost their end, {cut_tokens} tokens in all")?;
        }
        if *split > 0 {
            write!(f, "\n{split} conversations gave a sequence for each turn: the chat template writes earlier turns anew")?;
        }
        if *incomplete > 0 {
            write!(f, "\n{incomplete} {LACK}")?;
        }
        if skipped.all() > 0 {
            write!(f, "\nskipped: {skipped}")?;
        }
        Ok(())
    }
}

impl Display for Skipped {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let reasons = [
            (self.empty, "without text"),
            (self.nothing_to_learn, "without a token to learn"),
            (self.too_long, "with all that is to be learned beyond max_length"),
            (self.unclear, "turns whose text does not show what is the assistant's"),
            (self.unwanted, "marked as bad by `label`"),
        ];
        let reasons = reasons.iter().filter(|(count, _)| *count > 0).map(|(count, reason)| format!("{count} {reason}"));
        f.write_str(&reasons.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_and_skipped_is_said_with_the_reason() {
        let mut stats = EncodeStats::default();
        stats.made(3, 2, 3);
        assert_eq!(stats.to_string(), "1 examples, 3 tokens, 2 of them learned; mean length 3, longest 3");
        stats.made(4, 1, 10);
        [Skip::Empty, Skip::TooLong, Skip::TooLong].into_iter().for_each(|why| stats.skipped(why));
        let expected = "2 examples, 7 tokens, 3 of them learned; mean length 4, longest 10\n\
                        1 are longer than max_length and lost their end, 6 tokens in all\n\
                        skipped: 1 without text, 2 with all that is to be learned beyond max_length";
        assert_eq!(stats.to_string(), expected);
        assert_eq!(stats.skipped.all(), 3);
    }
}
