//! Calls: of macros, loops, methods and the functions that every template has.

use super::Error;
use super::machine::{Machine, undefined};
use super::value::{Kind, LoopState, Value};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// The functions that templates can call.
pub(super) const FUNCTIONS: [&str; 7] = ["range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now"];
/// The longest range that jinja2's sandbox allows.
const MAX_RANGE: i128 = 100_000;

/// The arguments of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// The arguments in the order of `names`; an error for one too many, unknown or given twice.
    pub fn bind<const N: usize>(self, callee: &str, names: [&str; N]) -> Result<[Option<Value>; N], Error> {
        if self.positional.len() > N {
            return Err(Error::new(format!("`{callee}` takes at most {N} arguments, found {}", self.positional.len())));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|known| *known == &*name) {
                Some(at) if bound[at].is_none() => bound[at] = Some(value),
                Some(_) => return Err(Error::new(format!("`{callee}` got the argument `{name}` twice"))),
                None => return Err(Error::new(format!("`{callee}` takes no argument `{name}`"))),
            }
        }
        Ok(bound)
    }
}

impl Machine<'_> {
    pub fn call(&mut self, callee: &Value, args: Args) -> Result<Value, Error> {
        self.deeper(|machine| match callee {
            Value::Undefined(name) => Err(undefined(name.as_deref())),
            Value::Function(name) => machine.function(name, args),
            Value::Method(method) => machine.method(&method.0, &method.1, args),
            Value::Macro(number) => machine.call_macro(*number, args),
            Value::Loop(state) => machine.call_loop(state, args),
            Value::Counter(counter) if counter.0 == "joiner" => {
                let first = counter.2.replace(1) == 0;
                Ok(if first { Value::str("") } else { counter.1[0].clone() })
            }
            other => Err(Error::new(format!("a {} cannot be called", other.type_name()))),
        })
    }

    fn function(&mut self, name: &str, args: Args) -> Result<Value, Error> {
        match name {
            "range" => self.range(args),
            "dict" => self.make_dict(args),
            "namespace" => {
                let Value::Dict(dict) = self.make_dict(args)? else { return Err(Error::new("`namespace` needs names")) };
                self.namespaces.push(dict.named().collect());
                Ok(Value::Namespace(self.namespaces.len() - 1))
            }
            "cycler" if args.positional.is_empty() => Err(Error::new("`cycler` needs something to give")),
            "cycler" => counter("cycler", args.positional),
            "joiner" => {
                let [separator] = args.bind("joiner", ["sep"])?;
                let separator = separator.unwrap_or_else(|| Value::str(", "));
                counter("joiner", vec![separator])
            }
            "raise_exception" => {
                let [message] = args.bind("raise_exception", ["message"])?;
                let message = message.ok_or_else(|| Error::new("`raise_exception` needs a message"))?;
                Err(Error::new(self.text(&message)?.to_string()))
            }
            _ => {
                let [format] = args.bind("strftime_now", ["format"])?;
                let clock = self.rendering.clock.ok_or_else(|| undefined(Some(name)))?;
                match format {
                    Some(Value::Str(format)) => {
                        // A directive writes at most some twenty characters.
                        self.spend_text(format.len().saturating_mul(20))?;
                        clock(&format).map(Value::str).map_err(Error::new)
                    }
                    _ => Err(Error::new("`strftime_now` needs a format")),
                }
            }
        }
    }

    fn range(&mut self, args: Args) -> Result<Value, Error> {
        let number =
            |value: &Value| value.as_int().ok_or_else(|| Error::new(format!("`range` needs integers, found a {}", value.type_name())));
        let numbers = args.positional.iter().map(number).collect::<Result<Vec<_>, _>>()?;
        let (first, last, step) = match numbers[..] {
            [last] => (0, last, 1),
            [first, last] => (first, last, 1),
            [first, last, step] if step != 0 => (first, last, step),
            _ => return Err(Error::new("`range` takes an end; a start and an end; or those and a step that is not 0")),
        };
        let distance = if step > 0 { last.saturating_sub(first) } else { first.saturating_sub(last) };
        let count = distance.max(0).saturating_add(step.saturating_abs() - 1) / step.saturating_abs();
        if count > MAX_RANGE {
            return Err(Error::new(format!("a range has {count} numbers; more than {MAX_RANGE} are not allowed")));
        }
        self.spend_items(count as usize)?;
        Value::seq(Kind::Range, (0..count).map(|index| Value::Int(first + index * step)).collect())
    }

    fn make_dict(&mut self, args: Args) -> Result<Value, Error> {
        let mut pairs = Vec::new();
        for value in &args.positional {
            match value {
                Value::Dict(dict) => {
                    self.spend_items(dict.entries.len())?;
                    pairs.extend(dict.entries.iter().cloned());
                }
                other => {
                    for pair in self.items(other)? {
                        match &self.items(&pair)?[..] {
                            [key, value] => pairs.push((key.clone(), value.clone())),
                            _ => return Err(Error::new("`dict` needs pairs")),
                        }
                    }
                }
            }
        }
        pairs.extend(args.named.into_iter().map(|(name, value)| (Value::Str(name), value)));
        self.dict(pairs)
    }

    fn call_macro(&mut self, number: usize, args: Args) -> Result<Value, Error> {
        let (number, definition_frame) = self.macros[number];
        let program = self.program;
        let definition = &program.macros[number];
        self.spend((definition.parameters.len() as u64).saturating_mul(1 + args.named.len() as u64 / 16))?;
        let frame = self.open(definition_frame);
        let mut positional = args.positional.into_iter();
        let mut named = args.named;
        let mut missing = Vec::new();
        for (name, symbol, default) in &definition.parameters {
            let by_name = named.iter().position(|(given, _)| given == name);
            let value = match (positional.next(), by_name) {
                (Some(_), Some(_)) => return Err(Error::new(format!("the macro `{}` got `{name}` twice", definition.name))),
                (Some(value), None) => Some(value),
                (None, at) => at.map(|at| named.remove(at).1),
            };
            match value {
                Some(value) => self.set(frame, *symbol, value),
                None => missing.push((*symbol, name, default)),
            }
        }
        // Defaults may use what has been given.
        for (symbol, name, default) in missing {
            let value = match default {
                Some(default) => self.eval(default, frame)?,
                None => Value::Undefined(Some(name.clone())),
            };
            self.set(frame, symbol, value);
        }
        let caller = named.iter().position(|(name, _)| &**name == "caller").map(|at| named.remove(at).1);
        if let Some(symbol) = self.known("caller").filter(|symbol| !definition.parameters.iter().any(|(_, known, _)| known == symbol))
            && (caller.is_some() || &*definition.name != "caller")
        {
            self.set(frame, symbol, caller.unwrap_or_else(|| Value::Undefined(Some("caller".into()))));
        }
        self.rest_of_arguments(&definition.name, frame, positional.collect(), named)?;
        let mut text = String::new();
        self.exec(&definition.body, frame, &mut text)?;
        self.close(frame);
        Ok(Value::str(text))
    }

    /// `varargs` and `kwargs`, for templates that use them.
    fn rest_of_arguments(&mut self, name: &str, frame: usize, rest: Vec<Value>, named: Vec<(Arc<str>, Value)>) -> Result<(), Error> {
        match self.known("varargs") {
            Some(symbol) => {
                let rest = Value::tuple(rest)?;
                self.set(frame, symbol, rest);
            }
            None if !rest.is_empty() => return Err(Error::new(format!("the macro `{name}` takes {} arguments less", rest.len()))),
            None => {}
        }
        match self.known("kwargs") {
            Some(symbol) => {
                let named = self.dict(named.into_iter().map(|(name, value)| (Value::Str(name), value)))?;
                self.set(frame, symbol, named);
            }
            None if !named.is_empty() => return Err(Error::new(format!("the macro `{name}` takes no argument `{}`", named[0].0))),
            None => {}
        }
        Ok(())
    }

    /// `loop(items)` in a recursive loop.
    fn call_loop(&mut self, state: &Rc<std::cell::RefCell<LoopState>>, args: Args) -> Result<Value, Error> {
        let (recursive, depth) = (state.borrow().recursive, state.borrow().depth);
        let Some((number, frame)) = recursive else {
            return Err(Error::new("only a `recursive` loop can be called"));
        };
        let [items] = args.bind("loop", ["iterable"])?;
        let items = items.ok_or_else(|| Error::new("`loop` needs something to loop over"))?;
        let mut text = String::new();
        self.for_loop(number, &items, depth + 1, frame, &mut text)?;
        Ok(Value::str(text))
    }

    /// `loop.cycle` and `loop.changed`.
    pub fn loop_method(&mut self, state: &Rc<std::cell::RefCell<LoopState>>, name: &str, args: Args) -> Result<Value, Error> {
        if name == "cycle" {
            let index = state.borrow().index;
            let values = args.positional;
            return match values.is_empty() {
                true => Err(Error::new("`loop.cycle` needs something to give")),
                false => Ok(values[index % values.len()].clone()),
            };
        }
        let before = state.borrow_mut().changed.take();
        let same = match &before {
            Some(before) => self.equal(&Value::tuple(before.clone())?, &Value::tuple(args.positional.clone())?)?,
            None => false,
        };
        state.borrow_mut().changed = Some(args.positional);
        Ok(Value::Bool(!same))
    }
}

/// A `cycler` or a `joiner`, which must not be nested deeper than a list of its values could be.
fn counter(name: &'static str, values: Vec<Value>) -> Result<Value, Error> {
    Value::list(values.clone())?;
    Ok(Value::Counter(Rc::new((name, values, Cell::new(0)))))
}

/// What a loop knows of where it is.
pub(super) fn loop_attribute(state: &LoopState, name: &str) -> Option<Value> {
    let (index, length) = (state.index, state.items.len());
    let number = |n: usize| Some(Value::Int(n as i128));
    let missing = || Value::Undefined(Some(Arc::from(name)));
    match name {
        "index" => number(index + 1),
        "index0" => number(index),
        "revindex" => number(length - index),
        "revindex0" => number(length - index - 1),
        "first" => Some(Value::Bool(index == 0)),
        "last" => Some(Value::Bool(index + 1 == length)),
        "length" => number(length),
        "depth" => number(state.depth),
        "depth0" => number(state.depth - 1),
        "previtem" => Some(index.checked_sub(1).map_or_else(missing, |before| state.items[before].clone())),
        "nextitem" => Some(state.items.get(index + 1).cloned().unwrap_or_else(missing)),
        _ => None,
    }
}
