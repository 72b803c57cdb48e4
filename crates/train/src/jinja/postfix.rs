//! What stands behind a value: attributes, items, calls, filters and tests.

use super::ast::{Arguments, Expr, Literal, Node};
use super::lexer::Token;
use super::parser::{Parsed, Parser};
use std::sync::Arc;

impl Parser {
    /// `.name`, `[item]` and `(arguments)`.
    pub fn postfix(&mut self, mut value: Expr) -> Parsed<Expr> {
        loop {
            let node = if self.skip_operator(".") {
                match self.next() {
                    Some(Token::Name(name)) => Node::Attribute(value.into(), name.into()),
                    Some(Token::Int(index)) => Node::Item(value.into(), self.expr(Node::Literal(Literal::Int(index)))?.into()),
                    _ => return self.fail("expected a name or a number after `.`"),
                }
            } else if self.skip_operator("[") {
                let item = self.nested(|parser| parser.subscript(value))?;
                self.expect("]")?;
                item
            } else if self.is_operator("(") {
                Node::Call(value.into(), self.nested(Self::arguments)?)
            } else {
                return Ok(value);
            };
            value = self.expr(node)?;
        }
    }

    fn subscript(&mut self, of: Expr) -> Parsed<Node> {
        let first = if self.is_operator(":") { None } else { Some(self.expression()?) };
        if !self.is_operator(":") {
            let Some(first) = first else { return self.fail("expected an expression") };
            if !self.is_operator(",") {
                return Ok(Node::Item(of.into(), first.into()));
            }
            let mut items = vec![first];
            while self.skip_operator(",") {
                if self.is_operator("]") {
                    break;
                }
                items.push(self.expression()?);
            }
            return Ok(Node::Item(of.into(), self.expr(Node::Tuple(items))?.into()));
        }
        let mut bounds = [first, None, None];
        for bound in &mut bounds[1..] {
            if !self.skip_operator(":") {
                break;
            }
            if !(self.is_operator(":") || self.is_operator("]")) {
                *bound = Some(self.expression()?);
            }
        }
        Ok(Node::Slice(of.into(), Box::new(bounds)))
    }

    pub fn arguments(&mut self) -> Parsed<Arguments> {
        self.expect("(")?;
        let mut arguments = Arguments::default();
        while !self.is_operator(")") {
            if self.skip_operator("**") {
                arguments.spread_named = Some(self.expression()?.into());
            } else if self.skip_operator("*") {
                arguments.spread = Some(self.expression()?.into());
            } else if matches!((self.peek(), self.peek_second()), (Some(Token::Name(_)), Some(Token::Operator("=")))) {
                let name = self.name()?;
                self.at += 1;
                arguments.named.push((name, self.expression()?));
            } else if arguments.named.is_empty() && arguments.spread_named.is_none() {
                arguments.positional.push(self.expression()?);
            } else {
                return self.fail("an argument without a name follows one with a name");
            }
            if !self.is_operator(")") {
                self.expect(",")?;
            }
        }
        self.expect(")")?;
        Ok(arguments)
    }

    /// `|filter`, `is test` and calls of what they give.
    pub fn filters(&mut self, mut value: Expr) -> Parsed<Expr> {
        loop {
            let node = if self.skip_operator("|") {
                let (name, arguments) = self.filter_call()?;
                Node::Filter(Some(value.into()), name, arguments)
            } else if self.skip_name("is") {
                self.test(value)?
            } else if self.is_operator("(") {
                Node::Call(value.into(), self.nested(Self::arguments)?)
            } else {
                return Ok(value);
            };
            value = self.expr(node)?;
        }
    }

    /// A filter's name and arguments.
    fn filter_call(&mut self) -> Parsed<(Arc<str>, Arguments)> {
        let name = self.dotted()?;
        let arguments = if self.is_operator("(") { self.nested(Self::arguments)? } else { Arguments::default() };
        Ok((name, arguments))
    }

    /// Filters of what a block holds.
    pub fn block_filters(&mut self) -> Parsed<Expr> {
        let (name, arguments) = self.filter_call()?;
        let mut value = self.expr(Node::Filter(None, name, arguments))?;
        while self.skip_operator("|") {
            let (name, arguments) = self.filter_call()?;
            value = self.expr(Node::Filter(Some(value.into()), name, arguments))?;
        }
        Ok(value)
    }

    fn dotted(&mut self) -> Parsed<Arc<str>> {
        let mut name = self.name()?.to_string();
        while self.skip_operator(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name.into())
    }

    fn test(&mut self, value: Expr) -> Parsed<Node> {
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let mut arguments = Arguments::default();
        let begins_argument = match self.peek() {
            Some(Token::Name(name)) => !["else", "or", "and"].contains(&name.as_str()),
            Some(Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Operator("[" | "{")) => true,
            _ => false,
        };
        if self.is_operator("(") {
            arguments = self.nested(Self::arguments)?;
        } else if begins_argument {
            if self.is_name("is") {
                return self.fail("tests cannot be chained with `is`");
            }
            // What follows a test in a conditional or a loop is no argument of it.
            if !(self.is_name("if") || self.is_name("not") || self.is_name("in") || self.is_name("recursive")) {
                let argument = self.primary()?;
                arguments.positional.push(self.postfix(argument)?);
            }
        }
        let test = Node::Test(value.into(), name, arguments);
        Ok(if negated { Node::Not(self.expr(test)?.into()) } else { test })
    }
}
