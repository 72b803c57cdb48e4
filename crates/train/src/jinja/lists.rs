//! Filters of sequences.

use super::Error;
use super::calls::Args;
use super::machine::Machine;
use super::value::{Kind, Value};

impl Machine<'_> {
    pub fn list_filter(&mut self, name: &str, value: Value, args: Args) -> Result<Value, Error> {
        match name {
            "length" | "count" => {
                let [] = args.bind(name, [])?;
                self.length(&value)
            }
            "list" => {
                let [] = args.bind(name, [])?;
                Value::list(self.items(&value)?)
            }
            "first" => match &value {
                Value::Seq(seq) => Ok(seq.take_first().cloned().unwrap_or_else(|| none_of("first"))),
                other => Ok(self.items(other)?.into_iter().next().unwrap_or_else(|| none_of("first"))),
            },
            "last" => match &value {
                Value::Seq(seq) if seq.kind == Kind::Generator => Err(Error::new("'generator' object is not reversible")),
                other => Ok(self.items(other)?.pop().unwrap_or_else(|| none_of("last"))),
            },
            "reverse" => match &value {
                Value::Str(text) => {
                    self.spend_text(text.len())?;
                    Ok(Value::str(text.chars().rev().collect::<String>()))
                }
                other => {
                    let mut items = self.items(other)?;
                    items.reverse();
                    Value::seq(Kind::Generator, items)
                }
            },
            "items" => match &value {
                Value::Undefined(_) => Value::seq(Kind::Generator, Vec::new()),
                Value::Dict(_) => {
                    let items = self.method(&value, "items", Args::default())?;
                    Value::seq(Kind::Generator, self.items(&items)?)
                }
                other => Err(Error::new(format!("Can only get item pairs from a mapping, found a {}", other.type_name()))),
            },
            "join" => self.join_filter(&value, args),
            "map" => self.map(&value, args),
            "select" | "reject" => self.select(&value, args, None, name == "select"),
            "selectattr" | "rejectattr" => {
                let mut args = args;
                if args.positional.is_empty() {
                    return Err(Error::new(format!("`{name}` needs an attribute")));
                }
                let attribute = args.positional.remove(0);
                self.select(&value, args, Some(attribute), name == "selectattr")
            }
            "sort" | "unique" | "min" | "max" | "groupby" | "dictsort" => self.ordering_filter(name, &value, args),
            "sum" => self.sum(&value, args),
            "batch" | "slice" => self.pieces(name, &value, args),
            "zip" | "chain" => Err(Error::new(format!("jinja2 has no filter `{name}`"))),
            "bool" => Ok(Value::Bool(self.truth(&value)?)),
            _ => Err(Error::new(format!("unknown filter `{name}`"))),
        }
    }

    fn length(&mut self, value: &Value) -> Result<Value, Error> {
        self.check_defined(value)?;
        let length = match value {
            Value::Undefined(_) => 0,
            Value::Str(text) => {
                self.spend(1 + text.len() as u64 / 64)?;
                text.chars().count()
            }
            Value::Seq(seq) if seq.kind != Kind::Generator => seq.items.len(),
            Value::Dict(dict) => dict.entries.len(),
            Value::Loop(state) => state.borrow().items.len(),
            other => return Err(Error::new(format!("object of type '{}' has no len()", other.type_name()))),
        };
        Ok(Value::Int(length as i128))
    }

    /// What `attribute`, a path like `a.b.0`, is of `value`.
    pub fn path(&mut self, value: &Value, attribute: &Value, default: Option<&Value>) -> Result<Value, Error> {
        let mut found = value.clone();
        if let Value::Str(path) = attribute {
            for part in path.split('.') {
                let part = part.parse::<i128>().map_or_else(|_| Value::str(part), Value::Int);
                found = self.item(&found, &part)?;
                if found.is_undefined()
                    && let Some(default) = default
                {
                    found = default.clone();
                }
            }
            return Ok(found);
        }
        found = self.item(&found, attribute)?;
        Ok(if found.is_undefined() { default.cloned().unwrap_or(found) } else { found })
    }

    fn join_filter(&mut self, value: &Value, args: Args) -> Result<Value, Error> {
        let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
        let separator = separator.map_or_else(|| Ok("".into()), |separator| self.text(&separator))?;
        let mut out = String::new();
        for (index, item) in self.items(value)?.into_iter().enumerate() {
            let item = match &attribute {
                Some(attribute) => self.path(&item, attribute, None)?,
                None => item,
            };
            if index > 0 {
                self.push(&mut out, &separator)?;
            }
            self.write(&mut out, &item)?;
        }
        Ok(Value::str(out))
    }

    fn map(&mut self, value: &Value, mut args: Args) -> Result<Value, Error> {
        if !self.truth(value)? {
            return Value::seq(Kind::Generator, Vec::new());
        }
        let items = self.items(value)?;
        let mut out = Vec::with_capacity(items.len());
        if args.positional.is_empty() {
            let [attribute, default] = args.bind("map", ["attribute", "default"])?;
            let attribute = attribute.ok_or_else(|| Error::new("`map` needs a filter or an attribute"))?;
            for item in items {
                out.push(self.path(&item, &attribute, default.as_ref())?);
            }
            return Value::seq(Kind::Generator, out);
        }
        let name = self.text(&args.positional.remove(0))?;
        for item in items {
            out.push(self.deeper(|machine| machine.filter(&name, item, args.clone()))?);
        }
        Value::seq(Kind::Generator, out)
    }

    fn select(&mut self, value: &Value, mut args: Args, attribute: Option<Value>, wanted: bool) -> Result<Value, Error> {
        if !self.truth(value)? {
            return Value::seq(Kind::Generator, Vec::new());
        }
        let test = match args.positional.is_empty() {
            true => None,
            false => Some(self.text(&args.positional.remove(0))?),
        };
        let mut out = Vec::new();
        for item in self.items(value)? {
            let tested = match &attribute {
                Some(attribute) => self.path(&item, attribute, None)?,
                None => item.clone(),
            };
            let met = match &test {
                Some(test) => self.test(test, &tested, args.clone())?,
                None => self.truth(&tested)?,
            };
            if met == wanted {
                out.push(item);
            }
        }
        Value::seq(Kind::Generator, out)
    }

    fn sum(&mut self, value: &Value, args: Args) -> Result<Value, Error> {
        let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
        let mut sum = start.unwrap_or(Value::Int(0));
        for item in self.items(value)? {
            let item = match &attribute {
                None | Some(Value::None) => item,
                Some(attribute) => self.path(&item, attribute, None)?,
            };
            sum = self.binary(super::ast::Operator::Add, &sum, &item)?;
        }
        Ok(sum)
    }

    /// `batch` cuts into pieces of a length, `slice` into a number of pieces.
    fn pieces(&mut self, name: &str, value: &Value, args: Args) -> Result<Value, Error> {
        let [count, fill] = args.bind(name, ["count", "fill_with"])?;
        let count = count.as_ref().and_then(Value::as_int).filter(|count| *count > 0);
        let count = count.ok_or_else(|| Error::new(format!("`{name}` needs a number above 0")))?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let fill = fill.filter(|fill| !matches!(fill, Value::None));
        let items = self.items(value)?;
        if name == "batch" {
            let mut pieces: Vec<Vec<Value>> = items.chunks(count).map(<[Value]>::to_vec).collect();
            if let (Some(fill), Some(last)) = (fill, pieces.last_mut()) {
                self.spend_items(count)?;
                last.resize(count, fill);
            }
            return Value::seq(Kind::Generator, pieces.into_iter().map(Value::list).collect::<Result<_, _>>()?);
        }
        self.spend_items(count)?;
        let (each, longer) = (items.len() / count, items.len() % count);
        let mut items = items.into_iter();
        let mut out = Vec::with_capacity(count);
        for index in 0..count {
            let mut piece: Vec<Value> = items.by_ref().take(each + usize::from(index < longer)).collect();
            if let Some(fill) = fill.as_ref().filter(|_| index >= longer) {
                piece.push(fill.clone());
            }
            out.push(Value::list(piece)?);
        }
        Value::seq(Kind::Generator, out)
    }
}

pub(super) fn none_of(what: &str) -> Value {
    Value::Undefined(Some(what.into()))
}
