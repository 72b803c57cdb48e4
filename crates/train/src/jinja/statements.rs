//! Statements: what stands between `{%` and `%}`.

use super::ast::{Loop, Macro, Node, Program, Statement, StatementKind, Target};
use super::lexer::Token;
use super::parser::{Parsed, Parser};
use std::sync::Arc;

/// The program that `tokens` are.
pub(super) fn parse(tokens: Vec<(Token, usize)>) -> Parsed<Program> {
    let mut parser = Parser::new(tokens);
    let body = parser.statements(&[])?;
    if parser.peek().is_some() {
        let found = parser.found();
        return parser.fail(format!("unexpected {found}"));
    }
    Ok(Program { body, ..parser.program })
}

impl Parser {
    /// Statements up to a tag with one of the names in `ends`, whose name is next.
    fn statements(&mut self, ends: &[&str]) -> Parsed<Vec<Statement>> {
        let mut statements = Vec::new();
        while let Some(token) = self.next() {
            let line = self.line();
            let kind = match token {
                Token::Text(text) => StatementKind::Text(text),
                Token::VariableStart => {
                    let value = self.tuple(false, Self::expression, |_| false)?;
                    self.expect_token(&Token::VariableEnd, "`}}`")?;
                    StatementKind::Output(value)
                }
                Token::BlockStart if ends.iter().any(|end| self.is_name(end)) => return Ok(statements),
                Token::BlockStart => {
                    let name = self.name()?;
                    self.nested(|parser| parser.statement(&name))?
                }
                _ => return self.fail("expected a tag"),
            };
            statements.push(Statement { line, kind });
        }
        match ends {
            [] => Ok(statements),
            [.., end] => self.fail(format!("expected `{end}`, found the end of the template")),
        }
    }

    /// Statements of a block up to `{% end %}`, which ends here too.
    fn block(&mut self, end: &str) -> Parsed<Vec<Statement>> {
        self.block_end()?;
        let body = self.statements(&[end])?;
        self.skip_name(end);
        Ok(body)
    }

    fn block_end(&mut self) -> Parsed<()> {
        self.expect_token(&Token::BlockEnd, "`%}`")
    }

    fn statement(&mut self, name: &str) -> Parsed<StatementKind> {
        let kind = match name {
            "if" => self.branches()?,
            "for" => self.for_loop()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "macro" => self.macro_()?,
            "call" => self.call()?,
            "filter" => {
                let filters = self.block_filters()?;
                StatementKind::FilterBlock(filters, self.block("endfilter")?)
            }
            "generation" => {
                self.program.marks_generation = true;
                StatementKind::Generation(self.block("endgeneration")?)
            }
            "block" => {
                self.name()?;
                while self.skip_name("scoped") || self.skip_name("required") {}
                let body = self.block("endblock")?;
                if let Some(Token::Name(_)) = self.peek() {
                    self.next();
                }
                StatementKind::Scope(body)
            }
            "print" => StatementKind::Output(self.tuple(false, Self::expression, |_| false)?),
            "break" | "continue" if self.loops == 0 => return self.fail(format!("`{name}` stands outside of a loop")),
            "break" => StatementKind::Break,
            "continue" => StatementKind::Continue,
            "include" | "import" | "from" | "extends" => return self.fail(format!("`{name}`: there are no other templates")),
            _ => return self.fail(format!("unknown tag `{name}`")),
        };
        self.block_end()?;
        Ok(kind)
    }

    fn branches(&mut self) -> Parsed<StatementKind> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false, Self::or, |_| false)?;
            self.block_end()?;
            branches.push((condition, self.statements(&["elif", "else", "endif"])?));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise = if self.skip_name("else") { self.block("endif")? } else { Vec::new() };
            self.skip_name("endif");
            return Ok(StatementKind::If(branches, otherwise));
        }
    }

    fn for_loop(&mut self) -> Parsed<StatementKind> {
        let target = self.target(false)?;
        if !self.skip_name("in") {
            let found = self.found();
            return self.fail(format!("expected `in`, found {found}"));
        }
        let items = self.tuple(false, Self::or, |parser| parser.is_name("recursive"))?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.block_end()?;
        self.loops += 1;
        let body = self.statements(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if self.skip_name("else") { self.block("endfor")? } else { Vec::new() };
        self.skip_name("endfor");
        self.program.loops.push(Loop { target, items, condition, recursive, body, otherwise });
        Ok(StatementKind::For(self.program.loops.len() - 1))
    }

    fn set(&mut self) -> Parsed<StatementKind> {
        let target = self.target(true)?;
        if self.skip_operator("=") {
            return Ok(StatementKind::Set(target, self.tuple(false, Self::expression, |_| false)?));
        }
        let filters = if self.skip_operator("|") { Some(self.block_filters()?) } else { None };
        Ok(StatementKind::SetBlock(target, filters, self.block("endset")?))
    }

    fn with(&mut self) -> Parsed<StatementKind> {
        let mut values = Vec::new();
        while !matches!(self.peek(), Some(Token::BlockEnd) | None) {
            if !values.is_empty() {
                self.expect(",")?;
            }
            let target = self.target(false)?;
            self.expect("=")?;
            values.push((target, self.expression()?));
        }
        Ok(StatementKind::With(values, self.block("endwith")?))
    }

    fn macro_(&mut self) -> Parsed<StatementKind> {
        let name = self.name()?;
        let parameters = self.parameters()?;
        let body = self.without_loops(|parser| parser.block("endmacro"))?;
        Ok(StatementKind::Macro(self.add_macro(&name, parameters, body)))
    }

    fn call(&mut self) -> Parsed<StatementKind> {
        let parameters = if self.is_operator("(") { self.parameters()? } else { Vec::new() };
        let call = self.expression()?;
        if !matches!(call.node, Node::Call(..)) {
            return self.fail("`call` needs a call");
        }
        let body = self.without_loops(|parser| parser.block("endcall"))?;
        let caller = self.add_macro("caller", parameters, body);
        Ok(StatementKind::CallBlock(call, caller))
    }

    /// The body of a macro, which cannot leave a loop around it.
    fn without_loops<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let loops = std::mem::take(&mut self.loops);
        let parsed = parse(self);
        self.loops = loops;
        parsed
    }

    fn add_macro(&mut self, name: &str, parameters: Vec<Parameter>, body: Vec<Statement>) -> usize {
        let symbol = self.symbol(name);
        self.program.macros.push(Macro { name: name.into(), symbol, parameters, body });
        self.program.macros.len() - 1
    }

    fn parameters(&mut self) -> Parsed<Vec<Parameter>> {
        self.expect("(")?;
        let mut parameters: Vec<Parameter> = Vec::new();
        while !self.is_operator(")") {
            let name = self.name()?;
            let symbol = self.symbol(&name);
            let default = if self.skip_operator("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, _, default)| default.is_some()) {
                return self.fail("a parameter without a default follows one with a default");
            }
            parameters.push((name, symbol, default));
            if !self.is_operator(")") {
                self.expect(",")?;
            }
        }
        self.expect(")")?;
        Ok(parameters)
    }

    /// What is assigned to: a name, an attribute of a namespace, or several.
    fn target(&mut self, with_attributes: bool) -> Parsed<Target> {
        let mut targets = Vec::new();
        let mut commas = false;
        loop {
            let target = if self.is_operator("(") {
                self.expect("(")?;
                let inside = self.nested(|parser| parser.target(with_attributes))?;
                self.expect(")")?;
                inside
            } else {
                let name = self.name()?;
                if ["true", "false", "none", "True", "False", "None"].contains(&&*name) {
                    return self.fail(format!("`{name}` cannot be assigned to"));
                }
                let symbol = self.symbol(&name);
                match with_attributes && self.skip_operator(".") {
                    true => Target::Attribute(symbol, self.name()?),
                    false => Target::Name(symbol),
                }
            };
            targets.push(target);
            if !self.skip_operator(",") {
                break;
            }
            commas = true;
            if !matches!(self.peek(), Some(Token::Name(name)) if name != "in") && !self.is_operator("(") {
                break;
            }
        }
        match targets.pop() {
            Some(target) if !commas => Ok(target),
            last => {
                targets.extend(last);
                Ok(Target::Tuple(targets))
            }
        }
    }
}

type Parameter = (Arc<str>, super::ast::Symbol, Option<super::ast::Expr>);
