//! Operators: Python's arithmetic and comparisons.

use super::Error;
use super::ast::{Comparison, Operator};
use super::filters::escaped;
use super::machine::{Machine, undefined};
use super::value::{Kind, Value};
use std::cmp::Ordering;

impl Machine<'_> {
    pub fn negate(&mut self, value: &Value) -> Result<Value, Error> {
        match value {
            Value::Undefined(name) => Err(undefined(name.as_deref())),
            Value::Float(value) => Ok(Value::Float(-value)),
            other => match other.as_int() {
                Some(value) => value.checked_neg().map(Value::Int).ok_or_else(too_large),
                None => Err(Error::new(format!("bad operand type for unary -: '{}'", other.type_name()))),
            },
        }
    }

    pub fn binary(&mut self, operator: Operator, a: &Value, b: &Value) -> Result<Value, Error> {
        if let Value::Undefined(name) = a {
            return Err(undefined(name.as_deref()));
        }
        if let (Operator::Remainder, Value::Str(format)) = (operator, a) {
            return self.percent_format(format, b);
        }
        if let Value::Undefined(name) = b {
            return Err(undefined(name.as_deref()));
        }
        if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
            return integers(operator, x, y);
        }
        if let (Some(x), Some(y)) = (a.as_float(), b.as_float()) {
            return floats(operator, x, y).map(Value::Float);
        }
        match (operator, a, b) {
            (Operator::Add, Value::Str(x), Value::Str(y)) => {
                self.spend_text(x.len() + y.len())?;
                Ok(Value::str(format!("{x}{y}")))
            }
            (Operator::Add, Value::Markup(x), Value::Markup(y)) => self.markup(x, y),
            (Operator::Add, Value::Markup(x), Value::Str(y)) => self.markup(x, &escaped(y)),
            (Operator::Add, Value::Str(x), Value::Markup(y)) => self.markup(&escaped(x), y),
            (Operator::Add, Value::Seq(x), Value::Seq(y)) if adds(x.kind) && x.kind.family() == y.kind.family() => {
                self.spend_items(x.items.len() + y.items.len())?;
                Value::seq(x.kind.family(), x.items.iter().chain(&y.items).cloned().collect())
            }
            (Operator::Multiply, value, count) | (Operator::Multiply, count, value)
                if count.as_int().is_some() && (value.as_str().is_some() || matches!(value, Value::Seq(seq) if adds(seq.kind))) =>
            {
                self.repeat(value, count.as_int().unwrap_or(0))
            }
            _ => Err(Error::new(format!(
                "unsupported operand type(s) for {}: '{}' and '{}'",
                symbol(operator),
                a.type_name(),
                b.type_name()
            ))),
        }
    }

    fn markup(&mut self, a: &str, b: &str) -> Result<Value, Error> {
        self.spend_text(a.len() + b.len())?;
        Ok(Value::Markup(format!("{a}{b}").into()))
    }

    fn repeat(&mut self, value: &Value, count: i128) -> Result<Value, Error> {
        let count = usize::try_from(count.max(0)).map_err(|_| Error::too_much())?;
        match value {
            Value::Str(text) => {
                self.spend_text(text.len().saturating_mul(count))?;
                Ok(Value::str(text.repeat(count)))
            }
            Value::Seq(seq) => {
                self.spend_items(seq.items.len().saturating_mul(count))?;
                let items = std::iter::repeat_n(&seq.items, if seq.items.is_empty() { 0 } else { count }).flatten().cloned();
                Value::seq(seq.kind.family(), items.collect())
            }
            other => Ok(other.clone()),
        }
    }

    pub fn compare(&mut self, comparison: Comparison, a: &Value, b: &Value) -> Result<bool, Error> {
        match comparison {
            Comparison::Equal => self.equal(a, b),
            Comparison::Unequal => Ok(!self.equal(a, b)?),
            Comparison::In => self.contains(b, a),
            Comparison::NotIn => Ok(!self.contains(b, a)?),
            _ => {
                let order = self.order(a, b, symbol_of(comparison))?;
                Ok(order.is_some_and(|order| match comparison {
                    Comparison::Less => order.is_lt(),
                    Comparison::LessOrEqual => order.is_le(),
                    Comparison::Greater => order.is_gt(),
                    _ => order.is_ge(),
                }))
            }
        }
    }

    pub fn equal(&mut self, a: &Value, b: &Value) -> Result<bool, Error> {
        self.check_defined(a)?;
        self.check_defined(b)?;
        self.deeper(|machine| machine.equal_values(a, b))
    }

    fn equal_values(&mut self, a: &Value, b: &Value) -> Result<bool, Error> {
        Ok(match (a, b) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Str(x), Value::Str(y)) => {
                self.spend(x.len().min(y.len()) as u64 / 64)?;
                x == y
            }
            (Value::Seq(x), Value::Seq(y)) => {
                if x.kind == Kind::Generator || x.kind.family() != y.kind.family() || x.items.len() != y.items.len() {
                    return Ok(std::rc::Rc::ptr_eq(x, y));
                }
                for (x, y) in x.items.iter().zip(&y.items) {
                    if !self.equal(x, y)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Dict(x), Value::Dict(y)) => {
                if x.entries.len() != y.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &x.entries {
                    let Some(other) = y.get(&self.key(key)?) else { return Ok(false) };
                    if !self.equal(value, other)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Namespace(x), Value::Namespace(y)) | (Value::Macro(x), Value::Macro(y)) => x == y,
            (Value::Loop(x), Value::Loop(y)) => std::rc::Rc::ptr_eq(x, y),
            (Value::Function(x), Value::Function(y)) => x == y,
            _ => match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
                (Some(x), Some(y), _, _) => x == y,
                (_, _, Some(x), Some(y)) => x == y,
                _ => false,
            },
        })
    }

    /// How two values are ordered; none if one is not a number.
    pub fn order(&mut self, a: &Value, b: &Value, symbol: &str) -> Result<Option<Ordering>, Error> {
        for value in [a, b] {
            if let Value::Undefined(name) = value {
                return Err(undefined(name.as_deref()));
            }
        }
        if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
            return Ok(Some(x.cmp(&y)));
        }
        if let (Some(x), Some(y)) = (a.as_float(), b.as_float()) {
            return Ok(x.partial_cmp(&y));
        }
        match (a, b) {
            (Value::Str(x), Value::Str(y)) => {
                self.spend(1 + x.len().min(y.len()) as u64 / 64)?;
                Ok(Some(x.cmp(y)))
            }
            (Value::Seq(x), Value::Seq(y)) if adds(x.kind) && x.kind.family() == y.kind.family() => {
                for (x, y) in x.items.iter().zip(&y.items) {
                    if !self.equal(x, y)? {
                        return self.deeper(|machine| machine.order(x, y, symbol));
                    }
                }
                Ok(Some(x.items.len().cmp(&y.items.len())))
            }
            _ => Err(Error::new(format!("'{symbol}' not supported between instances of '{}' and '{}'", a.type_name(), b.type_name()))),
        }
    }

    /// Python's `item in container`.
    pub fn contains(&mut self, container: &Value, item: &Value) -> Result<bool, Error> {
        self.check_defined(container)?;
        match container {
            Value::Str(text) => match item {
                Value::Str(part) => {
                    self.spend(1 + text.len() as u64 / 64)?;
                    Ok(text.contains(&**part))
                }
                other => Err(Error::new(format!("'in <string>' requires string as left operand, not {}", other.type_name()))),
            },
            Value::Dict(dict) => {
                let key = self.key(item)?;
                Ok(dict.get(&key).is_some())
            }
            Value::Undefined(_) => Ok(false),
            other => {
                for found in self.items(other)? {
                    if self.equal(&found, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

impl Kind {
    /// What the sum of such sequences is, and what they can be equal to.
    pub fn family(self) -> Self {
        if self == Self::Group { Self::Tuple } else { self }
    }
}

fn adds(kind: Kind) -> bool {
    matches!(kind, Kind::List | Kind::Tuple | Kind::Group)
}

pub(super) fn too_large() -> Error {
    Error::new("an integer is too large")
}

fn symbol(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Remainder => "%",
        Operator::Power => "**",
    }
}

fn symbol_of(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        _ => ">=",
    }
}

fn integers(operator: Operator, x: i128, y: i128) -> Result<Value, Error> {
    let by_zero = || Error::new("division by zero");
    let result = match operator {
        Operator::Add => x.checked_add(y),
        Operator::Subtract => x.checked_sub(y),
        Operator::Multiply => x.checked_mul(y),
        Operator::Divide if y == 0 => return Err(by_zero()),
        Operator::Divide => return Ok(Value::Float(x as f64 / y as f64)),
        Operator::FloorDivide | Operator::Remainder if y == 0 => return Err(by_zero()),
        Operator::FloorDivide => x.checked_div(y).map(|q| if x % y != 0 && (x < 0) != (y < 0) { q - 1 } else { q }),
        Operator::Remainder => x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }),
        Operator::Power if y < 0 => return floats(operator, x as f64, y as f64).map(Value::Float),
        Operator::Power => match x {
            0 | 1 => Some(if y == 0 { 1 } else { x }),
            -1 => Some(if y % 2 == 0 { 1 } else { -1 }),
            _ => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
        },
    };
    result.map(Value::Int).ok_or_else(too_large)
}

fn floats(operator: Operator, x: f64, y: f64) -> Result<f64, Error> {
    let by_zero = || Error::new("division by zero");
    let remainder = |x: f64, y: f64| {
        let r = x % y;
        if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
    };
    Ok(match operator {
        Operator::Add => x + y,
        Operator::Subtract => x - y,
        Operator::Multiply => x * y,
        Operator::Divide | Operator::FloorDivide | Operator::Remainder if y == 0.0 => return Err(by_zero()),
        Operator::Divide => x / y,
        Operator::FloorDivide => ((x - remainder(x, y)) / y).round(),
        Operator::Remainder => remainder(x, y),
        Operator::Power if x == 0.0 && y < 0.0 => return Err(Error::new("zero cannot be raised to a negative power")),
        Operator::Power if x < 0.0 && y.fract() != 0.0 => return Err(Error::new("complex numbers are not supported")),
        Operator::Power => match x.powf(y) {
            result if result.is_infinite() && x.is_finite() && y.is_finite() => return Err(Error::new("a number is too large")),
            result => result,
        },
    })
}
