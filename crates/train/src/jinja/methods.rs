//! The methods that Python's values have, and those of lists and mappings.

use super::Error;
use super::calls::Args;
use super::machine::Machine;
use super::strings::span;
use super::value::{Dict, Kind, Seq, Value};
use std::rc::Rc;

const OF_TEXTS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const OF_MAPPINGS: &[&str] = &["get", "items", "keys", "values", "copy"];
/// What changes a value, which jinja2's sandbox does not allow.
const CHANGE_MAPPINGS: &[&str] = &["clear", "pop", "popitem", "setdefault", "update"];
const OF_LISTS: &[&str] = &["index", "count", "copy"];
const CHANGE_LISTS: &[&str] = &["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];

/// Whether a value has a method of that name.
pub(super) fn has(value: &Value, name: &str) -> bool {
    match value {
        Value::Str(_) => OF_TEXTS.contains(&name),
        Value::Dict(_) => OF_MAPPINGS.contains(&name) || CHANGE_MAPPINGS.contains(&name),
        Value::Seq(seq) => match seq.kind {
            Kind::List => OF_LISTS.contains(&name) || CHANGE_LISTS.contains(&name),
            Kind::Tuple | Kind::Group | Kind::Range => ["index", "count"].contains(&name),
            _ => false,
        },
        Value::Loop(_) => ["cycle", "changed"].contains(&name),
        Value::Counter(counter) => counter.0 == "cycler" && ["next", "reset"].contains(&name),
        Value::Float(_) => name == "is_integer",
        _ => false,
    }
}

impl Machine<'_> {
    pub fn method(&mut self, value: &Value, name: &str, args: Args) -> Result<Value, Error> {
        match value {
            Value::Str(text) => {
                self.spend(1 + text.len() as u64 / 64)?;
                self.text_method(text, name, args)
            }
            Value::Dict(dict) if OF_MAPPINGS.contains(&name) => self.mapping_method(dict, name, args),
            Value::Seq(seq) if !CHANGE_LISTS.contains(&name) => self.list_method(seq, name, args),
            Value::Loop(state) => self.loop_method(state, name, args),
            Value::Counter(counter) => {
                let at = if name == "reset" { 0 } else { counter.2.get() + 1 };
                let before = counter.2.replace(at);
                let given = counter.1.get(before % counter.1.len().max(1)).cloned();
                Ok(given.filter(|_| name == "next").unwrap_or(Value::None))
            }
            Value::Float(value) => Ok(Value::Bool(value.fract() == 0.0)),
            other => Err(Error::new(format!(
                "`{name}` would change a {}, which a template may not do; make a new one instead",
                other.type_name()
            ))),
        }
    }

    fn mapping_method(&mut self, dict: &Rc<Dict>, name: &str, args: Args) -> Result<Value, Error> {
        if name == "get" {
            let [key, default] = args.bind("get", ["key", "default"])?;
            let key = key.ok_or_else(|| Error::new("`get` needs a key"))?;
            let key = self.key(&key)?;
            return Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None));
        }
        let [] = args.bind(name, [])?;
        self.spend_items(2 * dict.entries.len())?;
        let (keys, values) = (dict.entries.iter().map(|(key, _)| key.clone()), dict.entries.iter().map(|(_, value)| value.clone()));
        match name {
            "keys" => Value::seq(Kind::Keys, keys.collect()),
            "values" => Value::seq(Kind::Values, values.collect()),
            "items" => Value::seq(Kind::Items, keys.zip(values).map(|(k, v)| Value::tuple(vec![k, v])).collect::<Result<_, _>>()?),
            _ => Ok(Value::Dict(dict.clone())),
        }
    }

    fn list_method(&mut self, seq: &Rc<Seq>, name: &str, args: Args) -> Result<Value, Error> {
        if name == "copy" {
            return Ok(Value::Seq(seq.clone()));
        }
        let [wanted, first, last] = args.bind(name, ["value", "start", "stop"])?;
        let wanted = wanted.ok_or_else(|| Error::new(format!("`{name}` needs a value")))?;
        let (first, last) = span(first.as_ref(), last.as_ref(), seq.items.len());
        let mut count = 0;
        for (index, item) in seq.items.iter().enumerate().take(last).skip(first) {
            if self.equal(item, &wanted)? {
                count += 1;
                if name == "index" {
                    return Ok(Value::Int(index as i128));
                }
            }
        }
        if name == "index" { Err(Error::new("the value is not in the list")) } else { Ok(Value::Int(count)) }
    }
}
