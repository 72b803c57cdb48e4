//! Text for a terminal. Names and texts in other people's files may hold characters that change the terminal instead of showing.

use std::io::{Result, Write, stderr};
use tracing_subscriber::fmt::MakeWriter;

/// Text whose control characters show as escapes, except for line ends and tabs. What makes text run backwards shows too: a line could
/// read as another one.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() || turns(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Whether a character only changes the direction or the lines of the text around it.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes to stderr as [`plain`] has it.
pub struct PlainStderr;

impl Write for PlainStderr {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        stderr().write_all(plain(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for PlainStderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_a_terminal_is_shown_and_words_of_any_language_stay() {
        assert_eq!(plain("a\u{1b}[2J\u{9b}1m\rb\u{7f}"), r"a\u{1b}[2J\u{9b}1m\u{d}b\u{7f}");
        assert_eq!(plain("\u{202e}gpj.exe\u{2069}\u{200f}"), r"\u{202e}gpj.exe\u{2069}\u{200f}");
        let text = "a\tb\nné 日本 👩\u{200d}👧 שלום نص";
        assert_eq!(plain(text), text);
    }
}
