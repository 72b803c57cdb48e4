//! Regular expressions as HF PEFT reads them: Python's, which must match a whole path.

use crate::{Error, Result};

/// Steps of backtracking after which a match is given up: far beyond any sensible pattern, and well below a second.
const MOST_STEPS: usize = 1_000_000;

/// A regular expression that must match a whole path. Look-ahead, look-behind and back-references work, as in Python.
#[derive(Clone, Debug)]
pub struct Expression {
    regex: fancy_regex::Regex,
    setting: String,
}

impl Expression {
    /// Compiles `pattern`, a value of `setting`, which errors name.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is not a regular expression.
    pub fn whole(pattern: &str, setting: &str) -> Result<Self> {
        let whole = format!(r"\A(?:{})\z", translated(pattern));
        let regex = fancy_regex::RegexBuilder::new(&whole).backtrack_limit(MOST_STEPS).build();
        let regex = regex.map_err(|e| Error::InvalidConfig(format!("{setting}: `{pattern}` is not a regular expression: {e}")))?;
        Ok(Self { regex, setting: setting.into() })
    }

    /// Whether it matches the whole of `path`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for an expression that takes too many steps on this path.
    pub fn matches(&self, path: &str) -> Result<bool> {
        self.regex.is_match(path).map_err(|e| {
            Error::InvalidConfig(format!("{}: `{}` cannot be matched against `{path}`: {e}", self.setting, self.regex.as_str()))
        })
    }
}

/// An expression of Python's spelt as the engine here reads it: the end is `\z`, and sets of characters have no sets inside.
fn translated(pattern: &str) -> String {
    let mut translated = String::new();
    let (mut chars, mut in_set, mut first) = (pattern.chars(), false, false);
    while let Some(c) = chars.next() {
        let begins = std::mem::take(&mut first);
        match c {
            '\\' => match chars.next() {
                Some('Z') if !in_set => translated.push_str(r"\z"),
                next => translated.extend(std::iter::once('\\').chain(next)),
            },
            '[' | '&' | '~' if in_set => translated.extend(['\\', c]),
            _ => {
                translated.push(c);
                match c {
                    '[' => (in_set, first) = (true, true),
                    // What negates a set, and a bracket that comes first, do not end it.
                    '^' if begins && in_set => first = true,
                    ']' if !begins => in_set = false,
                    _ => {}
                }
            }
        }
    }
    translated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_they_mean_in_python() {
        // Each is what `re.fullmatch` of Python 3.11 says.
        for (pattern, text, matches) in [
            (r"a\Z", "a", true),
            (r"\\Z", r"\Z", true),
            ("[[a]+", "[a", true),
            ("[a&&b]+", "a&b", true),
            ("[]a]+", "a]", true),
            ("[^]a]", "]", false),
            ("[^]a]", "b", true),
            (r"[\]~]+x", "~]x", true),
            ("a|ab", "ab", true),
            (r"(?<=x)b|\d{2}", "12", true),
            ("q", "q_proj", false),
        ] {
            assert_eq!(Expression::whole(pattern, "target_modules").unwrap().matches(text).unwrap(), matches, "{pattern} {text}");
        }
        assert!(Expression::whole("(", "x").unwrap_err().to_string().contains("x: `(` is not a regular expression"));
    }
}
