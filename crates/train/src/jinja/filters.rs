//! Filters of texts and numbers; [`lists`](super::lists) has those of sequences.

use super::Error;
use super::calls::Args;
use super::lexer::is_space;
use super::machine::Machine;
use super::number::{parse_float, parse_int, round, truncate};
use super::strings::lines;
use super::value::Value;
use std::sync::Arc;

impl Machine<'_> {
    pub fn filter(&mut self, name: &str, value: Value, args: Args) -> Result<Value, Error> {
        self.filter_markup(name, value, args).map(Value::without_markup)
    }

    /// As [`filter`](Self::filter), with what is marked as safe.
    pub fn filter_markup(&mut self, name: &str, value: Value, args: Args) -> Result<Value, Error> {
        match name {
            "tojson" => self.tojson(&value, args),
            "default" | "d" => self.default(value, args),
            "safe" => {
                let [] = args.bind(name, [])?;
                Ok(Value::Markup(self.text(&value)?))
            }
            "string" => {
                let [] = args.bind(name, [])?;
                Ok(Value::Str(self.text(&value)?))
            }
            "int" | "float" | "abs" | "round" => self.number_filter(name, &value, args),
            "attr" => {
                let [attribute] = args.bind("attr", ["name"])?;
                let attribute = attribute.ok_or_else(|| Error::new("`attr` needs a name"))?;
                let attribute = self.text(&attribute)?;
                // Items of mappings are no attributes in Python.
                match value {
                    Value::Dict(_) if !super::methods::has(&value, &attribute) => Ok(Value::Undefined(Some(attribute))),
                    value => self.attribute(&value, &attribute),
                }
            }
            "format" => {
                let format = self.text(&value)?;
                let values = match args.named.is_empty() {
                    true => Value::tuple(args.positional)?,
                    false => self.dict(args.named.into_iter().map(|(name, value)| (Value::Str(name), value)))?,
                };
                self.percent_format(&format, &values)
            }
            "pprint" => self.repr(&value).map(Value::str),
            _ => match self.text_filter(name, &value, &args)? {
                Some(result) => Ok(result),
                None => self.list_filter(name, value, args),
            },
        }
    }

    fn default(&mut self, value: Value, args: Args) -> Result<Value, Error> {
        let [default, boolean] = args.bind("default", ["default_value", "boolean"])?;
        let boolean = boolean.map_or(Ok(false), |boolean| self.truth(&boolean))?;
        let missing = value.is_undefined() || (boolean && !self.truth(&value)?);
        Ok(if missing { default.unwrap_or_else(|| Value::str("")) } else { value })
    }

    fn number_filter(&mut self, name: &str, value: &Value, args: Args) -> Result<Value, Error> {
        if let Value::Undefined(missing) = value {
            return Err(super::machine::undefined(missing.as_deref()));
        }
        if let Value::Str(text) = value {
            // Numbers are short; a text is read several times before it is none.
            self.spend(1 + text.len() as u64 / 8)?;
        }
        match name {
            "int" => {
                let [default, base] = args.bind("int", ["default", "base"])?;
                let base = base.as_ref().and_then(Value::as_int).and_then(|base| u32::try_from(base).ok()).unwrap_or(10);
                let number = match value {
                    Value::Str(text) => parse_int(text, base).or_else(|| parse_float(text).and_then(truncate)),
                    Value::Float(x) => truncate(*x),
                    other => other.as_int(),
                };
                Ok(number.map(Value::Int).or(default).unwrap_or(Value::Int(0)))
            }
            "float" => {
                let [default] = args.bind("float", ["default"])?;
                let number = match value {
                    Value::Str(text) => parse_float(text),
                    other => other.as_float(),
                };
                Ok(number.map(Value::Float).or(default).unwrap_or(Value::Float(0.0)))
            }
            "abs" => {
                let [] = args.bind("abs", [])?;
                match value {
                    Value::Float(x) => Ok(Value::Float(x.abs())),
                    other => match other.as_int().and_then(i128::checked_abs) {
                        Some(number) => Ok(Value::Int(number)),
                        None => Err(Error::new(format!("bad operand type for abs(): '{}'", other.type_name()))),
                    },
                }
            }
            _ => {
                let [precision, method] = args.bind("round", ["precision", "method"])?;
                let precision = precision.as_ref().and_then(Value::as_int).unwrap_or(0);
                let method = method.as_ref().and_then(Value::as_str).unwrap_or("common").to_string();
                rounded(value, precision, &method)
            }
        }
    }

    fn text_filter(&mut self, name: &str, value: &Value, args: &Args) -> Result<Option<Value>, Error> {
        const NAMES: [&str; 18] = [
            "upper",
            "lower",
            "capitalize",
            "title",
            "trim",
            "replace",
            "indent",
            "center",
            "truncate",
            "wordcount",
            "escape",
            "e",
            "forceescape",
            "urlencode",
            "striptags",
            "lines",
            "split",
            "wordwrap",
        ];
        if !NAMES.contains(&name) {
            return Ok(None);
        }
        let text = self.text(value)?;
        self.spend(1 + text.len() as u64 / 64)?;
        let args = args.clone();
        let result = match name {
            "upper" | "lower" | "capitalize" => {
                let [] = args.bind(name, [])?;
                self.spend_text(text.len())?;
                Value::str(cased(&text, name).unwrap_or_default())
            }
            "title" => {
                let [] = args.bind(name, [])?;
                self.spend_text(text.len())?;
                Value::str(title(&text))
            }
            "trim" => {
                let [characters] = args.bind("trim", ["chars"])?;
                let positional = characters.into_iter().collect();
                return self.method(&Value::Str(text), "strip", Args { positional, named: Vec::new() }).map(Some);
            }
            "replace" => {
                let [old, new, count] = args.bind("replace", ["old", "new", "count"])?;
                let (Some(old), Some(new)) = (old, new) else { return Err(Error::new("`replace` needs two texts")) };
                let (old, new) = (self.text(&old)?, self.text(&new)?);
                let count = count.as_ref().and_then(Value::as_int).and_then(|count| usize::try_from(count).ok());
                return self.replace(&text, &old, &new, count.unwrap_or(usize::MAX)).map(Some);
            }
            "indent" => return self.indent_filter(&text, args).map(Some),
            "center" => {
                let [width] = args.bind("center", ["width"])?;
                let positional = vec![width.unwrap_or(Value::Int(80))];
                return self.method(&Value::Str(text), "center", Args { positional, named: Vec::new() }).map(Some);
            }
            "truncate" => self.truncate(&text, args)?,
            "wordcount" => {
                let word = |c: char| c.is_alphanumeric() || c == '_';
                Value::Int(text.split(|c| !word(c)).filter(|part| !part.is_empty()).count() as i128)
            }
            "escape" | "e" | "forceescape" => {
                self.spend_text(text.len())?;
                Value::Markup(escaped(&text).into())
            }
            "urlencode" => {
                self.spend_text(3 * text.len())?;
                Value::str(url_quoted(&text))
            }
            // What task files could use before: texts into lists.
            "lines" => Value::texts(lines(&text, false)),
            "split" => return self.method(&Value::Str(text), "split", args).map(Some),
            _ => return Err(Error::new(format!("the filter `{name}` is not supported"))),
        };
        Ok(Some(result))
    }

    fn indent_filter(&mut self, text: &str, args: Args) -> Result<Value, Error> {
        let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
        let flag = |machine: &Self, value: Option<Value>| value.map_or(Ok(false), |value| machine.truth(&value));
        let (first, blank) = (flag(self, first)?, flag(self, blank)?);
        let indent: Arc<str> = match width {
            Some(Value::Str(text)) => text,
            width => {
                let width = width.map_or(Some(4), |width| width.as_int()).ok_or_else(|| Error::new("`indent` needs a width"))?;
                let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
                self.spend_text(width)?;
                " ".repeat(width).into()
            }
        };
        let ended = format!("{text}\n");
        let lines = lines(&ended, false);
        self.spend_text(text.len().saturating_add(lines.len().saturating_mul(indent.len())))?;
        let mut out = String::new();
        for (index, line) in lines.into_iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            if (index == 0 && first) || (index > 0 && (blank || !line.is_empty())) {
                out.push_str(&indent);
            }
            out.push_str(line);
        }
        Ok(Value::str(out))
    }

    fn truncate(&mut self, text: &str, args: Args) -> Result<Value, Error> {
        let [length, kill_words, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
        let number = |value: Option<Value>, default: usize| {
            value.as_ref().and_then(Value::as_int).map_or(default, |value| usize::try_from(value).unwrap_or(0))
        };
        let (length, leeway) = (number(length, 255), number(leeway, 5));
        let kill_words = kill_words.map_or(Ok(false), |value| self.truth(&value))?;
        let end: Arc<str> = end.map_or_else(|| Ok("...".into()), |end| self.text(&end))?;
        let characters: Vec<char> = text.chars().collect();
        let room = length.checked_sub(end.chars().count()).ok_or_else(|| Error::new("`truncate` needs a length of its end at least"))?;
        if characters.len() <= length.saturating_add(leeway) {
            return Ok(Value::str(text));
        }
        let cut: String = characters[..room].iter().collect();
        let kept = if kill_words { cut.as_str() } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(kept, _)| kept) };
        Ok(Value::str(format!("{kept}{end}")))
    }
}

fn rounded(value: &Value, precision: i128, method: &str) -> Result<Value, Error> {
    let x = value.as_float().ok_or_else(|| Error::new(format!("a {} cannot be rounded", value.type_name())))?;
    if method == "common" {
        return match value.as_int() {
            Some(number) if precision >= 0 => Ok(Value::Int(number)),
            Some(number) => Ok(Value::Int(truncate(round(number as f64, precision)).unwrap_or(0))),
            None => Ok(Value::Float(round(x, precision))),
        };
    }
    let scale = 10f64.powi(precision.clamp(-400, 400) as i32);
    match method {
        "ceil" => Ok(Value::Float((x * scale).ceil() / scale)),
        "floor" => Ok(Value::Float((x * scale).floor() / scale)),
        _ => Err(Error::new("method must be common, ceil or floor")),
    }
}

/// A text as HTML shows it.
pub(super) fn escaped(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('>', "&gt;").replace('<', "&lt;");
    escaped.replace('\'', "&#39;").replace('"', "&#34;")
}

/// A text in another case, as the method of that name gives it.
pub(super) fn cased(text: &str, name: &str) -> Option<String> {
    let first_upper = |text: &str| {
        let mut chars = text.chars();
        let first = chars.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
        first + &chars.as_str().to_lowercase()
    };
    Some(match name {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "casefold" => text.to_lowercase().replace('ß', "ss").replace('ς', "σ"),
        "capitalize" => first_upper(text),
        "swapcase" => text
            .chars()
            .flat_map(|c| if c.is_uppercase() { c.to_lowercase().collect::<Vec<_>>() } else { c.to_uppercase().collect() })
            .collect(),
        "title" => {
            let mut after_letter = false;
            let mut out = String::new();
            for c in text.chars() {
                let cased = c.is_uppercase() || c.is_lowercase();
                if after_letter {
                    out.extend(c.to_lowercase())
                } else {
                    out.extend(c.to_uppercase())
                }
                after_letter = cased;
            }
            out
        }
        _ => return None,
    })
}

/// jinja2's filter `title`, which begins words after spaces, hyphens and opening brackets.
fn title(text: &str) -> String {
    let mut begins = true;
    let mut out = String::new();
    for c in text.chars() {
        if begins {
            out.extend(c.to_uppercase())
        } else {
            out.extend(c.to_lowercase())
        }
        begins = is_space(c) || ['-', '(', '{', '[', '<'].contains(&c);
    }
    out
}

fn url_quoted(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => out.push(byte.into()),
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}
