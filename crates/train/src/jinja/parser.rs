//! Where the parser is in the tokens of a template.

use super::Error;
use super::ast::{Expr, Node, Program, Symbol};
use super::lexer::Token;
use std::sync::Arc;

/// How deep brackets and blocks may be nested where they are read; Jinja's own parser ends
/// at about a third of that.
const MAX_NESTING: usize = 300;

pub(super) struct Parser {
    tokens: Vec<(Token, usize)>,
    pub at: usize,
    nesting: usize,
    pub program: Program,
    /// How many loops are open where the parser is.
    pub loops: usize,
}

pub(super) type Parsed<T> = Result<T, Error>;

impl Parser {
    pub fn new(tokens: Vec<(Token, usize)>) -> Self {
        Self { tokens, at: 0, nesting: 0, program: Program::default(), loops: 0 }
    }

    pub fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    pub fn fail<T>(&self, reason: impl Into<String>) -> Parsed<T> {
        Err(Error { line: Some(self.line()), ..Error::new(reason.into()) })
    }

    pub fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    pub fn peek_second(&self) -> Option<&Token> {
        self.tokens.get(self.at + 1).map(|(token, _)| token)
    }

    pub fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.at += 1;
        token
    }

    pub fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Operator(found)) if *found == operator)
    }

    pub fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    pub fn skip_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        self.at += usize::from(found);
        found
    }

    pub fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, operator: &str) -> Parsed<()> {
        match self.skip_operator(operator) {
            true => Ok(()),
            false => self.fail(format!("expected `{operator}`, found {}", self.found())),
        }
    }

    pub fn expect_token(&mut self, token: &Token, name: &str) -> Parsed<()> {
        match self.peek() == Some(token) {
            true => {
                self.at += 1;
                Ok(())
            }
            false => self.fail(format!("expected {name}, found {}", self.found())),
        }
    }

    pub fn name(&mut self) -> Parsed<Arc<str>> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.as_str().into();
                self.at += 1;
                Ok(name)
            }
            _ => self.fail(format!("expected a name, found {}", self.found())),
        }
    }

    pub fn symbol(&mut self, name: &str) -> Symbol {
        if let Some(symbol) = self.program.numbers.get(name) {
            return *symbol;
        }
        let (name, symbol): (Arc<str>, _) = (name.into(), self.program.symbols.len() as Symbol);
        self.program.symbols.push(name.clone());
        self.program.numbers.insert(name, symbol);
        symbol
    }

    pub fn found(&self) -> String {
        match self.peek() {
            None => "the end of the template".into(),
            Some(Token::BlockEnd) => "`%}`".into(),
            Some(Token::VariableEnd) => "`}}`".into(),
            Some(Token::Name(name)) => format!("`{name}`"),
            Some(Token::Operator(operator)) => format!("`{operator}`"),
            Some(Token::Str(_)) => "a text".into(),
            Some(Token::Int(_) | Token::Float(_)) => "a number".into(),
            Some(_) => "the start of a tag".into(),
        }
    }

    /// One level further in.
    pub fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return self.fail(format!("brackets or blocks are nested more than {MAX_NESTING} deep"));
        }
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    pub fn expr(&self, node: Node) -> Parsed<Expr> {
        match Expr::new(node) {
            Some(expr) => Ok(expr),
            None => self.fail("an expression is nested too deep or is a chain that is too long"),
        }
    }
}
