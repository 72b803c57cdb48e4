//! Chat templates: Jinja programs that turn a conversation into the text that a model was tuned on.

use super::calendar::DateTime;
use super::checkpoint::{SpecialTokens, read_json, read_optional};
use super::jsonl::Message;
use super::python;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, State, context};
use peft_core::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const NAME: &str = "chat_template";
/// The template with marks around what stands between `{% generation %}` and `{% endgeneration %}`.
const MARKED: &str = "chat_template with marks";
/// What begins and ends such a part in a rendering with marks: no text contains these.
pub(super) const MARKS: [char; 2] = ['\u{10FFFE}', '\u{10FFFF}'];
/// The function of the template with marks.
const GENERATION: &str = "__generation";
/// What one rendering may cost, in minijinja's measure: an instruction or 64 bytes. A conversation of a thousand messages takes a
/// twentieth of it; what takes more is a template that does not end or doubles its text. minijinja 3.1 does not count a list that is
/// added to itself dozens of times, nor how deep a value is nested, which only a template made for that brings far enough to do harm.
const FUEL: u64 = 10_000_000;
/// The longest text of a conversation, in bytes.
const MAX_TEXT: usize = 8 << 20;

/// A checkpoint's chat template, rendered as transformers renders it.
///
/// The template sees `messages`, `add_generation_prompt`, `tools` and `documents` (`none` if a conversation has none), the other variables
/// of the conversation, the named special tokens, `raise_exception`, `strftime_now` (in UTC), Python's string methods and Python's JSON.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: Value,
    file: PathBuf,
}

impl ChatTemplate {
    /// The template of a checkpoint directory: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`.
    ///
    /// `None` if the checkpoint has none. Fails if the template does not compile, or if there are several and none is called `default`.
    pub fn load(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        let dir = dir.as_ref();
        let own_file = dir.join("chat_template.jinja");
        let config_file = dir.join("tokenizer_config.json");
        let (source, file) = if let Some(source) = read_optional(&own_file)? {
            (source, own_file)
        } else if let Some(source) = configured(&config_file)? {
            (source, config_file)
        } else {
            return Ok(None);
        };
        Self::new(&source, &SpecialTokens::load(dir)?, file).map(Some)
    }

    /// Compile a template; `file` is where errors say it comes from.
    pub fn new(source: &str, tokens: &SpecialTokens, file: impl Into<PathBuf>) -> Result<Self> {
        let file = file.into();
        if unary_operators_in_a_row(source) > MAX_UNARY {
            return Err(Error::file(&file, format!("the chat template has more than {MAX_UNARY} unary operators in a row")));
        }
        let mut environment = Environment::new();
        environment.set_syntax(syntax());
        environment.set_fuel(Some(FUEL));
        environment.set_debug(true); // errors name what is undefined
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter("tojson", python::tojson);
        environment.add_test("iterable", python::is_iterable);
        environment.add_test("sequence", python::is_sequence);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let source = source.replace("\r\n", "\n");
        environment
            .add_template_owned(NAME, generation_as(&source, "with", "endwith"))
            .map_err(|e| Error::file(&file, format!("the chat template does not compile: {}", describe(&e))))?;
        let marked = generation_as(&source, &format!("call {GENERATION}()"), "endcall");
        if marked != source {
            environment.add_function(GENERATION, generation);
            // A template that cannot be written so is one without marks.
            let _ = environment.add_template_owned(MARKED, marked);
        }
        let tokens = Value::from_pairs(tokens.iter().map(|(name, text)| (name.to_string(), text)));
        Ok(Self { environment, tokens, file }.with_now(SystemTime::now()))
    }

    /// The moment that `strftime_now` formats, in UTC; at first the time of loading, so that all of a run's texts agree.
    pub fn with_now(mut self, now: SystemTime) -> Self {
        let now = DateTime::from(now);
        self.environment.add_function("strftime_now", move |format: &str| {
            let unsupported = |d| format!("strftime_now does not support the directive `{d}`");
            now.format(format).map_err(|d| minijinja::Error::new(ErrorKind::InvalidOperation, unsupported(d)))
        });
        self
    }

    /// Where the template comes from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Render a conversation; with `add_generation_prompt`, up to where the assistant is to speak.
    ///
    /// Fails with the template's own message if it refuses the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_conversation(&messages.to_vec().into(), add_generation_prompt)
    }

    /// As [`render`](Self::render) with further variables, and with the reason alone, for callers that know a better place to report.
    pub(super) fn try_render(&self, messages: &[Message], variables: &Variables, add_generation_prompt: bool) -> Result<String, String> {
        self.render_as(NAME, messages, variables, add_generation_prompt)
    }

    /// The conversation with [`MARKS`] around what the template says to be the assistant's; none if it says nothing of it.
    pub(super) fn try_render_marked(&self, messages: &[Message], variables: &Variables) -> Option<Result<String, String>> {
        self.environment.get_template(MARKED).is_ok().then(|| self.render_as(MARKED, messages, variables, false))
    }

    /// The program of the template.
    pub(super) fn source(&self) -> String {
        self.environment.get_template(NAME).map_or_else(|_| String::new(), |template| template.source().into())
    }

    fn render_as(&self, name: &str, messages: &[Message], variables: &Variables, add_generation_prompt: bool) -> Result<String, String> {
        #[cfg(test)]
        RENDERINGS.with(|count| count.set(count.get() + 1));
        if messages.is_empty() {
            return Err("the conversation has no messages".into());
        }
        let variables = variables.iter().filter(|(_, value)| !value.is_null());
        let messages: Vec<_> = messages.iter().map(plain).collect();
        let variables = Value::from_pairs(variables.map(|(name, value)| (name.clone(), python::from_json(value))));
        // The first that names a variable decides.
        let values = context! {
            ..context! { messages, add_generation_prompt },
            ..variables,
            ..context! { tools => Value::from(()), documents => Value::from(()) },
            ..self.tokens.clone()
        };
        let mut text = Text(Vec::new());
        let rendered = self.environment.get_template(name).and_then(|template| template.render_captured_to(values, &mut text).map(drop));
        let failed = |e: &dyn std::fmt::Display| format!("the chat template failed: {e}");
        rendered.map_err(|e| failed(&describe(&e)))?;
        String::from_utf8(text.0).map_err(|e| failed(&e))
    }
}

/// What a template sees of a conversation beside its messages: `tools`, `documents` and whatever `chat_template_kwargs` names.
pub type Variables = serde_json::Map<String, serde_json::Value>;

#[cfg(test)]
thread_local! {
    /// How many conversations this thread has rendered.
    pub(super) static RENDERINGS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What is called around the parts that a template marks as the assistant's.
fn generation(state: &mut State, options: Kwargs) -> Result<String, minijinja::Error> {
    let said: Value = options.get::<Value>("caller")?.call(state, &[])?;
    Ok(format!("{}{said}{}", MARKS[0], MARKS[1]))
}

/// What a template writes, up to [`MAX_TEXT`]: a value that holds another one twice, which holds a third twice, and so on, is short to
/// build and without end to write.
struct Text(Vec<u8>);

impl std::io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The most unary operators in a row: minijinja counts how deep all other expressions are nested, and overflows the stack on these.
const MAX_UNARY: usize = 1000;

/// The longest row of `-` and `not`, wherever it stands.
fn unary_operators_in_a_row(source: &str) -> usize {
    let (mut rest, mut row, mut longest) = (source, 0, 0);
    while let Some(c) = rest.chars().next() {
        let operator = rest.strip_prefix("not").or_else(|| rest.strip_prefix('-'));
        row = match operator {
            Some(_) => row + 1,
            None if c.is_whitespace() => row,
            None => 0,
        };
        longest = longest.max(row);
        rest = operator.unwrap_or(&rest[c.len_utf8()..]);
    }
    longest
}

/// The template in `tokenizer_config.json`: a string, or a list of named ones of which `default` counts.
fn configured(file: &Path) -> Result<Option<String>> {
    use serde_json::Value as Json;
    let config = read_json(file)?.unwrap_or_default();
    match config.get("chat_template") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(source)) => Ok(Some(source.clone())),
        Some(Json::Array(list)) => {
            let named = |entry: &Json| Some((entry.get("name")?.as_str()?.into(), entry.get("template")?.as_str()?.into()));
            let named: Vec<(String, String)> = list.iter().filter_map(named).collect();
            let names: Vec<_> = named.iter().map(|(name, _)| format!("`{name}`")).collect();
            let missing = format!("`chat_template` lists {} but none called `default`", names.join(", "));
            let default = named.into_iter().find(|(name, _)| name == "default");
            default.map(|(_, source)| Some(source)).ok_or_else(|| Error::file(file, missing))
        }
        Some(_) => Err(Error::file(file, "`chat_template` must be a string or a list of {name, template}")),
    }
}

/// Jinja's own delimiters, with the whitespace control that transformers asks for.
fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("the default delimiters are valid")
}

/// A message as templates see it: keys without a value are absent, reasoning goes by both names that templates read.
fn plain(message: &Message) -> Value {
    let mut extra = message.extra.clone();
    extra.retain(|_, value| !value.is_null());
    let reasoning = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|key| extra.get(*key));
    if let Some(reasoning) = reasoning.cloned() {
        extra.entry("thinking").or_insert_with(|| reasoning.clone());
        extra.insert("reasoning_content".into(), reasoning);
    }
    let content = message.form.as_ref().map_or_else(|| Value::from(&message.content), python::from_json);
    let said = [("role", Value::from(&message.role)), ("content", content)].map(|(key, value)| (key.to_string(), value));
    let extra = extra.iter().map(|(key, value)| (key.clone(), python::from_json(value)));
    Value::from_pairs(said.into_iter().chain(extra))
}

/// Replace `{% generation %} … {% endgeneration %}`, with which transformers marks what the assistant says, by a block of the same
/// scope that minijinja knows.
fn generation_as(source: &str, begin: &str, end_of_block: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (text, tag) = rest.split_at(start);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        out += text;
        let name = tag.trim_matches(|c: char| "{%-+}".contains(c) || c.is_whitespace());
        match name {
            "generation" => out += &tag.replace("generation", begin),
            "endgeneration" => out += &tag.replace("endgeneration", end_of_block),
            _ => out += tag,
        }
        rest = after;
    }
    out + rest
}

/// minijinja's message without its internal template name.
pub(crate) fn describe(error: &minijinja::Error) -> String {
    let reason = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel | ErrorKind::WriteFailure, _) => "it takes too long or too much memory for this conversation".into(),
        (_, Some(detail)) => detail.to_string(),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("{reason} (line {line} of the template)"),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn template(source: &str) -> ChatTemplate {
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].into_iter().collect();
        ChatTemplate::new(source, &tokens, "chat_template.jinja").unwrap()
    }

    fn render(source: &str) -> String {
        template(source).render(&[Message::new("user", "hi")], true).unwrap()
    }

    #[test]
    fn the_date_can_be_set() {
        let template = template("{{ strftime_now('%d %B %Y') }}").with_now(UNIX_EPOCH + Duration::from_secs(951_782_400));
        assert_eq!(template.render(&[Message::new("user", "hi")], false).unwrap(), "29 February 2000");
    }

    #[test]
    fn values_print_as_in_python() {
        assert_eq!(render("{{ tools }} {{ true }} {{ [1, 'a', none] }} {{ missing }}|{{ 1.0 }}"), "None True [1, 'a', None] |1.0");
    }

    #[test]
    fn named_special_tokens_are_known_and_others_are_undefined() {
        assert_eq!(render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token is defined }}"), "<s>hi</s>False");
    }

    #[test]
    fn generation_marks_do_not_change_the_text() {
        let source = "{%- for m in messages %}{%- generation -%}\n {{ m.content }}\n{%- endgeneration %}\n{% endfor %}!";
        assert_eq!(render(source), "hi!");
    }

    #[test]
    fn tool_calls_keep_the_order_of_their_keys() {
        let mut message = Message::new("assistant", "");
        message.extra.insert("tool_calls".into(), serde_json::json!([{"name": "f", "arguments": {"z": 1, "a": [0.5]}}]));
        let rendered = template("{{ messages[0].tool_calls | tojson }}").render(&[message], false).unwrap();
        assert_eq!(rendered, r#"[{"name": "f", "arguments": {"z": 1, "a": [0.5]}}]"#);
    }

    #[test]
    fn reasoning_goes_by_every_name_that_templates_read() {
        let mut message = Message::new("assistant", "hi");
        message.extra.insert("reasoning".into(), "hm".into());
        message.extra.insert("name".into(), serde_json::Value::Null);
        let source = "{{ messages[0].reasoning_content }} {{ messages[0].thinking }} {{ messages[0].name is defined }}";
        assert_eq!(template(source).render(&[message], false).unwrap(), "hm hm False");
    }

    #[test]
    fn a_refusal_is_passed_on_with_the_file_and_line() {
        let error = template("\n{{ raise_exception('no ' ~ messages[0].role) }}").render(&[Message::new("user", "")], false);
        assert_eq!(error.unwrap_err().to_string(), "chat_template.jinja: the chat template failed: no user (line 2 of the template)");
    }

    #[test]
    fn a_template_that_does_not_compile_is_refused_at_once() {
        let error = ChatTemplate::new("{% for m in %}", &SpecialTokens::default(), "t.jinja").unwrap_err().to_string();
        assert!(error.starts_with("t.jinja: the chat template does not compile: "), "{error}");
    }

    #[test]
    fn an_attribute_of_an_undefined_value_is_an_error_that_says_so() {
        let error = template("{{ message.tools.names }}").render(&[Message::new("user", "")], false).unwrap_err().to_string();
        assert_eq!(error, "chat_template.jinja: the chat template failed: `message` is undefined (line 1 of the template)");
    }
}
