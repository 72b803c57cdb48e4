//! Python's format specification: `>10`, `+.2f`, `,` and so on.

use super::Error;
use super::number::{fixed, float_repr, general, scientific};

/// How a value is to be written: Python's format specification.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spec {
    pub fill: Option<char>,
    pub align: Option<char>,
    pub sign: Option<char>,
    pub alternate: bool,
    pub width: usize,
    pub grouping: Option<char>,
    pub precision: Option<usize>,
    pub kind: Option<char>,
}

impl Spec {
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = || Error::new(format!("invalid format specifier '{}'", text.chars().take(40).collect::<String>()));
        let mut spec = Self::default();
        let mut rest = text;
        let is_align = |c: &char| ['<', '>', '=', '^'].contains(c);
        let (first, second) = (rest.chars().next(), rest.chars().nth(1));
        if let (Some(fill), Some(align)) = (first, second.filter(is_align)) {
            (spec.fill, spec.align) = (Some(fill), Some(align));
            rest = &rest[fill.len_utf8() + 1..];
        } else if let Some(align) = first.filter(is_align) {
            spec.align = Some(align);
            rest = &rest[1..];
        }
        let mut take = |set: &[char]| {
            let found = rest.chars().next().filter(|c| set.contains(c));
            rest = &rest[usize::from(found.is_some())..];
            found
        };
        spec.sign = take(&['+', '-', ' ']);
        spec.alternate = take(&['#']).is_some();
        if take(&['0']).is_some() && spec.fill.is_none() {
            spec.fill = Some('0');
            spec.align = spec.align.or(Some('='));
        }
        (spec.width, rest) = digits(rest);
        let mut take = |set: &[char]| {
            let found = rest.chars().next().filter(|c| set.contains(c));
            rest = &rest[usize::from(found.is_some())..];
            found
        };
        spec.grouping = take(&[',', '_']);
        if take(&['.']).is_some() {
            let before = rest;
            let (precision, after) = digits(rest);
            if before.len() == after.len() {
                return Err(Error::new("Format specifier missing precision"));
            }
            (spec.precision, rest) = (Some(precision), after);
        }
        spec.kind = rest.chars().next();
        let kind_length = spec.kind.map_or(0, char::len_utf8);
        if rest.len() > kind_length { Err(invalid()) } else { Ok(spec) }
    }

    /// The body with its sign, filled up to the width.
    pub fn padded(&self, sign: &str, body: &str, align: char) -> String {
        let missing = self.width.saturating_sub(sign.chars().count() + body.chars().count());
        let fill = |count: usize| self.fill.unwrap_or(' ').to_string().repeat(count);
        match self.align.unwrap_or(align) {
            '<' => format!("{sign}{body}{}", fill(missing)),
            '^' => format!("{}{sign}{body}{}", fill(missing / 2), fill(missing - missing / 2)),
            '=' => format!("{sign}{}{body}", fill(missing)),
            _ => format!("{}{sign}{body}", fill(missing)),
        }
    }

    pub fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        }
    }

    pub fn text(&self, text: &str) -> Result<String, Error> {
        if !matches!(self.kind, None | Some('s')) || self.align == Some('=') && self.fill != Some('0') || self.sign.is_some() {
            return Err(Error::new(format!("Unknown format code '{}' for object of type 'str'", self.kind.unwrap_or('='))));
        }
        let cut: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        let align = if self.align == Some('=') { Some('<') } else { self.align };
        Ok(Self { align, ..*self }.padded("", &cut, '<'))
    }

    pub fn integer(&self, value: i128) -> Result<String, Error> {
        let size = value.unsigned_abs();
        let body = match self.kind {
            None | Some('d' | 'n') => size.to_string(),
            Some('b') => format!("{size:b}"),
            Some('o') => format!("{size:o}"),
            Some('x') => format!("{size:x}"),
            Some('X') => format!("{size:X}"),
            Some('c') => return Ok(self.padded("", &character(value)?, '<')),
            Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => return self.float(value as f64),
            Some(kind) => return Err(Error::new(format!("Unknown format code '{kind}' for object of type 'int'"))),
        };
        if self.precision.is_some() {
            return Err(Error::new("Precision not allowed in integer format specifier"));
        }
        let prefix = match self.kind {
            Some(kind @ ('b' | 'o' | 'x' | 'X')) if self.alternate => format!("0{kind}"),
            _ => String::new(),
        };
        let every = if matches!(self.kind, Some('b' | 'o' | 'x' | 'X')) { 4 } else { 3 };
        let sign = format!("{}{prefix}", self.sign(value < 0));
        Ok(self.padded(&sign, &self.grouped(&body, every, sign.len()), '>'))
    }

    pub fn float(&self, value: f64) -> Result<String, Error> {
        let size = value.abs();
        let upper = matches!(self.kind, Some('E' | 'F' | 'G'));
        let mark = if upper { 'E' } else { 'e' };
        let precision = self.precision.unwrap_or(6);
        let body = match self.kind {
            _ if !size.is_finite() => {
                if upper {
                    float_repr(size).to_uppercase()
                } else {
                    float_repr(size)
                }
            }
            None => match self.precision {
                None => float_repr(size),
                Some(precision) => general(size, precision, mark, self.alternate, true),
            },
            Some('f' | 'F') => fixed(size, precision),
            Some('e' | 'E') => scientific(size, precision, mark),
            Some('g' | 'G' | 'n') => general(size, precision, mark, self.alternate, false),
            Some('%') => fixed(size * 100.0, precision) + "%",
            Some(kind) => return Err(Error::new(format!("Unknown format code '{kind}' for object of type 'float'"))),
        };
        let sign = self.sign(value.is_sign_negative() && !value.is_nan());
        let (whole, rest) = body.split_at(body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len()));
        Ok(self.padded(sign, &(self.grouped(whole, 3, sign.len() + rest.len()) + rest), '>'))
    }

    /// Digits with separators, filled with zeros up to the width where it asks for those.
    fn grouped(&self, digits: &str, every: usize, beside: usize) -> String {
        let Some(separator) = self.grouping.filter(|_| digits.starts_with(|c: char| c.is_ascii_hexdigit())) else { return digits.into() };
        let mut digits = digits.to_string();
        if self.fill == Some('0') && self.align == Some('=') {
            let with_separators = |count: usize| count + (count - 1) / every;
            while with_separators(digits.len() + 1) + beside <= self.width {
                digits.insert(0, '0');
            }
            if with_separators(digits.len()) + beside < self.width {
                digits.insert(0, '0');
            }
        }
        let mut out = String::new();
        for (index, c) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(every) {
                out.push(separator);
            }
            out.push(c);
        }
        out
    }
}

/// Leading digits as a number, which is huge if they are many, and what follows.
pub(super) fn digits(text: &str) -> (usize, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = if end == 0 { 0 } else { text[..end].parse().unwrap_or(usize::MAX) };
    (number, &text[end..])
}

pub(super) fn character(code: i128) -> Result<String, Error> {
    let c = u32::try_from(code).ok().and_then(char::from_u32);
    c.map(String::from).ok_or_else(|| Error::new("%c arg not in range(0x110000)"))
}
