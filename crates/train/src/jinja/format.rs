//! Python's `'%s' % x` and `'{}'.format(x)`.

use super::Error;
use super::calls::Args;
use super::machine::Machine;
use super::number::truncate;
use super::spec::{Spec, character, digits};
use super::value::{Kind, Value};
use std::sync::Arc;

impl Machine<'_> {
    /// `format % values`.
    pub fn percent_format(&mut self, format: &str, values: &Value) -> Result<Value, Error> {
        let (mut given, is_tuple) = match values {
            Value::Seq(seq) if matches!(seq.kind, Kind::Tuple | Kind::Group) => (seq.items.clone().into_iter(), true),
            other => (vec![other.clone()].into_iter(), false),
        };
        let mut next = || given.next().ok_or_else(|| Error::new("not enough arguments for format string"));
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            self.push(&mut out, &rest[..at])?;
            rest = &rest[at + 1..];
            let mut named = None;
            if rest.starts_with('(') {
                let end = rest.find(')').ok_or_else(|| Error::new("incomplete format key"))?;
                named = Some(self.item_of_mapping(values, &rest[1..end])?);
                rest = &rest[end + 1..];
            }
            let flags_end = rest.find(|c| !['-', '+', ' ', '#', '0'].contains(&c)).unwrap_or(rest.len());
            let flags = &rest[..flags_end];
            rest = &rest[flags_end..];
            let mut spec = Spec {
                sign: ['+', ' '].into_iter().find(|sign| flags.contains(*sign)),
                alternate: flags.contains('#'),
                align: Some(if flags.contains('-') { '<' } else { '>' }),
                ..Spec::default()
            };
            let mut star = |rest: &mut &str| -> Result<Option<i128>, Error> {
                match rest.strip_prefix('*') {
                    Some(after) => {
                        *rest = after;
                        next()?.as_int().map(Some).ok_or_else(|| Error::new("* wants int"))
                    }
                    None => Ok(None),
                }
            };
            match star(&mut rest)? {
                Some(width) => {
                    if width < 0 {
                        spec.align = Some('<');
                    }
                    spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
                }
                None => (spec.width, rest) = digits(rest),
            }
            if let Some(after) = rest.strip_prefix('.') {
                rest = after;
                spec.precision = Some(match star(&mut rest)? {
                    Some(precision) => usize::try_from(precision.max(0)).unwrap_or(usize::MAX),
                    None => {
                        let (precision, after) = digits(rest);
                        rest = after;
                        precision
                    }
                });
            }
            rest = rest.trim_start_matches(['h', 'l', 'L']);
            let kind = rest.chars().next().ok_or_else(|| Error::new("incomplete format"))?;
            rest = &rest[kind.len_utf8()..];
            if kind == '%' {
                self.push(&mut out, "%")?;
                continue;
            }
            let value = match named {
                Some(value) => value,
                None => next()?,
            };
            self.spend_text(spec.width.saturating_mul(4).saturating_add(spec.precision.unwrap_or(0)))?;
            let text = self.percent_value(kind, spec, flags, &value)?;
            self.push(&mut out, &text)?;
        }
        self.push(&mut out, rest)?;
        let left_over = if is_tuple { given.next().is_some() } else { given.next().is_some_and(|value| !matches!(value, Value::Dict(_))) };
        if left_over {
            return Err(Error::new("not all arguments converted during string formatting"));
        }
        Ok(Value::str(out))
    }

    fn percent_value(&mut self, kind: char, spec: Spec, flags: &str, value: &Value) -> Result<String, Error> {
        let zeros = Spec { fill: Some('0'), align: Some('='), ..spec };
        let spec_of_number = if flags.contains('0') && !flags.contains('-') { zeros } else { spec };
        let wanted = |what: &str| Error::new(format!("%{kind} format: {what} is required, not {}", value.type_name()));
        match kind {
            's' | 'r' | 'a' => {
                let text: Arc<str> = if kind == 's' { self.text(value)? } else { self.repr(value)?.into() };
                Spec { kind: None, sign: None, ..spec }.text(&text)
            }
            'c' => {
                let text = match value {
                    Value::Str(text) if text.chars().count() == 1 => text.to_string(),
                    other => character(other.as_int().ok_or_else(|| wanted("an integer or a character"))?)?,
                };
                Ok(Spec { precision: None, ..spec }.padded("", &text, '>'))
            }
            'd' | 'i' | 'u' => {
                let number = match value {
                    Value::Float(x) => truncate(*x),
                    other => other.as_int(),
                };
                let number = number.ok_or_else(|| wanted("a real number"))?;
                let digits = Spec { precision: None, kind: None, width: 0, sign: None, ..spec }.integer(number.saturating_abs())?;
                let least = spec.precision.unwrap_or(0);
                let digits = format!("{}{}", "0".repeat(least.saturating_sub(digits.len())), digits.trim_start());
                Ok(spec_of_number.padded(spec.sign(number < 0), &digits, '>'))
            }
            'x' | 'X' | 'o' => {
                let number = value.as_int().ok_or_else(|| wanted("an integer"))?;
                Spec { kind: Some(kind), precision: None, ..spec_of_number }.integer(number)
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let number = value.as_float().ok_or_else(|| wanted("a real number"))?;
                Spec { kind: Some(kind), ..spec_of_number }.float(number)
            }
            other => Err(Error::new(format!("unsupported format character '{other}'"))),
        }
    }

    fn item_of_mapping(&mut self, values: &Value, key: &str) -> Result<Value, Error> {
        let Value::Dict(dict) = values else { return Err(Error::new("format requires a mapping")) };
        let found = self.key(&Value::str(key))?;
        dict.get(&found).cloned().ok_or_else(|| Error::new(format!("the mapping has no key `{key}`")))
    }

    /// `format.format(…)`.
    pub fn brace_format(&mut self, format: &str, args: Args) -> Result<Value, Error> {
        let mut numbered = 0;
        self.braces(format, &args, &mut numbered, 0).map(Value::str)
    }

    fn braces(&mut self, format: &str, args: &Args, numbered: &mut usize, depth: usize) -> Result<String, Error> {
        if depth > 1 {
            return Err(Error::new("Max string recursion exceeded"));
        }
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            self.push(&mut out, &rest[..at])?;
            let brace = &rest[at..at + 1];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                self.push(&mut out, brace)?;
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(Error::new("Single '}' encountered in format string"));
            }
            let end = field_end(rest).ok_or_else(|| Error::new("expected '}' before end of string"))?;
            let (field, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            let (field, spec) = field.split_once(':').unwrap_or((field, ""));
            let (name, conversion) = field.split_once('!').map_or((field, None), |(name, conversion)| (name, Some(conversion)));
            let value = self.field(name, args, numbered)?;
            let value = match conversion {
                None => value,
                Some("s") => Value::Str(self.text(&value)?),
                Some("r" | "a") => Value::str(self.repr(&value)?),
                Some(other) => return Err(Error::new(format!("Unknown conversion specifier '{other:.20}'"))),
            };
            let spec = if spec.contains(['{', '}']) { self.braces(spec, args, numbered, depth + 1)? } else { spec.to_string() };
            let text = self.formatted(&value, &spec)?;
            self.push(&mut out, &text)?;
        }
        self.push(&mut out, rest)?;
        Ok(out)
    }

    /// The value of `name.attribute[item]`.
    fn field(&mut self, name: &str, args: &Args, numbered: &mut usize) -> Result<Value, Error> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let missing = || Error::new(format!("nothing was given for `{{{name:.40}}}`"));
        let mut value = if first.is_empty() {
            *numbered += 1;
            args.positional.get(*numbered - 1).cloned()
        } else if let Ok(index) = first.parse::<usize>() {
            args.positional.get(index).cloned()
        } else {
            args.named.iter().find(|(known, _)| &**known == first).map(|(_, value)| value.clone())
        }
        .ok_or_else(missing)?;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = self.attribute(&value, &after[..end])?;
                rest = &after[end..];
            } else {
                let end = rest.find(']').ok_or_else(|| Error::new("Missing ']' in format string"))?;
                let key = &rest[1..end];
                let key = key.parse::<i128>().map_or_else(|_| Value::str(key), Value::Int);
                value = self.item(&value, &key)?;
                rest = &rest[end + 1..];
            }
        }
        Ok(value)
    }

    fn formatted(&mut self, value: &Value, spec: &str) -> Result<String, Error> {
        if spec.is_empty() {
            return Ok(self.text(value)?.to_string());
        }
        let spec = Spec::parse(spec)?;
        self.spend_text(spec.width.saturating_mul(4).saturating_add(spec.precision.unwrap_or(0)))?;
        match value {
            Value::Str(text) => spec.text(text),
            Value::Float(x) => spec.float(*x),
            Value::Bool(_) if spec.kind == Some('s') => Err(Error::new("Unknown format code 's' for object of type 'bool'")),
            other => match other.as_int() {
                Some(number) => spec.integer(number),
                None => Err(Error::new(format!("unsupported format string passed to {}.__format__", other.type_name()))),
            },
        }
    }
}

/// Where a field ends whose `{` has been read.
fn field_end(text: &str) -> Option<usize> {
    let mut open = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}
