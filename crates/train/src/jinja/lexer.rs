//! A template's text cut into tokens, with Jinja's rules for white space around tags.

use super::literals::token;
use super::{Error, Options};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Text(String),
    BlockStart,
    BlockEnd,
    VariableStart,
    VariableEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
}

/// What opens a tag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Variable,
    Block,
    Comment,
}

/// Cut `source` into tokens with the line of each.
pub(super) fn tokens(source: &str, options: Options) -> Result<Vec<(Token, usize)>, Error> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if !options.keep_trailing_newline && source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { rest: &source, line: 1, options, tokens: Vec::new(), starts_line: true };
    lexer.run().map_err(|reason| Error { line: Some(lexer.line), ..Error::new(reason) })?;
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    rest: &'s str,
    line: usize,
    options: Options,
    tokens: Vec<(Token, usize)>,
    /// Whether what has been read last ended a line.
    starts_line: bool,
}

impl<'s> Lexer<'s> {
    fn run(&mut self) -> Result<(), String> {
        while !self.rest.is_empty() {
            let Some((at, tag)) = next_tag(self.rest) else {
                self.text(self.rest.len(), None, None);
                return Ok(());
            };
            let sign = self.rest[at + 2..].chars().next().filter(|c| ['-', '+'].contains(c));
            // Jinja knows no `+` before a variable: there it is the operator.
            let sign = if tag == Tag::Variable { sign.filter(|c| *c == '-') } else { sign };
            self.text(at, Some(tag), sign);
            self.skip(2 + usize::from(sign.is_some()));
            match tag {
                Tag::Comment => self.comment()?,
                Tag::Block if self.at_raw() => self.raw()?,
                _ => self.code(tag)?,
            }
        }
        Ok(())
    }

    /// The text before a tag, without the white space that the tag takes away.
    fn text(&mut self, end: usize, tag: Option<Tag>, sign: Option<char>) {
        let text = &self.rest[..end];
        let kept = match (tag, sign) {
            (Some(_), Some('-')) => text.trim_end_matches(is_space),
            (Some(Tag::Block | Tag::Comment), None) if self.options.trim => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let own_line = line > 0 || self.starts_line;
                let blank = own_line && text[line..].chars().all(is_space);
                if blank { &text[..line] } else { text }
            }
            _ => text,
        };
        if !kept.is_empty() {
            self.tokens.push((Token::Text(kept.into()), self.line));
        }
        self.skip(end);
    }

    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.line += skipped.bytes().filter(|b| *b == b'\n').count();
        if !skipped.is_empty() {
            self.starts_line = skipped.ends_with('\n');
        }
        self.rest = rest;
    }

    /// Behind a tag that ends in `close`: `-` takes all white space, and one line end belongs to a block or comment.
    fn close(&mut self, close: &str, sign: Option<char>, takes_newline: bool) {
        self.skip(close.len() + usize::from(sign.is_some()));
        let after = match sign {
            Some('-') => self.rest.len() - self.rest.trim_start_matches(is_space).len(),
            None if takes_newline && self.options.trim => usize::from(self.rest.starts_with('\n')),
            _ => 0,
        };
        self.skip(after);
    }

    fn comment(&mut self) -> Result<(), String> {
        let end = self.rest.find("#}").ok_or("a comment is not closed")?;
        let sign = self.rest[..end].chars().next_back().filter(|c| ['-', '+'].contains(c));
        self.skip(end - usize::from(sign.is_some()));
        self.close("#}", sign, true);
        Ok(())
    }

    fn at_raw(&self) -> bool {
        raw_tag(self.rest, "raw").is_some()
    }

    /// Text between `{% raw %}` and `{% endraw %}`.
    fn raw(&mut self) -> Result<(), String> {
        let (length, sign) = raw_tag(self.rest, "raw").unwrap_or_default();
        self.skip(length);
        self.close("%}", sign, false);
        let mut from = 0;
        while let Some(at) = self.rest[from..].find("{%").map(|at| from + at) {
            let sign = self.rest[at + 2..].chars().next().filter(|c| ['-', '+'].contains(c));
            let inside = at + 2 + usize::from(sign.is_some());
            if let Some((length, close)) = raw_tag(&self.rest[inside..], "endraw") {
                self.text(at, Some(Tag::Block), sign);
                self.skip(inside - at + length);
                self.close("%}", close, true);
                return Ok(());
            }
            from = at + 2;
        }
        Err("`raw` is not closed".into())
    }

    /// The tokens of a tag up to its end.
    fn code(&mut self, tag: Tag) -> Result<(), String> {
        let (start, end, close) = match tag {
            Tag::Variable => (Token::VariableStart, Token::VariableEnd, "}}"),
            _ => (Token::BlockStart, Token::BlockEnd, "%}"),
        };
        self.tokens.push((start, self.line));
        let mut open: Vec<&str> = Vec::new();
        loop {
            let blank = self.rest.len() - self.rest.trim_start_matches(is_space).len();
            self.skip(blank);
            let Some(first) = self.rest.chars().next() else { return Err("a tag is not closed".into()) };
            if open.is_empty() {
                let sign = Some(first).filter(|c| *c == '-' || (*c == '+' && tag == Tag::Block));
                let sign = sign.filter(|_| self.rest[1..].starts_with(close));
                if sign.is_some() || self.rest.starts_with(close) {
                    self.tokens.push((end, self.line));
                    self.close(close, sign, tag == Tag::Block);
                    return Ok(());
                }
            }
            let after_point = matches!(self.tokens.last(), Some((Token::Operator("."), _)));
            let (token, length) = token(self.rest, first, after_point)?;
            match token {
                Token::Operator(bracket @ ("(" | "[" | "{")) => open.push(bracket),
                Token::Operator(bracket @ (")" | "]" | "}")) => {
                    let expected = open.pop().map(|open| {
                        if open == "(" {
                            ")"
                        } else if open == "[" {
                            "]"
                        } else {
                            "}"
                        }
                    });
                    if expected != Some(bracket) {
                        return Err(format!("unexpected `{bracket}`"));
                    }
                }
                _ => {}
            }
            self.tokens.push((token, self.line));
            self.skip(length);
        }
    }
}

/// Python's white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn next_tag(text: &str) -> Option<(usize, Tag)> {
    text.match_indices('{').find_map(|(at, _)| {
        let tag = match text.as_bytes().get(at + 1)? {
            b'{' => Tag::Variable,
            b'%' => Tag::Block,
            b'#' => Tag::Comment,
            _ => return None,
        };
        Some((at, tag))
    })
}

/// The length of ` name ` up to the sign before the end of its tag, and that sign.
fn raw_tag(text: &str, name: &str) -> Option<(usize, Option<char>)> {
    let rest = text.trim_start_matches(is_space).strip_prefix(name)?;
    let rest = rest.trim_start_matches(is_space);
    let sign = rest.chars().next().filter(|c| ['-', '+'].contains(c));
    rest[usize::from(sign.is_some())..].starts_with("%}").then_some((text.len() - rest.len(), sign))
}
