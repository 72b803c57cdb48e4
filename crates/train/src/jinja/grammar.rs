//! Expressions, by the rules of precedence that Jinja has.

use super::ast::{Comparison, Expr, Literal, Node, Operator};
use super::lexer::Token;
use super::parser::{Parsed, Parser};

impl Parser {
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
}
