//! What a template is made of.

use std::collections::HashMap;
use std::sync::Arc;

/// How deep expressions may be nested, chains like `a + b + c` included; Python ends at about a third of that.
const MAX_DEPTH: usize = 400;

/// A name of the template, as its number.
pub(super) type Symbol = u32;

#[derive(Debug)]
pub(super) struct Expr {
    pub node: Node,
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Node {
    Literal(Literal),
    Name(Symbol),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Arguments),
    /// None filters what a block holds.
    Filter(Option<Box<Expr>>, Arc<str>, Arguments),
    Test(Box<Expr>, Arc<str>, Arguments),
    Negate(Box<Expr>),
    Plus(Box<Expr>),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Concat(Vec<Expr>),
    /// Condition, value, other value.
    Conditional(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
}

#[derive(Debug, Clone)]
pub(super) enum Literal {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    /// `*x`
    pub spread: Option<Box<Expr>>,
    /// `**x`
    pub spread_named: Option<Box<Expr>>,
}

#[derive(Debug)]
pub(super) struct Statement {
    pub line: usize,
    pub kind: StatementKind,
}

#[derive(Debug)]
pub(super) enum StatementKind {
    Text(String),
    Output(Expr),
    If(Vec<(Expr, Vec<Statement>)>, Vec<Statement>),
    /// The number of the loop.
    For(usize),
    Set(Target, Expr),
    SetBlock(Target, Option<Expr>, Vec<Statement>),
    With(Vec<(Target, Expr)>, Vec<Statement>),
    /// A block with names of its own.
    Scope(Vec<Statement>),
    /// What the assistant says, by the template's own marks.
    Generation(Vec<Statement>),
    FilterBlock(Expr, Vec<Statement>),
    /// The number of the macro, which is bound to its name.
    Macro(usize),
    /// The call, and the number of the macro that is its `caller`.
    CallBlock(Expr, usize),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) enum Target {
    Name(Symbol),
    /// `namespace.attribute`
    Attribute(Symbol, Arc<str>),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) struct Loop {
    pub target: Target,
    pub items: Expr,
    pub condition: Option<Expr>,
    pub recursive: bool,
    pub body: Vec<Statement>,
    pub otherwise: Vec<Statement>,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub name: Arc<str>,
    pub symbol: Symbol,
    pub parameters: Vec<(Arc<str>, Symbol, Option<Expr>)>,
    pub body: Vec<Statement>,
}

/// All of a template.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub body: Vec<Statement>,
    pub loops: Vec<Loop>,
    pub macros: Vec<Macro>,
    pub symbols: Vec<Arc<str>>,
    /// The number of every name.
    pub numbers: HashMap<Arc<str>, Symbol>,
    /// Whether it has a block `generation`.
    pub marks_generation: bool,
}

impl Expr {
    /// None if it is nested too deep.
    pub fn new(node: Node) -> Option<Self> {
        let depth = 1 + node.children().into_iter().map(|child| child.depth).max().unwrap_or(0);
        (depth <= MAX_DEPTH).then_some(Self { node, depth })
    }
}

impl Node {
    fn children(&self) -> Vec<&Expr> {
        match self {
            Self::Literal(_) | Self::Name(_) => Vec::new(),
            Self::List(items) | Self::Tuple(items) | Self::Concat(items) => items.iter().collect(),
            Self::Dict(entries) => entries.iter().flat_map(|(key, value)| [key, value]).collect(),
            Self::Attribute(of, _) | Self::Negate(of) | Self::Plus(of) | Self::Not(of) => vec![of],
            Self::Item(a, b) | Self::And(a, b) | Self::Or(a, b) | Self::Binary(_, a, b) => vec![a, b],
            Self::Slice(of, bounds) => std::iter::once(&**of).chain(bounds.iter().flatten()).collect(),
            Self::Call(of, arguments) | Self::Test(of, _, arguments) => arguments.children(Some(of)),
            Self::Filter(of, _, arguments) => arguments.children(of.as_deref()),
            Self::Compare(first, rest) => std::iter::once(&**first).chain(rest.iter().map(|(_, value)| value)).collect(),
            Self::Conditional(condition, value, other) => [&**condition, &**value].into_iter().chain(other.as_deref()).collect(),
        }
    }
}

impl Arguments {
    fn children<'a>(&'a self, of: Option<&'a Expr>) -> Vec<&'a Expr> {
        let named = self.named.iter().map(|(_, value)| value);
        let spread = self.spread.as_deref().into_iter().chain(self.spread_named.as_deref());
        of.into_iter().chain(&self.positional).chain(named).chain(spread).collect()
    }
}
