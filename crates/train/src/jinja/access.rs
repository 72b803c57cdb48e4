//! What values hold: attributes, items, slices.

use super::Error;
use super::ast::Expr;
use super::machine::{Machine, undefined};
use super::value::{Key, Kind, Value};
use std::rc::Rc;

impl<'t> Machine<'t> {
    /// `value.name`: a method first, then what the value holds under that name.
    pub fn attribute(&mut self, value: &Value, name: &str) -> Result<Value, Error> {
        if let Value::Undefined(missing) = value {
            return Err(undefined(missing.as_deref()));
        }
        self.spend_text(name.len())?;
        if let Value::Namespace(number) = value {
            self.spend_search(self.namespaces[*number].len())?;
        }
        if super::methods::has(value, name) {
            return Ok(Value::Method(Rc::new((value.clone(), name.into()))));
        }
        let found = match value {
            Value::Dict(dict) => dict.get(&Key::Str(name.into())).cloned(),
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
            Value::Dict(dict) => match Key::of(key) {
                Ok(key) => {
                    self.spend(key.cost())?;
                    dict.get(&key).cloned()
                }
                Err(_) => None,
            },
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

    pub fn slice(&mut self, of: &'t Expr, bounds: &'t [Option<Expr>; 3], frame: usize) -> Result<Value, Error> {
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
