//! One rendering: its names, what it may still cost, and its text.

use super::ast::{Program, Symbol};
use super::value::{Dict, Key, Kind, Seq, Value};
use super::{Error, Options, Rendering};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// What one rendering may cost: a step, or 64 bytes. A conversation of a thousand messages takes a twentieth of it.
const FUEL: u64 = 10_000_000;
/// The longest text, in bytes.
const MAX_TEXT: usize = 8 << 20;
/// The most items of a list.
const MAX_ITEMS: usize = 1 << 20;
/// How deep expressions, statements and calls may be nested while they run; fits the stack of a rendering.
const MAX_DEPTH: usize = 1500;

pub(super) struct Machine<'t> {
    pub program: &'t Program,
    pub options: Options,
    pub rendering: Rendering<'t>,
    frames: Vec<Frame>,
    /// The attributes of every namespace.
    pub namespaces: Vec<Vec<(Arc<str>, Value)>>,
    /// Every macro as its number in the program and the frame that it was made in.
    pub macros: Vec<(usize, usize)>,
    fuel: u64,
    depth: usize,
}

/// The names of a block.
#[derive(Default)]
struct Frame {
    /// The frame around it.
    parent: Option<usize>,
    names: BTreeMap<Symbol, Value>,
    /// Whether a macro refers to it, so that it must outlive its block.
    kept: bool,
}

impl<'t> Machine<'t> {
    pub fn new(program: &'t Program, options: Options, rendering: Rendering<'t>) -> Self {
        let frames = vec![Frame::default()];
        Self { program, options, rendering, frames, namespaces: Vec::new(), macros: Vec::new(), fuel: FUEL, depth: 0 }
    }

    pub fn render(mut self, context: Vec<(String, Value)>) -> Result<String, Error> {
        for (name, value) in context {
            if let Some(symbol) = self.known(&name) {
                self.set(0, symbol, value);
            }
        }
        let mut out = String::new();
        let program = self.program;
        self.exec(&program.body, 0, &mut out)?;
        Ok(out)
    }

    /// The number of a name, if the template has it anywhere.
    pub fn known(&self, name: &str) -> Option<Symbol> {
        self.program.numbers.get(name).copied()
    }

    pub fn spend(&mut self, cost: u64) -> Result<(), Error> {
        self.fuel = self.fuel.checked_sub(cost).ok_or_else(Error::too_much)?;
        Ok(())
    }

    /// Pay for a text of so many bytes, before it is made.
    pub fn spend_text(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes > MAX_TEXT {
            return Err(Error::too_much());
        }
        self.spend(1 + bytes as u64 / 64)
    }

    /// Pay for a list of so many items, before it is made.
    pub fn spend_items(&mut self, items: usize) -> Result<(), Error> {
        if items > MAX_ITEMS {
            return Err(Error::too_much());
        }
        self.spend(1 + items as u64 / 2)
    }

    /// Pay for looking through so many names, one by one.
    pub fn spend_search(&mut self, names: usize) -> Result<(), Error> {
        self.spend(1 + names as u64 / 16)
    }

    /// A value as the key of a mapping.
    pub fn key(&mut self, value: &Value) -> Result<Key, Error> {
        let key = Key::of(value)?;
        self.spend(key.cost())?;
        Ok(key)
    }

    /// A mapping of these keys and values.
    pub fn dict(&mut self, pairs: impl IntoIterator<Item = (Value, Value)>) -> Result<Value, Error> {
        let keyed = pairs.into_iter().map(|(key, value)| Ok((self.key(&key)?, key, value)));
        Value::dict(keyed.collect::<Result<Vec<_>, Error>>()?)
    }

    pub fn push(&mut self, out: &mut String, text: &str) -> Result<(), Error> {
        if out.len() + text.len() > MAX_TEXT {
            return Err(Error::too_much());
        }
        self.spend_text(text.len())?;
        out.push_str(text);
        Ok(())
    }

    /// One level further in.
    pub fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::new("it is too deep in recursion"));
        }
        self.spend(1)?;
        self.depth += 1;
        let result = work(self);
        self.depth -= 1;
        result
    }

    /// A new frame within `parent`.
    pub fn open(&mut self, parent: usize) -> usize {
        self.frames.push(Frame { parent: Some(parent), ..Frame::default() });
        self.frames.len() - 1
    }

    /// The block of `frame` is over.
    pub fn close(&mut self, frame: usize) {
        if frame + 1 == self.frames.len() && !self.frames[frame].kept {
            self.frames.pop();
        } else if !self.frames[frame].kept {
            self.frames[frame].names.clear();
        }
    }

    /// Keep a frame and those around it: something refers to them.
    pub fn keep(&mut self, frame: usize) {
        let mut next = Some(frame);
        while let Some(frame) = next.filter(|frame| !self.frames[*frame].kept) {
            self.frames[frame].kept = true;
            next = self.frames[frame].parent;
        }
    }

    pub fn set(&mut self, frame: usize, symbol: Symbol, value: Value) {
        self.frames[frame].names.insert(symbol, value);
    }

    /// The value of a name: that of the nearest frame, else a function of the environment.
    pub fn get(&self, frame: usize, symbol: Symbol) -> Value {
        let mut next = Some(frame);
        while let Some(frame) = next {
            let frame = &self.frames[frame];
            if let Some(value) = frame.names.get(&symbol) {
                return value.clone();
            }
            next = frame.parent;
        }
        let name = &self.program.symbols[symbol as usize];
        let function = super::calls::FUNCTIONS.iter().find(|function| **function == &**name);
        let function = function.filter(|function| **function != "strftime_now" || self.rendering.clock.is_some());
        function.map_or_else(|| Value::Undefined(Some(name.clone())), |function| Value::Function(function))
    }

    /// An error if undefined values may not be used.
    pub fn check_defined(&self, value: &Value) -> Result<(), Error> {
        match value {
            Value::Undefined(name) if self.options.strict => Err(undefined(name.as_deref())),
            _ => Ok(()),
        }
    }

    pub fn truth(&self, value: &Value) -> Result<bool, Error> {
        self.check_defined(value)?;
        Ok(match value {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(text) => !text.is_empty(),
            Value::Seq(seq) => seq.kind == Kind::Generator || !seq.items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            _ => true,
        })
    }

    /// The items that a loop over `value` sees.
    pub fn items(&mut self, value: &Value) -> Result<Vec<Value>, Error> {
        self.check_defined(value)?;
        match value {
            Value::Undefined(_) => Ok(Vec::new()),
            Value::Str(text) => {
                self.spend_items(text.len())?;
                Ok(text.chars().map(|c| Value::str(c.to_string())).collect())
            }
            Value::Seq(seq) => self.seq_items(seq),
            Value::Dict(dict) => self.keys(dict),
            Value::Loop(state) => {
                let left = state.borrow().items.len();
                self.spend_items(left)?;
                let items = state.borrow().items.clone();
                Ok(items)
            }
            other => Err(Error::new(format!("a {} cannot be looped over", other.type_name()))),
        }
    }

    fn seq_items(&mut self, seq: &Rc<Seq>) -> Result<Vec<Value>, Error> {
        self.spend_items(seq.items.len())?;
        Ok(seq.take().to_vec())
    }

    pub fn keys(&mut self, dict: &Rc<Dict>) -> Result<Vec<Value>, Error> {
        self.spend_items(dict.entries.len())?;
        Ok(dict.entries.iter().map(|(key, _)| key.clone()).collect())
    }
}

pub(super) fn undefined(name: Option<&str>) -> Error {
    match name {
        Some(name) => Error::new(format!("`{name}` is undefined")),
        None => Error::new("a value is undefined"),
    }
}
