//! Jinja as Python has it, for templates that other people wrote.
//!
//! Chat templates are programs for `jinja2` in Python: they count on Python's numbers, texts, methods and rules for names. This
//! evaluates them with the results of Python, and with bounds on everything that a template can make grow: the length and nesting of
//! its source, the steps and memory of a rendering, the depth of calls and of values, the length of the text.

mod access;
mod ast;
mod calls;
mod exec;
mod expr;
mod filters;
mod format;
mod grammar;
mod json;
mod lexer;
mod lists;
mod literals;
mod machine;
mod methods;
mod number;
mod ops;
mod order;
mod parser;
mod postfix;
mod predicates;
mod spec;
mod statements;
mod strings;
mod text;
mod value;

use ast::Program;
use std::sync::Arc;
pub(crate) use value::Value;

/// The longest template, in bytes. The longest published ones have 30 kB.
const MAX_SOURCE: usize = 1 << 20;
/// The stack that reading and rendering have: as much as the bounds on nesting can make them take.
const STACK: usize = 64 << 20;

/// How a template is read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// A line end after a tag and white space before one belong to the tag.
    pub trim: bool,
    /// The template's last line end is part of the text.
    pub keep_trailing_newline: bool,
    /// Using what is undefined is an error.
    pub strict: bool,
}

/// A template that can be rendered.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    program: Arc<Program>,
    options: Options,
}

/// What a rendering is given beside its values.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rendering<'a> {
    /// What is behind `strftime_now`; without it there is no such function.
    pub clock: Option<Clock<'a>>,
    /// What to write before and after what `{% generation %}` marks.
    pub marks: Option<[char; 2]>,
}

/// Formats the moment of the rendering; the error says what is wrong with the format.
pub(crate) type Clock<'a> = &'a (dyn Fn(&str) -> Result<String, String> + Sync);

/// Why a template could not be read or rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    reason: String,
    line: Option<usize>,
}

impl Error {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), line: None }
    }

    fn too_much() -> Self {
        Self::new("it takes too long or too much memory for this conversation")
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{} (line {line} of the template)", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl Template {
    /// Read a template.
    pub fn new(source: &str, options: Options) -> Result<Self, Error> {
        if source.len() > MAX_SOURCE {
            return Err(Error::new(format!("it has {} bytes, more than {MAX_SOURCE}", source.len())));
        }
        let program = with_stack(|| statements::parse(lexer::tokens(source, options)?))?;
        Ok(Self { program: Arc::new(program), options })
    }

    /// Whether it marks what the assistant says with `{% generation %}`.
    pub fn marks_generation(&self) -> bool {
        self.program.marks_generation
    }

    /// The text for the values that `context` makes. Where a name occurs twice, its last value counts.
    pub fn render(&self, context: impl FnOnce() -> Vec<(String, Value)> + Send, rendering: Rendering<'_>) -> Result<String, Error> {
        with_stack(|| machine::Machine::new(&self.program, self.options, rendering).render(context()))
    }
}

/// Run `work` with the stack that it may need, whatever thread this is.
fn with_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".into()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Error::new(format!("no thread could be started for the template: {e}")))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests;
