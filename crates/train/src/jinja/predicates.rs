//! Tests, what stands behind `is`, and Python's questions about texts.

use super::Error;
use super::ast::Comparison;
use super::calls::Args;
use super::lexer::is_space;
use super::machine::Machine;
use super::value::{Kind, Value};
use std::rc::Rc;

impl Machine<'_> {
    pub fn test(&mut self, name: &str, value: &Value, args: Args) -> Result<bool, Error> {
        let comparison = match name {
            "eq" | "equalto" | "==" => Some(Comparison::Equal),
            "ne" | "!=" => Some(Comparison::Unequal),
            "lt" | "lessthan" | "<" => Some(Comparison::Less),
            "le" | "<=" => Some(Comparison::LessOrEqual),
            "gt" | "greaterthan" | ">" => Some(Comparison::Greater),
            "ge" | ">=" => Some(Comparison::GreaterOrEqual),
            "in" => Some(Comparison::In),
            _ => None,
        };
        let other = |args: Args| {
            let [other] = args.bind(name, ["other"])?;
            other.ok_or_else(|| Error::new(format!("the test `{name}` needs something to compare with")))
        };
        if let Some(comparison) = comparison {
            return self.compare(comparison, value, &other(args)?);
        }
        match name {
            "sameas" => {
                let other = other(args)?;
                if let (Value::Str(x), Value::Str(y)) = (value, &other) {
                    self.spend(x.len().min(y.len()) as u64 / 64)?;
                }
                return Ok(same(value, &other));
            }
            "divisibleby" => {
                let rest = self.binary(super::ast::Operator::Remainder, value, &other(args)?)?;
                return Ok(rest.as_float() == Some(0.0));
            }
            _ => {}
        }
        let [] = args.bind(name, [])?;
        let is_number = matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_));
        Ok(match name {
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => is_number,
            "string" => matches!(value, Value::Str(_)),
            "mapping" => matches!(value, Value::Dict(_)),
            "sequence" => match value {
                Value::Seq(seq) => matches!(seq.kind, Kind::List | Kind::Tuple | Kind::Group | Kind::Range),
                other => matches!(other, Value::Str(_) | Value::Dict(_) | Value::Undefined(_)),
            },
            "iterable" => matches!(value, Value::Seq(_) | Value::Str(_) | Value::Dict(_) | Value::Undefined(_) | Value::Loop(_)),
            "callable" => match value {
                Value::Counter(counter) => counter.0 == "joiner",
                other => matches!(other, Value::Function(_) | Value::Macro(_) | Value::Method(_) | Value::Loop(_) | Value::Undefined(_)),
            },
            "odd" | "even" => {
                let rest = self.binary(super::ast::Operator::Remainder, value, &Value::Int(2))?;
                rest.as_float() == Some(if name == "odd" { 1.0 } else { 0.0 })
            }
            "lower" | "upper" => {
                let text = self.text(value)?;
                self.spend_text(text.len())?;
                is(&text, if name == "lower" { "islower" } else { "isupper" })
            }
            "escaped" => false,
            "filter" | "test" => return Err(Error::new(format!("the test `{name}` is not supported"))),
            _ => return Err(Error::new(format!("unknown test `{name}`"))),
        })
    }
}

/// Python's `is`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(x), Value::Bool(y)) => x == y,
        (Value::Int(x), Value::Int(y)) => x == y,
        (Value::Str(x), Value::Str(y)) => x == y,
        (Value::Seq(x), Value::Seq(y)) => Rc::ptr_eq(x, y),
        (Value::Dict(x), Value::Dict(y)) => Rc::ptr_eq(x, y),
        (Value::Namespace(x), Value::Namespace(y)) | (Value::Macro(x), Value::Macro(y)) => x == y,
        (Value::Loop(x), Value::Loop(y)) => Rc::ptr_eq(x, y),
        _ => false,
    }
}

/// Whether Python's method of that name answers yes for a text.
pub(super) fn is(text: &str, name: &str) -> bool {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    match name {
        "isascii" => text.is_ascii(),
        "isprintable" => text.chars().all(super::text::is_printable),
        "isalpha" => all(char::is_alphabetic),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(|c| c.is_numeric() || is_digit(c)),
        "isalnum" => all(|c| c.is_alphanumeric() || is_digit(c)),
        "isspace" => all(is_space),
        "islower" => text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        "istitle" => {
            let mut after_letter = false;
            let mut any = false;
            for c in text.chars() {
                if (c.is_uppercase() && after_letter) || (c.is_lowercase() && !after_letter) {
                    return false;
                }
                after_letter = c.is_uppercase() || c.is_lowercase();
                any |= after_letter;
            }
            any
        }
        "isidentifier" => {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| c == '_' || c.is_alphabetic()) && chars.all(|c| c == '_' || c.is_alphanumeric())
        }
        _ => false,
    }
}

fn is_decimal(c: char) -> bool {
    c.is_ascii_digit() || ZEROS.iter().any(|zero| (*zero..*zero + 10).contains(&(c as u32)))
}

fn is_digit(c: char) -> bool {
    const OTHERS: [std::ops::RangeInclusive<u32>; 12] = [
        0xb2..=0xb3,
        0xb9..=0xb9,
        0x2070..=0x2070,
        0x2074..=0x2079,
        0x2080..=0x2089,
        0x2460..=0x2468,
        0x2474..=0x247c,
        0x2488..=0x2490,
        0x24ea..=0x24ea,
        0x24f5..=0x24fd,
        0x24ff..=0x24ff,
        0x2776..=0x277e,
    ];
    is_decimal(c) || OTHERS.iter().any(|range| range.contains(&(c as u32)))
}

/// Where Unicode's decimal digits beyond ASCII begin.
const ZEROS: [u32; 65] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0,
    0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50,
    0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];
