//! Evaluating expressions.

use super::Error;
use super::ast::{Arguments, Comparison, Expr, Literal, Node};
use super::calls::Args;
use super::machine::{Machine, undefined};
use super::value::{Kind, Value};
use std::rc::Rc;
use std::sync::Arc;

impl<'t> Machine<'t> {
    pub fn eval(&mut self, expr: &'t Expr, frame: usize) -> Result<Value, Error> {
        self.deeper(|machine| machine.node(&expr.node, frame))
    }

    fn node(&mut self, node: &'t Node, frame: usize) -> Result<Value, Error> {
        Ok(match node {
            Node::Literal(literal) => match literal {
                Literal::None => Value::None,
                Literal::Bool(value) => Value::Bool(*value),
                Literal::Int(value) => Value::Int(*value),
                Literal::Float(value) => Value::Float(*value),
                Literal::Str(text) => Value::Str(text.clone()),
            },
            Node::Name(symbol) => self.get(frame, *symbol),
            Node::List(items) => Value::list(self.eval_all(items, frame)?)?,
            Node::Tuple(items) => Value::tuple(self.eval_all(items, frame)?)?,
            Node::Dict(entries) => self.dict(entries, frame)?,
            Node::Attribute(of, name) => {
                let of = self.eval_defined(of, frame)?;
                self.attribute(&of, name)?
            }
            Node::Item(of, key) => {
                let of = self.eval_defined(of, frame)?;
                let key = self.eval(key, frame)?;
                self.item(&of, &key)?
            }
            Node::Slice(of, bounds) => self.slice(of, bounds, frame)?,
            Node::Call(..) => self.call_node(node, None, frame)?,
            Node::Filter(..) => self.filter_node(node, None, frame)?,
            Node::Test(of, name, arguments) => {
                let of = self.eval(of, frame)?;
                let arguments = self.arguments(arguments, frame)?;
                Value::Bool(self.test(name, &of, arguments)?)
            }
            Node::Negate(of) => {
                let of = self.eval(of, frame)?;
                self.negate(&of)?
            }
            Node::Plus(of) => match self.eval(of, frame)? {
                Value::Float(value) => Value::Float(value),
                other => match other.as_int() {
                    Some(value) => Value::Int(value),
                    None => return Err(Error::new(format!("bad operand type for unary +: '{}'", other.type_name()))),
                },
            },
            Node::Not(of) => {
                let of = self.eval(of, frame)?;
                Value::Bool(!self.truth(&of)?)
            }
            Node::And(a, b) => {
                let a = self.eval(a, frame)?;
                if self.truth(&a)? { self.eval(b, frame)? } else { a }
            }
            Node::Or(a, b) => {
                let a = self.eval(a, frame)?;
                if self.truth(&a)? { a } else { self.eval(b, frame)? }
            }
            Node::Compare(first, rest) => self.comparisons(first, rest, frame)?,
            Node::Binary(operator, a, b) => {
                let a = self.eval(a, frame)?;
                let b = self.eval(b, frame)?;
                self.binary(*operator, &a, &b)?
            }
            Node::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    let part = self.eval(part, frame)?;
                    self.write(&mut text, &part)?;
                }
                Value::str(text)
            }
            Node::Conditional(condition, value, other) => {
                let condition = self.eval(condition, frame)?;
                match (self.truth(&condition)?, other) {
                    (true, _) => self.eval(value, frame)?,
                    (false, Some(other)) => self.eval(other, frame)?,
                    (false, None) => Value::Undefined(None),
                }
            }
        })
    }

    /// As [`eval`](Self::eval), of what is looked into or called; an error that names it if it is undefined.
    fn eval_defined(&mut self, expr: &'t Expr, frame: usize) -> Result<Value, Error> {
        match self.eval(expr, frame)? {
            Value::Undefined(name) => Err(undefined(self.written(expr).as_deref().or(name.as_deref()))),
            value => Ok(value),
        }
    }

    /// An expression as it is written, if it is a path like `a.b[0]`.
    fn written(&self, expr: &Expr) -> Option<String> {
        Some(match &expr.node {
            Node::Name(symbol) => self.program.symbols[*symbol as usize].to_string(),
            Node::Attribute(of, name) => format!("{}.{name}", self.written(of)?),
            Node::Item(of, key) => match &key.node {
                Node::Literal(Literal::Int(index)) => format!("{}[{index}]", self.written(of)?),
                Node::Literal(Literal::Str(name)) => format!("{}.{name}", self.written(of)?),
                _ => return None,
            },
            _ => return None,
        })
    }

    fn eval_all(&mut self, items: &'t [Expr], frame: usize) -> Result<Vec<Value>, Error> {
        self.spend_items(items.len())?;
        items.iter().map(|item| self.eval(item, frame)).collect()
    }

    fn dict(&mut self, entries: &'t [(Expr, Expr)], frame: usize) -> Result<Value, Error> {
        self.spend_items(2 * entries.len())?;
        let pair = |(key, value): &'t (Expr, Expr)| Ok((self.eval(key, frame)?, self.eval(value, frame)?));
        Value::dict(entries.iter().map(pair).collect::<Result<Vec<_>, Error>>()?)
    }

    fn comparisons(&mut self, first: &'t Expr, rest: &'t [(Comparison, Expr)], frame: usize) -> Result<Value, Error> {
        let mut left = self.eval(first, frame)?;
        for (comparison, right) in rest {
            let right = self.eval(right, frame)?;
            if !self.compare(*comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    pub fn call_with(&mut self, call: &'t Expr, caller: Option<Value>, frame: usize) -> Result<Value, Error> {
        self.deeper(|machine| machine.call_node(&call.node, caller, frame))
    }

    fn call_node(&mut self, node: &'t Node, caller: Option<Value>, frame: usize) -> Result<Value, Error> {
        let Node::Call(callee, arguments) = node else { return Err(Error::new("`call` needs a call")) };
        let callee = self.eval_defined(callee, frame)?;
        let mut arguments = self.arguments(arguments, frame)?;
        arguments.named.extend(caller.map(|caller| (Arc::from("caller"), caller)));
        self.call(&callee, arguments)
    }

    pub fn eval_filter(&mut self, filters: &'t Expr, input: Option<Value>, frame: usize) -> Result<Value, Error> {
        self.deeper(|machine| machine.filter_node(&filters.node, input, frame))
    }

    /// A filter of what it stands behind, or of `input`.
    fn filter_node(&mut self, node: &'t Node, input: Option<Value>, frame: usize) -> Result<Value, Error> {
        let Node::Filter(of, name, arguments) = node else { return Err(Error::new("expected a filter")) };
        let of = match of {
            Some(of) if input.is_some() => self.eval_filter(of, input, frame)?,
            Some(of) => self.eval(of, frame)?,
            None => input.unwrap_or(Value::Undefined(None)),
        };
        let arguments = self.arguments(arguments, frame)?;
        self.filter(name, of, arguments)
    }

    fn arguments(&mut self, arguments: &'t Arguments, frame: usize) -> Result<Args, Error> {
        let mut args = Args { positional: self.eval_all(&arguments.positional, frame)?, named: Vec::new() };
        for (name, value) in &arguments.named {
            args.named.push((name.clone(), self.eval(value, frame)?));
        }
        if let Some(spread) = &arguments.spread {
            let spread = self.eval(spread, frame)?;
            args.positional.extend(self.items(&spread)?);
        }
        if let Some(spread) = &arguments.spread_named {
            match self.eval(spread, frame)? {
                Value::Dict(dict) => {
                    self.spend_items(dict.entries.len())?;
                    let named = dict.entries.iter().filter_map(|(key, value)| Some((Arc::from(key.as_str()?), value.clone())));
                    args.named.extend(named);
                }
                other => return Err(Error::new(format!("`**` needs a mapping, found a {}", other.type_name()))),
            }
        }
        Ok(args)
    }

    /// `value.name`: a method first, then what the value holds under that name.
    pub fn attribute(&mut self, value: &Value, name: &str) -> Result<Value, Error> {
        if let Value::Undefined(missing) = value {
            return Err(undefined(missing.as_deref()));
        }
        if super::methods::has(value, name) {
            return Ok(Value::Method(Rc::new((value.clone(), name.into()))));
        }
        let found = match value {
            Value::Dict(dict) => dict.get(&Value::str(name))?.cloned(),
            _ => self.own_attribute(value, name),
        };
        Ok(found.unwrap_or_else(|| Value::Undefined(Some(name.into()))))
    }

    fn own_attribute(&mut self, value: &Value, name: &str) -> Option<Value> {
        match value {
            Value::Namespace(number) => self.namespaces[*number].iter().find(|(known, _)| &**known == name).map(|(_, value)| value.clone()),
            Value::Loop(state) => super::calls::loop_attribute(&state.borrow(), name),
            Value::Seq(seq) if seq.kind == Kind::Group => {
                let index = ["grouper", "list"].iter().position(|known| *known == name)?;
                seq.items.get(index).cloned()
            }
            Value::Macro(number) if name == "name" => {
                let (number, _) = self.macros[*number];
                Some(Value::Str(self.program.macros[number].name.clone()))
            }
            Value::Counter(counter) if name == "current" && counter.0 == "cycler" => {
                counter.1.get(counter.2.get() % counter.1.len().max(1)).cloned()
            }
            Value::Int(_) | Value::Bool(_) | Value::Float(_) if name == "real" => Some(value.clone()),
            _ => None,
        }
    }

    /// `value[key]`: an item first, then a method or an attribute.
    pub fn item(&mut self, value: &Value, key: &Value) -> Result<Value, Error> {
        let found = match value {
            Value::Undefined(missing) => return Err(undefined(missing.as_deref())),
            Value::Dict(dict) => super::value::Key::of(key).ok().and_then(|_| dict.get(key).ok().flatten().cloned()),
            Value::Seq(seq) if !matches!(seq.kind, Kind::Generator | Kind::Keys | Kind::Values | Kind::Items) => {
                key.as_int().and_then(|index| position(index, seq.items.len())).map(|index| seq.items[index].clone())
            }
            Value::Str(text) => match key.as_int() {
                Some(index) => {
                    self.spend_text(text.len())?;
                    let characters = || text.chars().count();
                    let index = if index < 0 { position(index, characters()) } else { usize::try_from(index).ok() };
                    index.and_then(|index| text.chars().nth(index)).map(|c| Value::str(c.to_string()))
                }
                None => None,
            },
            _ => None,
        };
        match (found, key.as_str()) {
            (Some(found), _) => Ok(found),
            (None, Some(name)) => self.attribute(value, name),
            (None, None) => Ok(Value::Undefined(Some(self.repr(key)?.into()))),
        }
    }

    fn slice(&mut self, of: &'t Expr, bounds: &'t [Option<Expr>; 3], frame: usize) -> Result<Value, Error> {
        let of = self.eval_defined(of, frame)?;
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(bounds) {
            let Some(bound) = bound else { continue };
            let bound = self.eval(bound, frame)?;
            *number = match (&bound, bound.as_int()) {
                (Value::None, _) => None,
                (_, Some(value)) => Some(value),
                _ => return Err(Error::new(format!("slice indices must be integers or None, found a {}", bound.type_name()))),
            };
        }
        match &of {
            Value::Undefined(missing) => Err(undefined(missing.as_deref())),
            Value::Str(text) => {
                self.spend_text(text.len())?;
                if let [first, last, None] = numbers
                    && text.is_ascii()
                {
                    let (first, last) = (bound(first, 0, text.len()), bound(last, text.len() as i128, text.len()));
                    return Ok(Value::str(text.get(first..last).unwrap_or("")));
                }
                let characters: Vec<char> = text.chars().collect();
                let indices = indices(numbers, characters.len())?;
                Ok(Value::str(indices.into_iter().map(|index| characters[index]).collect::<String>()))
            }
            Value::Seq(seq) if matches!(seq.kind, Kind::List | Kind::Tuple | Kind::Group | Kind::Range) => {
                self.spend_items(seq.items.len())?;
                let kind = if seq.kind == Kind::Group { Kind::Tuple } else { seq.kind };
                let indices = indices(numbers, seq.items.len())?;
                Value::seq(kind, indices.into_iter().map(|index| seq.items[index].clone()).collect())
            }
            other => Err(Error::new(format!("'{}' object is not subscriptable", other.type_name()))),
        }
    }
}

/// An index from the front or from the back.
fn position(index: i128, length: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(length as i128)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < length)
}

fn bound(index: Option<i128>, default: i128, length: usize) -> usize {
    let index = index.unwrap_or(default);
    let index = if index < 0 { index.saturating_add(length as i128) } else { index };
    index.clamp(0, length as i128) as usize
}

/// The places that a slice takes.
fn indices([first, last, step]: [Option<i128>; 3], length: usize) -> Result<Vec<usize>, Error> {
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Error::new("slice step cannot be zero"));
    }
    if step > 0 {
        let (first, last) = (bound(first, 0, length), bound(last, length as i128, length));
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        return Ok((first..last.max(first)).step_by(step).collect());
    }
    // Backwards, places count from the end: -1 is before the first.
    let back = |index: i128| if index < 0 { index.saturating_add(length as i128) } else { index };
    let clamp = |index: i128| back(index).clamp(-1, length as i128 - 1);
    let first = first.map_or(length as i128 - 1, clamp);
    let last = last.map_or(-1, clamp);
    let (mut at, mut found) = (first, Vec::new());
    while at > last {
        found.push(at as usize);
        at = at.saturating_add(step);
    }
    Ok(found)
}
