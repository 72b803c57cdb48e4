//! Chat templates: Jinja programs that turn a conversation into the text that a model was tuned on.

use super::calendar::DateTime;
use super::checkpoint::SpecialTokens;
use super::jsonl::Message;
use crate::jinja::{Options, Rendering, Template, Value};
use peft_core::files::TextFiles;
use peft_core::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What begins and ends what stands between `{% generation %}` and `{% endgeneration %}` in a rendering with marks: no text contains
/// these.
pub(super) const MARKS: [char; 2] = ['\u{10FFFE}', '\u{10FFFF}'];

/// A checkpoint's chat template, rendered as transformers renders it.
///
/// The template sees `messages`, `add_generation_prompt`, `tools` and `documents` (`none` if a conversation has none), the other variables
/// of the conversation, the named special tokens, `raise_exception`, `strftime_now` (in UTC), Python's string methods and Python's JSON.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    template: Template,
    source: String,
    tokens: SpecialTokens,
    file: PathBuf,
    now: DateTime,
}

impl ChatTemplate {
    /// The template of a checkpoint directory: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`.
    ///
    /// `None` if the checkpoint has none. Fails if the template does not compile, or if there are several and none is called `default`.
    pub fn load(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        Self::load_from(TextFiles::of(dir.as_ref(), None))
    }

    /// The template among a model's files and those of its adapter.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_from(files: TextFiles<'_>) -> Result<Option<Self>> {
        let found = files.chat_template()?;
        found.map(|(source, file)| Self::new(&source, &SpecialTokens::load(files.settings())?, file)).transpose()
    }

    /// Compile a template; `file` is where errors say it comes from.
    pub fn new(source: &str, tokens: &SpecialTokens, file: impl Into<PathBuf>) -> Result<Self> {
        let file = file.into();
        let template = Template::new(source, Options { trim: true, ..Options::default() })
            .map_err(|e| Error::file(&file, format!("the chat template does not compile: {e}")))?;
        Ok(Self { template, source: source.into(), tokens: tokens.clone(), file, now: DateTime::from(SystemTime::now()) })
    }

    /// The moment that `strftime_now` formats, in UTC; at first the time of loading, so that all of a run's texts agree.
    pub fn with_now(self, now: SystemTime) -> Self {
        Self { now: DateTime::from(now), ..self }
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
        self.render_as(None, messages, variables, add_generation_prompt)
    }

    /// The conversation with [`MARKS`] around what the template says to be the assistant's; none if it says nothing of it.
    pub(super) fn try_render_marked(&self, messages: &[Message], variables: &Variables) -> Option<Result<String, String>> {
        self.template.marks_generation().then(|| self.render_as(Some(MARKS), messages, variables, false))
    }

    /// The program of the template.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    fn render_as(
        &self,
        marks: Option<[char; 2]>,
        messages: &[Message],
        variables: &Variables,
        add_generation_prompt: bool,
    ) -> Result<String, String> {
        #[cfg(test)]
        RENDERINGS.with(|count| count.set(count.get() + 1));
        if messages.is_empty() {
            return Err("the conversation has no messages".into());
        }
        // The last that names a variable decides.
        let context = || {
            let tokens = self.tokens.iter().map(|(name, text)| (name.to_string(), Value::str(text)));
            let variables = variables.iter().filter(|(_, value)| !value.is_null());
            let messages = Value::list_of(messages.iter().map(plain).collect());
            tokens
                .chain(["tools", "documents"].map(|name| (name.to_string(), Value::None)))
                .chain(variables.map(|(name, value)| (name.clone(), Value::from_json(value))))
                .chain([("messages".to_string(), messages), ("add_generation_prompt".to_string(), Value::Bool(add_generation_prompt))])
                .collect()
        };
        let clock = |format: &str| self.now.format(format).map_err(|d| format!("strftime_now does not support the directive `{d}`"));
        let rendering = Rendering { clock: Some(&clock), marks };
        self.template.render(context, rendering).map_err(|e| format!("the chat template failed: {e}"))
    }
}

/// What a template sees of a conversation beside its messages: `tools`, `documents` and whatever `chat_template_kwargs` names.
pub type Variables = serde_json::Map<String, serde_json::Value>;

#[cfg(test)]
thread_local! {
    /// How many conversations this thread has rendered.
    pub(super) static RENDERINGS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
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
    let content = message.form.as_ref().map_or_else(|| Value::str(message.content.as_str()), Value::from_json);
    let said = [("role", Value::str(message.role.as_str())), ("content", content)];
    Value::from_pairs(said.into_iter().chain(extra.iter().map(|(key, value)| (key.as_str(), Value::from_json(value)))))
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
