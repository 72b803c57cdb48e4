//! What chat templates expect of Python: `json.dumps` behind the `tojson` filter, and string methods.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use serde_json::Value as Json;
use std::fmt::Write;

/// The `tojson` filter of transformers: `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(state: &State, value: &Value, ensure_ascii: Option<bool>, options: Kwargs) -> Result<String, Error> {
    let named: Option<bool> = options.get("ensure_ascii")?;
    let indent = indent(options.get("indent")?)?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(invalid("separators must be (item_separator, key_separator)")),
    };
    let style = Style {
        state,
        ensure_ascii: ensure_ascii.or(named).unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
        indent: indent.as_deref(),
        item,
        key,
    };
    let mut out = String::new();
    style.write(&mut out, value, 0)?;
    Ok(out)
}

/// JSON as a template value, its keys in order.
pub(crate) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(entries) => Value::from_pairs(entries.iter().map(|(key, value)| (key.clone(), from_json(value)))),
    }
}

fn indent(value: Option<Value>) -> Result<Option<String>, Error> {
    let Some(value) = value.filter(|v| !v.is_none()) else { return Ok(None) };
    match value.as_str() {
        Some(text) => Ok(Some(text.into())),
        None => Ok(Some(" ".repeat(usize::try_from(value)?.min(64)))),
    }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// How deep a value may be nested; Python's `json` ends there too.
const MAX_DEPTH: usize = 500;

struct Style<'a, 's, 't> {
    /// Of the template, whose budget pays for the text.
    state: &'a State<'s, 't>,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<&'a str>,
    item: &'a str,
    key: &'a str,
}

impl Style<'_, '_, '_> {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("a value nested more than 500 deep is not JSON serializable"));
        }
        let bytes = value.as_str().map_or(0, str::len) + self.indent.map_or(0, |indent| indent.len() * depth);
        self.state.consume_fuel(4 + bytes as u64 / 64)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)?),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                self.block(out, ['[', ']'], items, depth, |out, item| self.write(out, &item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.block(out, ['{', '}'], keys, depth, |out, key| {
                    self.string(out, &key_text(&key)?);
                    out.push_str(self.key);
                    self.write(out, &value.get_item(&key)?, depth + 1)
                })?;
            }
            other => return Err(invalid(format!("a value of type {other} is not JSON serializable"))),
        }
        Ok(())
    }

    fn block<T>(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: impl IntoIterator<Item = T>,
        depth: usize,
        mut write: impl FnMut(&mut String, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        let mut empty = true;
        for item in items {
            if !empty {
                out.push_str(self.item);
            }
            empty = false;
            self.new_line(out, depth + 1);
            write(out, item)?;
        }
        if !empty {
            self.new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => escape(out, c),
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// `\uXXXX` for each UTF-16 unit of `c`.
fn escape(out: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(out, "\\u{unit:04x}"); // writing to a string cannot fail
    }
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let x = f64::try_from(value.clone())?;
    Ok(match x {
        x if x.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        x => float_repr(x),
    })
}

/// Python's `repr` of a finite float: as Rust's `Debug`, but with `e+16` and `e-07` where Rust writes `e16` and `e-7`.
fn float_repr(x: f64) -> String {
    let text = format!("{x:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => match exponent.strip_prefix('-') {
            Some(digits) => format!("{mantissa}e-{digits:0>2}"),
            None => format!("{mantissa}e+{exponent:0>2}"),
        },
        None => text,
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().into(),
        ValueKind::Number => number(key)?,
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::None => "null".into(),
        other => return Err(invalid(format!("a JSON key must be a string, found {other}"))),
    })
}

/// Jinja's test `iterable`: what Python can loop over, which excludes `none`.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Jinja's test `sequence`: what has a length and items in Python, which includes strings and mappings.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined)
}

/// Python methods that minijinja-contrib lacks; everything else goes to it.
pub(crate) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match name {
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(text.strip_prefix(prefix).unwrap_or(text).into());
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(text.strip_suffix(suffix).unwrap_or(text).into());
            }
            "partition" => {
                let (separator,): (&str,) = from_args(args)?;
                let (head, tail) = text.split_once(separator).map_or((text, None), |(h, t)| (h, Some(t)));
                return Ok([head, tail.map_or("", |_| separator), tail.unwrap_or("")].into_iter().collect());
            }
            "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                let (head, tail) = text.rsplit_once(separator).map_or((None, text), |(h, t)| (Some(h), t));
                return Ok([head.unwrap_or(""), head.map_or("", |_| separator), tail].into_iter().collect());
            }
            "rsplit" if !args.is_empty() && !args[0].is_none() => {
                let (separator, limit): (&str, Option<usize>) = from_args(args)?;
                let limit = limit.map_or(usize::MAX, |n| n.saturating_add(1));
                let mut parts: Vec<&str> = text.rsplitn(limit, separator).collect();
                parts.reverse();
                return Ok(parts.into_iter().collect());
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context};

    fn eval(template: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        environment.add_test("iterable", super::is_iterable);
        environment.add_test("sequence", super::is_sequence);
        environment.set_unknown_method_callback(super::method);
        let values = context! {
            x => super::from_json(&serde_json::json!({"text": "a<b> & 'c' \"é\"\n\u{1}😀", "list": [1, 2.0, 1e16, 1e-7, true, null]})),
        };
        environment.render_str(template, values).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn tojson_writes_what_json_dumps_writes() {
        assert_eq!(eval("{{ x.list | tojson }}"), "[1, 2.0, 1e+16, 1e-07, true, null]");
        assert_eq!(eval("{{ x.text | tojson }}"), r#""a<b> & 'c' \"é\"\n\u0001😀""#);
        assert_eq!(eval("{{ x.text | tojson(ensure_ascii=true) }}"), r#""a<b> & 'c' \"\u00e9\"\n\u0001\ud83d\ude00""#);
        assert_eq!(eval("{{ {'b': 1, 'a': []} | tojson(sort_keys=true) }}"), r#"{"a": [], "b": 1}"#);
        assert_eq!(eval("{{ {'a': [1, {}]} | tojson(indent=2) }}"), "{\n  \"a\": [\n    1,\n    {}\n  ]\n}");
        assert_eq!(eval("{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}"), r#"{"a":[1,2]}"#);
        assert_eq!(eval("{{ {2: none, true: 0.5} | tojson }}"), r#"{"2": null, "true": 0.5}"#);
    }

    #[test]
    fn tojson_refuses_what_python_refuses() {
        assert!(eval("{{ missing | tojson }}").contains("not JSON serializable"));
        assert!(eval("{{ 1 | tojson(idnent=2) }}").contains("idnent"));
    }

    #[test]
    fn tests_of_types_agree_with_python() {
        assert_eq!(
            eval("{{ none is iterable }} {{ x is iterable }} {{ 'a' is iterable }} {{ missing is iterable }}"),
            "False True True True"
        );
        assert_eq!(eval("{{ none is sequence }} {{ [] is sequence }} {{ 'a' is sequence }} {{ 1 is sequence }}"), "False True True False");
    }

    #[test]
    fn string_methods_behave_as_in_python() {
        assert_eq!(eval("{{ 'abc'.removeprefix('a') ~ 'abc'.removesuffix('c') ~ 'abc'.removeprefix('b') }}"), "bcababc");
        assert_eq!(eval("{{ 'a-b-c'.rsplit('-', 1) }} {{ 'a-b-c'.rsplit('-')[0] }}"), "['a-b', 'c'] a");
        assert_eq!(eval("{{ 'a-b-c'.partition('-')[2] }} {{ 'a-b-c'.rpartition('-')[0] }} {{ 'ab'.partition('-')[0] }}"), "b-c a-b ab");
        assert_eq!(eval("{{ ' a '.strip() ~ 'a<t>b'.split('<t>')[-1] }}"), "ab");
    }
}
