//! The `tojson` filter of transformers: `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.

use super::Error;
use super::calls::Args;
use super::machine::Machine;
use super::number::float_repr;
use super::value::{Kind, Value};
use std::fmt::Write;

struct Style {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Machine<'_> {
    pub fn tojson(&mut self, value: &Value, args: Args) -> Result<Value, Error> {
        let [ensure_ascii, indent, separators, sort_keys] = args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
        let flag = |machine: &Self, value: Option<Value>| value.map_or(Ok(false), |value| machine.truth(&value));
        let indent = self.indent(indent)?;
        let (item, key) = match separators.filter(|separators| !matches!(separators, Value::None)) {
            None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
            Some(separators) => match &self.items(&separators)?[..] {
                [Value::Str(item), Value::Str(key)] => (item.to_string(), key.to_string()),
                _ => return Err(Error::new("separators must be (item_separator, key_separator)")),
            },
        };
        let style = Style { ensure_ascii: flag(self, ensure_ascii)?, sort_keys: flag(self, sort_keys)?, indent, item, key };
        let mut out = String::new();
        self.write_json(&style, &mut out, value, 0)?;
        Ok(Value::str(out))
    }

    fn indent(&mut self, indent: Option<Value>) -> Result<Option<String>, Error> {
        match indent {
            None | Some(Value::None) => Ok(None),
            Some(Value::Str(text)) => {
                self.spend_text(text.len())?;
                Ok(Some(text.to_string()))
            }
            Some(other) => {
                let width = other.as_int().ok_or_else(|| Error::new("`indent` must be a number or a text"))?;
                let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
                self.spend_text(width)?;
                Ok(Some(" ".repeat(width)))
            }
        }
    }

    fn write_json(&mut self, style: &Style, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        self.deeper(|machine| match value {
            Value::None => machine.push(out, "null"),
            Value::Bool(value) => machine.push(out, if *value { "true" } else { "false" }),
            Value::Int(value) => machine.push(out, &value.to_string()),
            Value::Float(value) => machine.push(out, &json_float(*value)),
            Value::Str(text) => machine.json_string(style, out, text),
            Value::Seq(seq) if matches!(seq.kind, Kind::List | Kind::Tuple | Kind::Group) => {
                machine.push(out, "[")?;
                for (index, item) in seq.items.iter().enumerate() {
                    machine.between(style, out, index, depth + 1)?;
                    machine.write_json(style, out, item, depth + 1)?;
                }
                machine.closing(style, out, seq.items.is_empty(), depth)?;
                machine.push(out, "]")
            }
            Value::Dict(dict) => {
                let mut entries: Vec<&(Value, Value)> = dict.entries.iter().collect();
                if style.sort_keys {
                    machine.sort_by_key(&mut entries)?;
                }
                machine.push(out, "{")?;
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    machine.between(style, out, index, depth + 1)?;
                    machine.json_key(style, out, key)?;
                    machine.push(out, &style.key)?;
                    machine.write_json(style, out, value, depth + 1)?;
                }
                machine.closing(style, out, dict.entries.is_empty(), depth)?;
                machine.push(out, "}")
            }
            other => Err(Error::new(format!("Object of type {} is not JSON serializable", other.type_name()))),
        })
    }

    fn sort_by_key(&mut self, entries: &mut [&(Value, Value)]) -> Result<(), Error> {
        let mut failed = None;
        entries.sort_by(|a, b| match self.order(&a.0, &b.0, "<") {
            Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
            Err(error) => {
                failed = Some(error);
                std::cmp::Ordering::Equal
            }
        });
        failed.map_or(Ok(()), Err)
    }

    fn json_key(&mut self, style: &Style, out: &mut String, key: &Value) -> Result<(), Error> {
        let text = match key {
            Value::Str(text) => return self.json_string(style, out, text),
            Value::None => "null".into(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => json_float(*value),
            other => return Err(Error::new(format!("keys must be str, int, float, bool or None, not {}", other.type_name()))),
        };
        self.json_string(style, out, &text)
    }

    /// What stands before an item.
    fn between(&mut self, style: &Style, out: &mut String, index: usize, depth: usize) -> Result<(), Error> {
        if index > 0 {
            self.push(out, &style.item)?;
        }
        self.new_line(style, out, depth)
    }

    fn closing(&mut self, style: &Style, out: &mut String, empty: bool, depth: usize) -> Result<(), Error> {
        if empty { Ok(()) } else { self.new_line(style, out, depth) }
    }

    fn new_line(&mut self, style: &Style, out: &mut String, depth: usize) -> Result<(), Error> {
        let Some(indent) = &style.indent else { return Ok(()) };
        self.spend_text(indent.len().saturating_mul(depth))?;
        self.push(out, &format!("\n{}", indent.repeat(depth)))
    }

    fn json_string(&mut self, style: &Style, out: &mut String, text: &str) -> Result<(), Error> {
        self.spend_text(text.len())?;
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('"');
        for c in text.chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\x08' => quoted.push_str("\\b"),
                '\x0c' => quoted.push_str("\\f"),
                c if c < ' ' || (style.ensure_ascii && !(' '..='~').contains(&c)) => escape(&mut quoted, c),
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        self.push(out, &quoted)
    }
}

/// `\uXXXX` for each UTF-16 unit of `c`.
fn escape(out: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(out, "\\u{unit:04x}"); // writing to a string cannot fail
    }
}

fn json_float(x: f64) -> String {
    match x {
        x if x.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        x => float_repr(x),
    }
}
