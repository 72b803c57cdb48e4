//! Values as Python has them: numbers, texts, lists, tuples, mappings, and what a template makes itself.

use super::Error;
use serde_json::Value as Json;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// How deep lists and mappings may be nested. Python's `json` and `repr` end at about twice that.
pub(super) const MAX_NESTING: usize = 500;

#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Holds the name of what is missing.
    Undefined(Option<Arc<str>>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    /// A text that `safe` or `escape` gives, as an operand of `+`, which escapes the other one. Anywhere else it is a text.
    Markup(Arc<str>),
    Seq(Rc<Seq>),
    Dict(Rc<Dict>),
    /// The number of a namespace of the rendering: namespaces can hold each other, and end with the rendering.
    Namespace(usize),
    /// The number of a macro of the rendering.
    Macro(usize),
    Loop(Rc<RefCell<LoopState>>),
    /// A function of the environment.
    Function(&'static str),
    /// A method with what it belongs to.
    Method(Rc<(Value, Arc<str>)>),
    /// `cycler` and `joiner`: what they give, and how often they were called.
    Counter(Rc<(&'static str, Vec<Value>, Cell<usize>)>),
}

/// What kind of sequence Python would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    List,
    Tuple,
    /// A pair of `groupby`, a tuple whose items have names.
    Group,
    Range,
    Keys,
    Values,
    Items,
    /// Gives its items once and then none.
    Generator,
}

#[derive(Debug)]
pub(crate) struct Seq {
    pub kind: Kind,
    pub items: Vec<Value>,
    /// How many items of a generator have been taken.
    taken: Cell<usize>,
    depth: usize,
}

/// A mapping that keeps the order in which keys were added.
#[derive(Debug, Default)]
pub(crate) struct Dict {
    pub entries: Vec<(Value, Value)>,
    index: HashMap<Key, usize>,
    depth: usize,
}

/// What a loop is at.
#[derive(Debug)]
pub(crate) struct LoopState {
    pub items: Vec<Value>,
    pub index: usize,
    pub depth: usize,
    pub changed: Option<Vec<Value>>,
    /// The loop of the template that `loop(…)` starts again, and the frame around it.
    pub recursive: Option<(usize, usize)>,
}

/// A value as the key of a mapping; equal numbers are one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Int(i128),
    Float(u64),
    Str(Arc<str>),
    Tuple(Vec<Key>),
}

impl Value {
    pub fn str(text: impl Into<Arc<str>>) -> Self {
        Self::Str(text.into())
    }

    /// JSON as Python's `json` reads it.
    pub fn from_json(json: &Json) -> Self {
        match json {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => Self::Int(integer.into()),
                (None, Some(integer)) => Self::Int(integer.into()),
                (None, None) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::str(text.as_str()),
            Json::Array(items) => Self::seq_unchecked(Kind::List, items.iter().map(Self::from_json).collect()),
            Json::Object(entries) => Self::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), Self::from_json(value)))),
        }
    }

    /// A mapping with names as keys, of values that are not nested beyond what JSON can be.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let mut dict = Dict::default();
        for (key, value) in pairs {
            dict.put(Key::Str(key.into()), Self::str(key), value);
        }
        Self::Dict(Rc::new(dict))
    }

    pub fn seq(kind: Kind, items: Vec<Self>) -> Result<Self, Error> {
        let seq = Seq::new(kind, items);
        match seq.depth > MAX_NESTING {
            true => Err(too_deep()),
            false => Ok(Self::Seq(Rc::new(seq))),
        }
    }

    pub fn list(items: Vec<Self>) -> Result<Self, Error> {
        Self::seq(Kind::List, items)
    }

    pub fn tuple(items: Vec<Self>) -> Result<Self, Error> {
        Self::seq(Kind::Tuple, items)
    }

    /// A list of values that are not nested beyond what JSON can be.
    pub fn list_of(items: Vec<Self>) -> Self {
        Self::seq_unchecked(Kind::List, items)
    }

    fn seq_unchecked(kind: Kind, items: Vec<Self>) -> Self {
        Self::Seq(Rc::new(Seq::new(kind, items)))
    }

    /// A list of texts.
    pub fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::seq_unchecked(Kind::List, texts.into_iter().map(Self::str).collect())
    }

    pub(super) fn dict(pairs: Vec<(Key, Self, Self)>) -> Result<Self, Error> {
        let mut dict = Dict::default();
        for (key, name, value) in pairs {
            dict.put(key, name, value);
        }
        match dict.depth > MAX_NESTING {
            true => Err(too_deep()),
            false => Ok(Self::Dict(Rc::new(dict))),
        }
    }

    /// A text for [`Markup`](Self::Markup), anything else as it is.
    pub fn without_markup(self) -> Self {
        match self {
            Self::Markup(text) => Self::Str(text),
            other => other,
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// A number as Python counts them: booleans are 0 and 1.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }

    /// What Python calls its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Markup(_) => "Markup",
            Self::Seq(seq) => match seq.kind {
                Kind::List => "list",
                Kind::Tuple | Kind::Group => "tuple",
                Kind::Range => "range",
                Kind::Keys => "dict_keys",
                Kind::Values => "dict_values",
                Kind::Items => "dict_items",
                Kind::Generator => "generator",
            },
            Self::Dict(_) => "dict",
            Self::Namespace(_) => "Namespace",
            Self::Macro(_) => "Macro",
            Self::Loop(_) => "LoopContext",
            Self::Function(_) => "function",
            Self::Method(_) => "builtin_function_or_method",
            Self::Counter(_) => "Counter",
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Seq(seq) => seq.depth,
            Self::Dict(dict) => dict.depth,
            Self::Method(method) => method.0.depth(),
            Self::Counter(counter) => 1 + counter.1.iter().map(Self::depth).max().unwrap_or(0),
            Self::Loop(state) => state.try_borrow().map_or(0, |state| 1 + state.items.iter().map(Self::depth).max().unwrap_or(0)),
            _ => 0,
        }
    }
}

impl Seq {
    fn new(kind: Kind, items: Vec<Value>) -> Self {
        let depth = 1 + items.iter().map(Value::depth).max().unwrap_or(0);
        Self { kind, items, taken: Cell::new(0), depth }
    }

    /// The items that are left; a generator has none afterwards.
    pub fn take(&self) -> &[Value] {
        match self.kind {
            Kind::Generator => &self.items[self.taken.replace(self.items.len())..],
            _ => &self.items,
        }
    }

    /// The first item that is left; a generator goes on behind it.
    pub fn take_first(&self) -> Option<&Value> {
        let item = self.items.get(self.taken.get());
        if self.kind == Kind::Generator && item.is_some() {
            self.taken.set(self.taken.get() + 1);
        }
        item
    }
}

impl Dict {
    fn put(&mut self, key: Key, name: Value, value: Value) {
        self.depth = self.depth.max(1 + name.depth().max(value.depth()));
        match self.index.get(&key) {
            Some(at) => self.entries[*at].1 = value,
            None => {
                self.index.insert(key, self.entries.len());
                self.entries.push((name, value));
            }
        }
    }

    /// The values whose keys are texts.
    pub fn named(&self) -> impl Iterator<Item = (Arc<str>, Value)> {
        let name = |key: &Value| if let Value::Str(name) = key { Some(name.clone()) } else { None };
        self.entries.iter().filter_map(move |(key, value)| Some((name(key)?, value.clone())))
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.index.get(key).map(|at| &self.entries[*at].1)
    }
}

impl Key {
    pub fn of(value: &Value) -> Result<Self, Error> {
        Self::within(value, &mut 10_000)
    }

    /// What finding it costs: the bytes of its texts are hashed. Keys are short.
    pub fn cost(&self) -> u64 {
        match self {
            Self::Str(text) => 1 + text.len() as u64 / 16,
            Self::Tuple(parts) => 1 + parts.iter().map(Self::cost).sum::<u64>(),
            _ => 1,
        }
    }

    /// The key of a value of at most `left` parts.
    fn within(value: &Value, left: &mut usize) -> Result<Self, Error> {
        *left = left.checked_sub(1).ok_or_else(Error::too_much)?;
        Ok(match value {
            Value::None => Self::None,
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 1e30 => Self::Int(*x as i128),
            Value::Float(x) => Self::Float(x.to_bits()),
            Value::Str(text) => Self::Str(text.clone()),
            Value::Undefined(_) => Self::Tuple(vec![Self::None]),
            Value::Seq(seq) if matches!(seq.kind, Kind::Tuple | Kind::Group) => {
                Self::Tuple(seq.items.iter().map(|item| Self::within(item, left)).collect::<Result<_, _>>()?)
            }
            other => match other.as_int() {
                Some(integer) => Self::Int(integer),
                None => return Err(Error::new(format!("a {} cannot be the key of a mapping", other.type_name()))),
            },
        })
    }
}

pub(super) fn too_deep() -> Error {
    Error::new(format!("values are nested more than {MAX_NESTING} deep"))
}
