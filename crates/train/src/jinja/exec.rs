//! Running statements.

use super::Error;
use super::ast::{Expr, Loop, Statement, StatementKind, Target};
use super::machine::{Machine, undefined};
use super::value::{LoopState, Value};
use std::cell::RefCell;
use std::rc::Rc;

/// How statements end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

impl<'t> Machine<'t> {
    pub fn exec(&mut self, statements: &'t [Statement], frame: usize, out: &mut String) -> Result<Flow, Error> {
        for statement in statements {
            let flow = self.deeper(|machine| machine.statement(&statement.kind, frame, out));
            match flow.map_err(|e| Error { line: e.line.or(Some(statement.line)), ..e })? {
                Flow::Next => {}
                other => return Ok(other),
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, kind: &'t StatementKind, frame: usize, out: &mut String) -> Result<Flow, Error> {
        match kind {
            StatementKind::Text(text) => self.push(out, text)?,
            StatementKind::Output(value) => {
                let value = self.eval(value, frame)?;
                self.write(out, &value)?;
            }
            StatementKind::If(branches, otherwise) => {
                for (condition, body) in branches {
                    let condition = self.eval(condition, frame)?;
                    if self.truth(&condition)? {
                        return self.exec(body, frame, out);
                    }
                }
                return self.exec(otherwise, frame, out);
            }
            StatementKind::For(number) => {
                let program = self.program;
                let items = self.eval(&program.loops[*number].items, frame)?;
                return self.for_loop(*number, &items, 1, frame, out);
            }
            StatementKind::Set(target, value) => {
                let value = self.eval(value, frame)?;
                self.assign(target, value, frame)?;
            }
            StatementKind::SetBlock(target, filters, body) => {
                let (text, _) = self.captured(body, frame)?;
                let value = self.filtered(filters.as_ref(), text, frame)?;
                self.assign(target, value, frame)?;
            }
            StatementKind::With(values, body) => {
                let inner = self.open(frame);
                for (target, value) in values {
                    let value = self.eval(value, frame)?;
                    self.assign(target, value, inner)?;
                }
                let flow = self.exec(body, inner, out);
                self.close(inner);
                return flow;
            }
            StatementKind::Scope(body) => {
                let inner = self.open(frame);
                let flow = self.exec(body, inner, out);
                self.close(inner);
                return flow;
            }
            StatementKind::Generation(body) => {
                let [before, after] = self.rendering.marks.map_or_else(Default::default, |marks| marks.map(String::from));
                let inner = self.open(frame);
                self.push(out, &before)?;
                let flow = self.exec(body, inner, out);
                self.push(out, &after)?;
                self.close(inner);
                return flow;
            }
            StatementKind::FilterBlock(filters, body) => {
                let (text, flow) = self.captured(body, frame)?;
                let value = self.filtered(Some(filters), text, frame)?;
                self.write(out, &value)?;
                return Ok(flow);
            }
            StatementKind::Macro(number) => {
                let value = self.bind_macro(*number, frame);
                self.set(frame, self.program.macros[*number].symbol, value);
            }
            StatementKind::CallBlock(call, number) => {
                let caller = self.bind_macro(*number, frame);
                let value = self.call_with(call, Some(caller), frame)?;
                self.write(out, &value)?;
            }
            StatementKind::Break => return Ok(Flow::Break),
            StatementKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn bind_macro(&mut self, number: usize, frame: usize) -> Value {
        self.keep(frame);
        self.macros.push((number, frame));
        Value::Macro(self.macros.len() - 1)
    }

    /// What a block writes, with names of its own.
    fn captured(&mut self, body: &'t [Statement], frame: usize) -> Result<(String, Flow), Error> {
        let inner = self.open(frame);
        let mut text = String::new();
        let flow = self.exec(body, inner, &mut text)?;
        self.close(inner);
        Ok((text, flow))
    }

    fn filtered(&mut self, filters: Option<&'t Expr>, text: String, frame: usize) -> Result<Value, Error> {
        let text = Value::str(text);
        match filters {
            Some(filters) => self.eval_filter(filters, Some(text), frame).map(Value::without_markup),
            None => Ok(text),
        }
    }

    fn assign(&mut self, target: &'t Target, value: Value, frame: usize) -> Result<(), Error> {
        match target {
            Target::Name(symbol) => self.set(frame, *symbol, value),
            Target::Attribute(symbol, name) => match self.get(frame, *symbol) {
                Value::Namespace(number) => {
                    self.spend_search(self.namespaces[number].len())?;
                    let attributes = &mut self.namespaces[number];
                    match attributes.iter_mut().find(|(known, _)| known == name) {
                        Some((_, old)) => *old = value,
                        None => attributes.push((name.clone(), value)),
                    }
                }
                Value::Undefined(name) => return Err(undefined(name.as_deref())),
                other => return Err(Error::new(format!("only attributes of a namespace can be set, not of a {}", other.type_name()))),
            },
            Target::Tuple(targets) => {
                let items = self.items(&value)?;
                if items.len() != targets.len() {
                    return Err(Error::new(format!("{} values cannot be assigned to {} names", items.len(), targets.len())));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, frame)?;
                }
            }
        }
        Ok(())
    }

    /// Run a loop over `items`, for `loop(…)` too.
    pub fn for_loop(&mut self, number: usize, items: &Value, depth: usize, frame: usize, out: &mut String) -> Result<Flow, Error> {
        let program = self.program;
        let definition = &program.loops[number];
        let items = self.items(items)?;
        let items = self.chosen(definition, items, frame)?;
        let recursive = definition.recursive.then_some((number, frame));
        if recursive.is_some() {
            self.keep(frame);
        }
        let state = Rc::new(RefCell::new(LoopState { items, index: 0, depth, changed: None, recursive }));
        let loop_name = self.known("loop");
        let count = state.borrow().items.len();
        let mut flow = Ok(Flow::Next);
        // Jinja takes a loop for an empty one until its body has been run to the end.
        let mut completed = false;
        for index in 0..count {
            state.borrow_mut().index = index;
            let inner = self.open(frame);
            let item = state.borrow().items[index].clone();
            if let Some(symbol) = loop_name {
                self.set(inner, symbol, Value::Loop(state.clone()));
            }
            flow = self.assign(&definition.target, item, inner).and_then(|()| self.exec(&definition.body, inner, out));
            self.close(inner);
            completed |= matches!(flow, Ok(Flow::Next));
            match flow {
                Ok(Flow::Next | Flow::Continue) => flow = Ok(Flow::Next),
                Ok(Flow::Break) => {
                    flow = Ok(Flow::Next);
                    break;
                }
                Err(_) => break,
            }
        }
        state.borrow_mut().changed = None; // it may hold the loop itself
        if completed || flow.is_err() {
            return flow;
        }
        let inner = self.open(frame);
        let flow = self.exec(&definition.otherwise, inner, out);
        self.close(inner);
        flow
    }

    /// The items that meet the loop's condition.
    fn chosen(&mut self, definition: &'t Loop, items: Vec<Value>, frame: usize) -> Result<Vec<Value>, Error> {
        let Some(condition) = &definition.condition else { return Ok(items) };
        let mut chosen = Vec::new();
        for item in items {
            let inner = self.open(frame);
            self.assign(&definition.target, item.clone(), inner)?;
            let met = self.eval(condition, inner)?;
            self.close(inner);
            if self.truth(&met)? {
                chosen.push(item);
            }
        }
        Ok(chosen)
    }
}
