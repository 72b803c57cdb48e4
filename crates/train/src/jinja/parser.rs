//! Expressions, by the rules of precedence that Jinja has.

use super::Error;
use super::ast::{Arguments, Comparison, Expr, Literal, Node, Operator, Program, Symbol};
use super::lexer::Token;
use std::collections::HashMap;
use std::sync::Arc;

/// How deep brackets and blocks may be nested where they are read; Jinja's own parser ends
/// at about a third of that.
const MAX_NESTING: usize = 300;

pub(super) struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    nesting: usize,
    symbols: HashMap<Arc<str>, Symbol>,
    pub program: Program,
    /// How many loops are open where the parser is.
    pub loops: usize,
}

pub(super) type Parsed<T> = Result<T, Error>;

impl Parser {
    pub fn new(tokens: Vec<(Token, usize)>) -> Self {
        Self { tokens, at: 0, nesting: 0, symbols: HashMap::new(), program: Program::default(), loops: 0 }
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

    fn peek_second(&self) -> Option<&Token> {
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
        if let Some(symbol) = self.symbols.get(name) {
            return *symbol;
        }
        let (name, symbol): (Arc<str>, _) = (name.into(), self.program.symbols.len() as Symbol);
        self.program.symbols.push(name.clone());
        self.symbols.insert(name, symbol);
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

    pub fn expression(&mut self) -> Parsed<Expr> {
        self.nested(Self::conditional)
    }

    fn conditional(&mut self) -> Parsed<Expr> {
        let mut value = self.or()?;
        while self.skip_name("if") {
            let condition = self.or()?;
            let other = if self.skip_name("else") { Some(Box::new(self.nested(Self::conditional)?)) } else { None };
            value = self.expr(Node::Conditional(condition.into(), value.into(), other))?;
        }
        Ok(value)
    }

    pub fn or(&mut self) -> Parsed<Expr> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            left = self.expr(Node::Or(left.into(), right.into()))?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed<Expr> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            left = self.expr(Node::And(left.into(), right.into()))?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed<Expr> {
        if self.skip_name("not") {
            let value = self.nested(Self::not)?;
            return self.expr(Node::Not(value.into()));
        }
        self.compare()
    }

    fn compare(&mut self) -> Parsed<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(comparison) = self.comparison() {
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() { Ok(first) } else { self.expr(Node::Compare(first.into(), rest)) }
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let (comparison, tokens) = match self.peek()? {
            Token::Operator("==") => (Comparison::Equal, 1),
            Token::Operator("!=") => (Comparison::Unequal, 1),
            Token::Operator("<") => (Comparison::Less, 1),
            Token::Operator("<=") => (Comparison::LessOrEqual, 1),
            Token::Operator(">") => (Comparison::Greater, 1),
            Token::Operator(">=") => (Comparison::GreaterOrEqual, 1),
            Token::Name(name) if name == "in" => (Comparison::In, 1),
            Token::Name(name) if name == "not" && matches!(self.peek_second(), Some(Token::Name(name)) if name == "in") => {
                (Comparison::NotIn, 2)
            }
            _ => return None,
        };
        self.at += tokens;
        Some(comparison)
    }

    fn operator(&mut self, operators: &[(&str, Operator)]) -> Option<Operator> {
        let found = operators.iter().find(|(text, _)| self.is_operator(text))?.1;
        self.at += 1;
        Some(found)
    }

    fn sum(&mut self) -> Parsed<Expr> {
        let mut left = self.concat()?;
        while let Some(operator) = self.operator(&[("+", Operator::Add), ("-", Operator::Subtract)]) {
            let right = self.concat()?;
            left = self.expr(Node::Binary(operator, left.into(), right.into()))?;
        }
        Ok(left)
    }

    fn concat(&mut self) -> Parsed<Expr> {
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_operator("~") {
            parts.push(self.product()?);
        }
        self.expr(Node::Concat(parts))
    }

    fn product(&mut self) -> Parsed<Expr> {
        const OPERATORS: [(&str, Operator); 4] =
            [("*", Operator::Multiply), ("/", Operator::Divide), ("//", Operator::FloorDivide), ("%", Operator::Remainder)];
        let mut left = self.power()?;
        while let Some(operator) = self.operator(&OPERATORS) {
            let right = self.power()?;
            left = self.expr(Node::Binary(operator, left.into(), right.into()))?;
        }
        Ok(left)
    }

    fn power(&mut self) -> Parsed<Expr> {
        let mut left = self.unary(true)?;
        while self.skip_operator("**") {
            let right = self.unary(true)?;
            left = self.expr(Node::Binary(Operator::Power, left.into(), right.into()))?;
        }
        Ok(left)
    }

    fn unary(&mut self, with_filter: bool) -> Parsed<Expr> {
        let value = if self.skip_operator("-") {
            let value = self.nested(|parser| parser.unary(false))?;
            self.expr(Node::Negate(value.into()))?
        } else if self.skip_operator("+") {
            let value = self.nested(|parser| parser.unary(false))?;
            self.expr(Node::Plus(value.into()))?
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if with_filter { self.filters(value) } else { Ok(value) }
    }

    pub fn primary(&mut self) -> Parsed<Expr> {
        let literal = match self.peek() {
            Some(Token::Name(name)) => match name.as_str() {
                "true" | "True" => Literal::Bool(true),
                "false" | "False" => Literal::Bool(false),
                "none" | "None" => Literal::None,
                _ => {
                    let name = self.name()?;
                    let symbol = self.symbol(&name);
                    return self.expr(Node::Name(symbol));
                }
            },
            Some(Token::Str(_)) => return self.strings(),
            Some(Token::Int(value)) => Literal::Int(*value),
            Some(Token::Float(value)) => Literal::Float(*value),
            Some(Token::Operator("(")) => {
                self.at += 1;
                let inside = self.nested(|parser| parser.tuple(true, Self::expression, |parser| parser.is_operator(")")))?;
                self.expect(")")?;
                return Ok(inside);
            }
            Some(Token::Operator("[")) => return self.nested(Self::list),
            Some(Token::Operator("{")) => return self.nested(Self::dict),
            _ => return self.fail(format!("expected an expression, found {}", self.found())),
        };
        self.at += 1;
        self.expr(Node::Literal(literal))
    }

    /// Texts that stand beside each other are one.
    fn strings(&mut self) -> Parsed<Expr> {
        let mut text = String::new();
        while let Some(Token::Str(part)) = self.peek() {
            text += part;
            self.at += 1;
        }
        self.expr(Node::Literal(Literal::Str(text.into())))
    }

    /// Values with commas between them, or one value alone.
    pub fn tuple(&mut self, may_be_empty: bool, item: impl Fn(&mut Self) -> Parsed<Expr>, ends: impl Fn(&Self) -> bool) -> Parsed<Expr> {
        let mut items = Vec::new();
        let mut commas = false;
        loop {
            let over = matches!(self.peek(), None | Some(Token::VariableEnd | Token::BlockEnd)) || ends(self);
            if over {
                break;
            }
            items.push(item(self)?);
            if !self.skip_operator(",") {
                break;
            }
            commas = true;
        }
        match items.pop() {
            Some(item) if !commas => Ok(item),
            None if !may_be_empty => self.fail(format!("expected an expression, found {}", self.found())),
            last => {
                items.extend(last);
                self.expr(Node::Tuple(items))
            }
        }
    }

    fn list(&mut self) -> Parsed<Expr> {
        self.expect("[")?;
        let mut items = Vec::new();
        while !self.is_operator("]") {
            items.push(self.expression()?);
            if !self.is_operator("]") {
                self.expect(",")?;
            }
        }
        self.expect("]")?;
        self.expr(Node::List(items))
    }

    fn dict(&mut self) -> Parsed<Expr> {
        self.expect("{")?;
        let mut entries = Vec::new();
        while !self.is_operator("}") {
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?));
            if !self.is_operator("}") {
                self.expect(",")?;
            }
        }
        self.expect("}")?;
        self.expr(Node::Dict(entries))
    }

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
    fn filters(&mut self, mut value: Expr) -> Parsed<Expr> {
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
