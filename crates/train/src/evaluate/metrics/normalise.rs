//! Texts made comparable, as SQuAD's evaluation does.

use serde::{Deserialize, Serialize};

/// One thing that two texts may differ in and still count as equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// Upper and lower case.
    Case,
    /// ASCII punctuation, which is removed.
    Punctuation,
    /// The words `a`, `an` and `the`, which are removed.
    Articles,
    /// Amounts of white space between words.
    Whitespace,
}

impl Normalise {
    /// All of them: what SQuAD's exact match and F1 disregard.
    pub const SQUAD: [Self; 4] = [Self::Case, Self::Punctuation, Self::Articles, Self::Whitespace];
}

/// `text` without what `what` disregards, in SQuAD's order: case, punctuation, articles, white space.
///
/// White space around the text never counts.
pub fn normalised(text: &str, what: &[Normalise]) -> String {
    let mut text = text.to_string();
    if what.contains(&Normalise::Case) {
        text = text.to_lowercase();
    }
    if what.contains(&Normalise::Punctuation) {
        text.retain(|c| !c.is_ascii_punctuation());
    }
    if what.contains(&Normalise::Articles) {
        text = without_articles(&text);
    }
    if what.contains(&Normalise::Whitespace) {
        text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    text.trim().to_string()
}

/// Each article becomes a space, so that the words around it stay apart.
fn without_articles(text: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        let is_article = ["a", "an", "the"].iter().any(|article| run.eq_ignore_ascii_case(article));
        out += if is_article { " " } else { run };
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_surrounding_space_is_disregarded_unless_asked() {
        assert_eq!(normalised(" The  End. \n", &[]), "The  End.");
    }

    #[test]
    fn each_kind_goes_alone() {
        assert_eq!(normalised("The End.", &[Normalise::Case]), "the end.");
        assert_eq!(normalised("The End.", &[Normalise::Punctuation]), "The End");
        assert_eq!(normalised("The other End.", &[Normalise::Articles]), "other End.");
        assert_eq!(normalised("a \n b", &[Normalise::Whitespace]), "a b");
    }
}
