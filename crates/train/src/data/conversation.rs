//! Conversations, in the form that a chat template reads.
//!
//! Files write the same thing in several ways and templates read some of them: a content can be a string or a list of parts, arguments
//! of a tool can be an object or its JSON, nothing said can be null or an empty string. A conversation goes to the template as the file
//! has it, as transformers would do it. Another way is taken if the template fails on that one, if it then shows more of what is said,
//! or if the first way shows how Python writes a value (`None`, `{'type': 'text'}`) or JSON within JSON.

use super::jsonl::Message;
use super::template::{ChatTemplate, Variables};
use peft_core::{Error, Result};
use serde_json::{Value, json};

/// Messages, and what a chat template gets to see beside them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// At least one.
    pub messages: Vec<Message>,
    /// `tools`, `documents` and the entries of `chat_template_kwargs`.
    pub variables: Variables,
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, variables: Variables::new() }
    }
}

impl Conversation {
    /// What comes before the last message, and that one, if it is an answer of the assistant.
    pub(crate) fn asked(&self) -> Option<(Self, &Message)> {
        let (last, asked) = self.messages.split_last().filter(|(last, asked)| last.role == "assistant" && !asked.is_empty())?;
        Some((Self { messages: asked.to_vec(), variables: self.variables.clone() }, last))
    }
}

impl ChatTemplate {
    /// Render a conversation; with `add_generation_prompt`, up to where the assistant is to speak.
    ///
    /// # Errors
    /// The template's own message if it refuses the conversation.
    pub fn render_conversation(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String> {
        let shown = self.show(conversation, add_generation_prompt);
        shown.map(|(_, text)| text).map_err(|reason| Error::file(self.file(), reason))
    }

    /// The conversation in the form that the template reads best, and its text.
    pub(super) fn show(&self, conversation: &Conversation, prompt: bool) -> Result<(Conversation, String), String> {
        let render = |messages: &[Message]| self.try_render(messages, &conversation.variables, prompt);
        let mut messages = conversation.messages.clone();
        let mut rendered = render(&messages);
        let mut attempt = messages.clone();
        for form in FORMS {
            let from = if rendered.is_ok() { &messages } else { &attempt };
            let Some(changed) = form(from, rendered.as_deref().ok()) else { continue };
            let other = render(&changed);
            match (&rendered, &other) {
                (Ok(now), Ok(text)) if !is_better(text, now, &conversation.messages) => {}
                (Ok(_), Err(_)) => {}
                // What fails in one form may succeed in two.
                (Err(_), Err(_)) => attempt = changed,
                (_, Ok(_)) => (messages, rendered) = (changed, other),
            }
        }
        rendered.map(|text| (Conversation { messages, variables: conversation.variables.clone() }, text))
    }
}

/// The messages in another form, given what they are rendered to now; none if it would be the same.
type Form = fn(&[Message], Option<&str>) -> Option<Vec<Message>>;

const FORMS: [Form; 7] =
    [json_for_object, empty_for_null, null_for_empty, object_for_json, text_for_parts, parts_for_text, parts_for_nothing];

fn changed(messages: &[Message], change: impl Fn(&mut Message) -> bool) -> Option<Vec<Message>> {
    let mut messages = messages.to_vec();
    let changes = messages.iter_mut().filter_map(|message| change(message).then_some(())).count();
    (changes > 0).then_some(messages)
}

/// Nothing said as an empty string.
fn empty_for_null(messages: &[Message], _: Option<&str>) -> Option<Vec<Message>> {
    changed(messages, |message| message.form.take_if(|form| form.is_null()).is_some())
}

/// Nothing said beside calls of tools as null, if the template does not show all calls.
fn null_for_empty(messages: &[Message], text: Option<&str>) -> Option<Vec<Message>> {
    let unseen = |message: &Message| text.is_none_or(|text| texts(message).iter().any(|said| !is_shown(text, said)));
    changed(messages, |message| {
        let empty = message.form.is_none() && message.content.is_empty() && message.extra.contains_key("tool_calls") && unseen(message);
        if empty {
            message.form = Some(Value::Null);
        }
        empty
    })
}

/// Contents in parts as one string.
fn text_for_parts(messages: &[Message], _: Option<&str>) -> Option<Vec<Message>> {
    changed(messages, |message| message.form.take_if(|form| form.is_array() || form.is_object()).is_some())
}

/// Contents as parts, if the template does not show all that are strings.
fn parts_for_text(messages: &[Message], text: Option<&str>) -> Option<Vec<Message>> {
    let unseen = |message: &Message| message.form.is_none() && !message.content.trim().is_empty();
    // Mostly in the order of the messages.
    let mut from = 0;
    let mut shown = |text: &str, said: &str| match text[from..].find(said.trim()) {
        Some(at) => {
            from += at;
            true
        }
        None => is_shown(text, said),
    };
    if text.is_some_and(|text| messages.iter().all(|message| !unseen(message) || shown(text, &message.content))) {
        return None;
    }
    changed(messages, |message| {
        let plain = unseen(message);
        if plain {
            message.form = Some(parts(&message.content));
        }
        plain
    })
}

/// Empty contents as parts too, if the template fails on them as they are.
fn parts_for_nothing(messages: &[Message], text: Option<&str>) -> Option<Vec<Message>> {
    if text.is_some() {
        return None;
    }
    changed(messages, |message| {
        let blank = message.form.is_none() && message.content.trim().is_empty();
        if blank {
            message.form = Some(parts(&message.content));
        }
        blank
    })
}

/// A text as the only part of a list.
pub(super) fn parts(text: &str) -> Value {
    json!([{ "type": "text", "text": text }])
}

/// The JSON of a tool's arguments as the object that it says, if the template does not show the JSON as it stands.
fn object_for_json(messages: &[Message], text: Option<&str>) -> Option<Vec<Message>> {
    changed(messages, |message| {
        edit_arguments(message, |arguments| {
            let said =
                arguments.as_str().filter(|json| !text.is_some_and(|text| text.contains(&format!("\n{json}")) || shows_whole(text, json)));
            said.and_then(|json| serde_json::from_str(json).ok()).filter(Value::is_object)
        })
    })
}

/// Whether a text has this JSON in it, and not as a string of other JSON.
fn shows_whole(text: &str, json: &str) -> bool {
    text.contains(json) && !text.contains(&format!("\"{json}\""))
}

/// A tool's arguments as JSON, if the template fails on an object.
fn json_for_object(messages: &[Message], text: Option<&str>) -> Option<Vec<Message>> {
    if text.is_some() {
        return None;
    }
    changed(messages, |message| edit_arguments(message, |arguments| arguments.is_object().then(|| Value::String(python_json(arguments)))))
}

/// JSON with the spaces that Python's has.
pub(super) fn python_json(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Array(items) => format!("[{}]", list(items.iter().map(python_json).collect())),
        Value::Object(entries) => {
            let entry = |(key, value): (&String, &Value)| format!("{}: {}", Value::from(key.as_str()), python_json(value));
            format!("{{{}}}", list(entries.iter().map(entry).collect()))
        }
        other => other.to_string(),
    }
}

fn edit_arguments(message: &mut Message, edit: impl Fn(&Value) -> Option<Value>) -> bool {
    let calls = message.extra.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten();
    let arguments = calls.filter_map(|call| match call.get("function").is_some() {
        true => call.get_mut("function")?.get_mut("arguments"),
        false => call.get_mut("arguments"),
    });
    arguments.filter_map(|place| edit(place).map(|value| *place = value)).count() > 0
}

/// Whether a text shows messages better than another does: more of what they say and no more of Python, or as much and less of it.
fn is_better(new: &str, old: &str, messages: &[Message]) -> bool {
    let shown = |text: &str| messages.iter().flat_map(texts).filter(|said| is_shown(text, said)).count();
    let python = |text: &str| {
        let signs = ["None", "null", "'type': 'text'", "\"type\": \"text\"", "\\\"", "\"{}\""];
        signs.iter().map(|sign| text.matches(sign).count()).sum::<usize>()
    };
    let (more, less) = (shown(new).cmp(&shown(old)), python(old).cmp(&python(new)));
    less.is_ge() && more.then(less).is_gt()
}

/// What a message says, piece by piece: its contents and what its tool calls hold.
fn texts(message: &Message) -> Vec<&str> {
    fn collect<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
        match value {
            Value::String(text) if !text.trim_start().starts_with('{') => texts.push(text),
            Value::Array(items) => items.iter().for_each(|item| collect(item, texts)),
            Value::Object(entries) => {
                entries.iter().filter(|(key, _)| *key != "id" && *key != "type").for_each(|(_, item)| collect(item, texts))
            }
            _ => {}
        }
    }
    let mut texts = Vec::new();
    match &message.form {
        Some(form) => collect(form, &mut texts),
        None => texts.push(&message.content),
    }
    message.extra.get("tool_calls").into_iter().for_each(|calls| collect(calls, &mut texts));
    texts.retain(|text| !text.trim().is_empty());
    texts
}

/// Whether a text shows what is said, as it stands or within JSON.
pub(super) fn is_shown(text: &str, said: &str) -> bool {
    let said = said.trim();
    text.contains(said) || {
        let json = Value::from(said).to_string();
        text.contains(&json[1..json.len() - 1])
    }
}
