//! Evaluating expressions.

use super::Error;
use super::ast::{Arguments, Comparison, Expr, Literal, Node, Operator};
use super::calls::Args;
use super::machine::{Machine, undefined};
use super::value::Value;
use std::sync::Arc;

impl<'t> Machine<'t> {
    pub fn eval(&mut self, expr: &'t Expr, frame: usize) -> Result<Value, Error> {
        self.eval_markup(expr, frame).map(Value::without_markup)
    }

    /// As [`eval`](Self::eval), for operands of `+`.
    fn eval_markup(&mut self, expr: &'t Expr, frame: usize) -> Result<Value, Error> {
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
            Node::Dict(entries) => self.dict_node(entries, frame)?,
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
                let adds = *operator == Operator::Add;
                let a = if adds { self.eval_markup(a, frame)? } else { self.eval(a, frame)? };
                let b = if adds { self.eval_markup(b, frame)? } else { self.eval(b, frame)? };
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
    pub fn eval_defined(&mut self, expr: &'t Expr, frame: usize) -> Result<Value, Error> {
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

    fn dict_node(&mut self, entries: &'t [(Expr, Expr)], frame: usize) -> Result<Value, Error> {
        self.spend_items(2 * entries.len())?;
        let pair = |(key, value): &'t (Expr, Expr)| Ok((self.eval(key, frame)?, self.eval(value, frame)?));
        let pairs = entries.iter().map(pair).collect::<Result<Vec<_>, Error>>()?;
        self.dict(pairs)
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
        self.filter_markup(name, of.without_markup(), arguments)
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
                    args.named.extend(dict.named());
                }
                other => return Err(Error::new(format!("`**` needs a mapping, found a {}", other.type_name()))),
            }
        }
        Ok(args)
    }
}
