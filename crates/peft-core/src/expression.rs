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
        let regex = fancy_regex::RegexBuilder::new(&format!(r"\A(?:{pattern})\z")).backtrack_limit(MOST_STEPS).build();
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
