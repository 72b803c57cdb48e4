//! Objects in one JSON array.

use super::messages::kind;
use super::row::{MAX_ROW, check_size, fault};
use serde::de::IgnoredAny;
use serde_json::{Deserializer, Map, Value};

/// An object of a file.
type Object = Map<String, Value>;

/// The objects of an array, each with the line it begins in. Ends with the first that is none.
pub(super) struct Elements<'a> {
    bytes: &'a [u8],
    position: usize,
    /// The line of `position`, from 1.
    line: usize,
    ended: bool,
}

impl<'a> Elements<'a> {
    /// Those of `bytes`, which begin with `[` and possibly space before it.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, line: 1, ended: false }
    }

    /// The next object and its line; none at the end of the array.
    fn element(&mut self) -> Result<Option<(usize, Object)>, String> {
        let is_first = self.take(b'[');
        if self.take(b']') {
            let rest = self.next_byte().map(|_| "expected nothing after the array; a file is one array, or has one object per line");
            return rest.map_or(Ok(None), |reason| Err(reason.into()));
        }
        if !is_first && !self.take(b',') {
            return Err("expected `,` or `]` after an object of the array".into());
        }
        self.next_byte();
        let line = self.line;
        let rest = &self.bytes[self.position..];
        let row = &rest[..rest.len().min(MAX_ROW)];
        let mut values = Deserializer::from_slice(row).into_iter();
        let object = match values.next() {
            Some(Ok(Value::Object(object))) => object,
            Some(Ok(other)) => return Err(format!("expected objects in the array, found {}", kind(&other))),
            Some(Err(e)) => {
                if e.is_eof() {
                    check_size(value_bytes(rest))?;
                }
                self.line += e.line().saturating_sub(1);
                let (reason, remedy) = fault(&e, row);
                return Err(format!("not valid JSON: {reason}{}", remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default()));
            }
            None => return Err("not valid JSON: the array does not end".into()),
        };
        let end = self.position + values.byte_offset();
        self.advance(end);
        Ok(Some((line, object)))
    }

    fn advance(&mut self, to: usize) {
        self.line += self.bytes[self.position..to].iter().filter(|byte| **byte == b'\n').count();
        self.position = to;
    }

    /// The next byte that is no space, which becomes the position.
    fn next_byte(&mut self) -> Option<u8> {
        let rest = self.bytes[self.position..].trim_ascii_start();
        self.advance(self.bytes.len() - rest.len());
        rest.first().copied()
    }

    /// Pass the next byte that is no space if it is `wanted`.
    fn take(&mut self, wanted: u8) -> bool {
        let found = self.next_byte() == Some(wanted);
        self.position += usize::from(found);
        found
    }
}

/// The bytes of the value that a text begins with; all if it does not end.
fn value_bytes(json: &[u8]) -> usize {
    let mut values = Deserializer::from_slice(json).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => values.byte_offset(),
        _ => json.len(),
    }
}

impl Iterator for Elements<'_> {
    type Item = (usize, Result<Object, String>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let element = self.element();
        self.ended = !matches!(element, Ok(Some(_)));
        match element {
            Ok(element) => element.map(|(line, object)| (line, Ok(object))),
            Err(reason) => Some((self.line, Err(reason))),
        }
    }
}
