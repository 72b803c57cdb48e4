//! Values as text: Python's `str` and `repr`.

use super::Error;
use super::machine::Machine;
use super::number::float_repr;
use super::value::{Kind, Value};
use std::sync::Arc;

impl Machine<'_> {
    /// Write what `{{ value }}` writes.
    pub fn write(&mut self, out: &mut String, value: &Value) -> Result<(), Error> {
        self.check_defined(value)?;
        match value {
            Value::Undefined(_) => Ok(()),
            Value::Str(text) => self.push(out, text),
            other => self.write_repr(out, other),
        }
    }

    /// Python's `str(value)`.
    pub fn text(&mut self, value: &Value) -> Result<Arc<str>, Error> {
        if let Value::Str(text) = value {
            self.spend(1 + text.len() as u64 / 64)?;
            return Ok(text.clone());
        }
        let mut out = String::new();
        self.write(&mut out, value)?;
        Ok(out.into())
    }

    /// Python's `repr(value)`.
    pub fn repr(&mut self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write_repr(&mut out, value)?;
        Ok(out)
    }

    fn write_repr(&mut self, out: &mut String, value: &Value) -> Result<(), Error> {
        self.deeper(|machine| match value {
            Value::Undefined(_) => machine.push(out, "Undefined"),
            Value::None => machine.push(out, "None"),
            Value::Bool(value) => machine.push(out, if *value { "True" } else { "False" }),
            Value::Int(value) => machine.push(out, &value.to_string()),
            Value::Float(value) => machine.push(out, &float_repr(*value)),
            Value::Str(text) => {
                machine.spend_text(text.len())?;
                machine.push(out, &quoted(text))
            }
            Value::Seq(seq) => machine.write_seq(out, seq.kind, &seq.items),
            Value::Dict(dict) => machine.write_pairs(out, dict.entries.iter().map(|(key, value)| (key, value))),
            Value::Namespace(number) => {
                let attributes = machine.namespaces[*number].clone();
                let pairs: Vec<_> = attributes.into_iter().map(|(name, value)| (Value::Str(name), value)).collect();
                machine.push(out, "<Namespace ")?;
                machine.write_pairs(out, pairs.iter().map(|(name, value)| (name, value)))?;
                machine.push(out, ">")
            }
            Value::Macro(number) => {
                let (number, _) = machine.macros[*number];
                let name = quoted(&machine.program.macros[number].name);
                machine.push(out, &format!("<Macro {name}>"))
            }
            Value::Loop(state) => {
                let text = format!("<LoopContext {}/{}>", state.borrow().index + 1, state.borrow().items.len());
                machine.push(out, &text)
            }
            other => machine.push(out, &format!("<{}>", other.type_name())),
        })
    }

    fn write_seq(&mut self, out: &mut String, kind: Kind, items: &[Value]) -> Result<(), Error> {
        let (open, close) = match kind {
            Kind::List => ("[", "]"),
            Kind::Tuple | Kind::Group => ("(", if items.len() == 1 { ",)" } else { ")" }),
            Kind::Keys => ("dict_keys([", "])"),
            Kind::Values => ("dict_values([", "])"),
            Kind::Items => ("dict_items([", "])"),
            Kind::Generator => return self.push(out, "<generator object>"),
            Kind::Range => {
                let ends = match items {
                    [] => (0, 0, 1),
                    [Value::Int(first)] => (*first, first + 1, 1),
                    [Value::Int(first), Value::Int(second), ..] => {
                        let step = second - first;
                        (*first, first + step * items.len() as i128, step)
                    }
                    _ => (0, items.len() as i128, 1),
                };
                let text = match ends {
                    (first, last, 1) => format!("range({first}, {last})"),
                    (first, last, step) => format!("range({first}, {last}, {step})"),
                };
                return self.push(out, &text);
            }
        };
        self.push(out, open)?;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.push(out, ", ")?;
            }
            self.write_repr(out, item)?;
        }
        self.push(out, close)
    }

    fn write_pairs<'v>(&mut self, out: &mut String, pairs: impl Iterator<Item = (&'v Value, &'v Value)>) -> Result<(), Error> {
        self.push(out, "{")?;
        for (index, (key, value)) in pairs.enumerate() {
            if index > 0 {
                self.push(out, ", ")?;
            }
            self.write_repr(out, key)?;
            self.push(out, ": ")?;
            self.write_repr(out, value)?;
        }
        self.push(out, "}")
    }
}

/// A text in quotes, with what cannot be printed as escapes.
pub(super) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => {
                let code = c as u32;
                out.push_str(&match code {
                    0..0x100 => format!("\\x{code:02x}"),
                    0x100..0x10000 => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                });
            }
        }
    }
    out.push(quote);
    out
}

/// Python's `str.isprintable` of a character: neither a control, format, private or unassigned one nor a space other than ` `.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // Rust's rule for characters within a text is the same one.
    let mut buffer = [0; 5];
    buffer[0] = b'a';
    let length = c.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..=length]).is_ok_and(|text| text.escape_debug().count() == 2)
}
