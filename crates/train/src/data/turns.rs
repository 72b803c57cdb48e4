//! What of a conversation is to be learned: exactly what the assistant writes, as the texts of the chat template show it.
//!
//! Learned is what a model is to write where this template is in use: the content, the reasoning and the tool calls of an assistant's
//! message, with the signs that the template puts around and between them (`<tool_call>`), and what closes the message. Not learned is
//! what the model is given: all that others say, and what a generation prompt writes before the assistant's first word.
//!
//! 1. [`Spans`] says which message says which part of the text.
//! 2. A turn starts where the generation prompt ends. If the text does not go on behind that prompt (it opens a thought that the
//!    message lacks), or if there is no such prompt, it starts where the message and one with a content alone begin to differ, at the
//!    latest with the first word that the message says.
//! 3. A turn ends with the last word that the message says and with what closes it: a conversation that ends with the message and the
//!    one that goes on must agree on that, since a template may write more behind the last message.
//! 4. Templates that mark what the assistant says (`{% generation %}`) are believed.
//!
//! A conversation is one row if every turn has before it what a model would be given when it comes to that turn, and all that is said
//! in it. Templates that write earlier turns anew (which put the system prompt before the last question, leave out the thoughts of
//! earlier answers, or write the results of tools into the turn of the assistant) give a row for each turn: the conversation up to
//! the end of that turn.
//!
//! Long conversations are looked at in places: turns of a kind (the same roles around them, the same things said in them) look the same
//! around what is said. The first and the last turns of each kind are checked as above, and the others must be written as those are.

use super::conversation::{Conversation, parts};
use super::jsonl::Message;
use super::rendered::{Rendered, Turn, whole_signs};
use super::spans::{Spans, common_prefix};
use super::template::{ChatTemplate, MARKS};
use serde_json::Value;
use std::collections::BTreeMap;

/// A character that no conversation contains; it stands for what somebody says.
const PROBE: &str = "\u{10FFFD}";
/// Turns of a conversation that are all looked at one by one.
const FEW: usize = 12;

/// A text, and where the assistant speaks in it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) text: String,
    pub(super) turns: Vec<Turn>,
    /// What would stand between the text and a question behind it, if nothing closes the last turn.
    pub(super) next: String,
    /// Whether the text lacks something that its messages say.
    pub(super) lacks: bool,
}

/// The rows of a conversation.
#[derive(Debug)]
pub(super) enum Rows {
    /// All of it.
    One(Row),
    /// One for each of these messages of the assistant, in [`Turns::row`].
    Each(Vec<usize>),
}

/// Finds the assistant's turns.
pub(super) struct Turns<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
}

impl<'a> Turns<'a> {
    /// Of a conversation in the form that the template reads.
    pub fn new(template: &'a ChatTemplate, conversation: &'a Conversation) -> Self {
        Self { template, conversation }
    }

    /// The rows of the conversation, which renders to `text`.
    ///
    /// # Errors
    /// If the text shows nothing of what is said.
    pub fn rows(&self, text: String) -> Result<Rows, String> {
        let learned: Vec<usize> = self.learned().collect();
        let whole = self.rendered(self.messages().len(), text)?;
        if whole.shows_nothing(self.messages()) {
            return Err(NOTHING.into());
        }
        match self.turns(&whole, &learned) {
            Ok(turns) => Ok(Rows::One(self.row_of(whole, turns, None))),
            Err(_) => Ok(Rows::Each(learned)),
        }
    }

    /// The row of one turn: the conversation through message `index`.
    ///
    /// # Errors
    /// If the text does not show what is the assistant's, even so.
    pub fn row(&self, index: usize) -> Result<Row, String> {
        let text = self.render(index + 1, false).map_err(|reason| unclear(index, &reason))?;
        let rendered = self.rendered(index + 1, text)?;
        match self.turn(&rendered, index) {
            Ok(turn) => Ok(self.row_of(rendered, vec![turn], Some(index))),
            Err(reason) => self.joined(&rendered, index).map_err(|also| unclear(index, &format!("{reason}, and {also}"))),
        }
    }

    /// What the model is given at the turn of message `index`, and behind it what the message is rendered to, where the template writes
    /// what is before the message anew even when nothing follows.
    fn joined(&self, row: &Rendered, index: usize) -> Result<Row, &'static str> {
        let (prompt, without) = (self.render(index, true), self.render(index, false));
        let (Ok(prompt), Ok(without)) = (prompt, without) else { return Err("it cannot be rendered without it") };
        let (first, content_end) = *row.spans.of_message.get(&index).ok_or("nothing of it is shown")?;
        let start = self.start(row, index, &prompt).min(first);
        if row.spans.spans.iter().any(|span| span.message != index && span.end > start) {
            return Err("others speak behind its beginning");
        }
        if !row.text[..start].ends_with(&prompt[common_prefix(&prompt, &without)..]) {
            return Err("it does not go on behind the generation prompt");
        }
        // What closes the message is what stays when a question follows.
        let followed = self.followed(index + 1).unwrap_or_default();
        let before_question = &followed[..followed.find(PROBE).unwrap_or(0)];
        let said = &row.text[start..content_end];
        let end = before_question.rfind(said).map(|at| at + said.len()).ok_or("nothing shows where it ends")?;
        let closing = whole_signs(&row.text[content_end..], &followed[end..]);
        let (text, begin) = (format!("{prompt}{}", &row.text[start..content_end + closing]), prompt.len());
        let content_end = begin + content_end - start;
        let turn = Turn { start: begin, content_end, limit: content_end + closing, holes: Vec::new(), opens_next: true };
        let lacks = row.spans.hidden.iter().any(|(message, _)| *message == index);
        Ok(Row { text, turns: vec![turn], next: String::new(), lacks })
    }

    fn messages(&self) -> &'a [Message] {
        &self.conversation.messages
    }

    fn learned(&self) -> impl Iterator<Item = usize> {
        let learned = |(_, message): &(usize, &Message)| message.role == "assistant" && message.learned;
        self.messages().iter().enumerate().filter(learned).map(|(index, _)| index)
    }

    fn try_render(&self, messages: &[Message], prompt: bool) -> Result<String, String> {
        self.template.try_render(messages, &self.conversation.variables, prompt)
    }

    fn render(&self, cut: usize, prompt: bool) -> Result<String, String> {
        if cut == 0 { Ok(String::new()) } else { self.try_render(&self.messages()[..cut], prompt) }
    }

    fn rendered(&self, cut: usize, text: String) -> Result<Rendered, String> {
        let spans = Spans::of(self.template, &self.messages()[..cut], &self.conversation.variables, &text)?;
        Ok(Rendered { cut, text, spans })
    }

    /// The whole text, of which everything is learned.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn whole(&self, text: String) -> Result<Row, String> {
        let whole = self.rendered(self.messages().len(), text)?;
        match whole.shows_nothing(self.messages()) {
            true => Err(NOTHING.into()),
            false => Ok(Row { lacks: !whole.spans.hidden.is_empty(), text: whole.text, turns: Vec::new(), next: String::new() }),
        }
    }

    /// The turns of all messages to be learned, or why they cannot be learned in one row.
    fn turns(&self, whole: &Rendered, learned: &[usize]) -> Result<Vec<Turn>, String> {
        self.lost(whole, learned)?;
        if learned.len() <= FEW {
            return learned.iter().map(|index| self.turn(whole, *index)).collect();
        }
        let mut kinds: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
        learned.iter().for_each(|index| kinds.entry(self.kind(*index)).or_default().push(*index));
        let mut turns = BTreeMap::new();
        // A conversation of many kinds is looked at more closely, but not without end.
        let mut closer = 2 * FEW;
        for indices in kinds.into_values() {
            let (first, last) = (indices[0], indices[indices.len() - 1]);
            let example = self.turn(whole, first)?;
            let (before, after) = whole.around(&example, first);
            turns.insert(last, self.turn(whole, last)?);
            for index in indices {
                let alike = whole.alike(index, before, after, example.opens_next);
                let turn = match alike {
                    Some(turn) => turn,
                    None if closer > 0 => {
                        closer -= 1;
                        self.turn(whole, index)?
                    }
                    None => return Err("its turns are written in too many ways".into()),
                };
                turns.entry(index).or_insert(turn);
            }
            turns.insert(first, example);
        }
        Ok(turns.into_values().collect())
    }

    /// Fails if an earlier turn lacks something in hindsight that it has when it is the last one.
    fn lost(&self, whole: &Rendered, learned: &[usize]) -> Result<(), String> {
        let earlier = whole.spans.hidden.iter().filter(|(message, _)| message + 1 < whole.cut && learned.contains(message));
        for (index, said) in earlier.take(FEW) {
            let alone = self.rendered(index + 1, self.render(index + 1, false)?)?;
            if !alone.spans.hidden.contains(&(*index, said.clone())) {
                return Err(format!("a part of message {} is left out when the conversation goes on", index + 1));
            }
        }
        Ok(())
    }

    /// The turn of message `index`.
    fn turn(&self, row: &Rendered, index: usize) -> Result<Turn, String> {
        let text = row.text.as_str();
        let (prompt, without) = (self.render(index, true)?, self.render(index, false)?);
        let asks = prompt != without;
        let own = row.spans.of_message.get(&index).copied();
        // What precedes the generation prompt; without one, what another question would leave as it is.
        let header = match asks {
            true => common_prefix(&prompt, &without),
            false => self.unchanged(index, &prompt),
        };
        let said = row.spans.spans.iter().filter(|span| span.message < index && own.is_none_or(|(first, _)| span.end <= first));
        let said = said.map(|span| span.end).filter(|end| *end <= prompt.len()).max().unwrap_or(0);
        // A generation prompt may stand at the end although nobody asked for it.
        let opener = (said..prompt.trim_end().len()).contains(&header);
        let always_opens = !asks && opener;
        let given = if !asks && !opener { prompt.len() } else { header };
        if common_prefix(&prompt, text) < given {
            return Err("the text before it changes with what follows".into());
        }
        if own.is_some_and(|(first, _)| first < header) {
            return Err("its content stands before it".into());
        }
        let first = own.map_or(text.len(), |(first, _)| first);
        let behind_prompt = text.starts_with(&*prompt) && (asks || always_opens);
        // Of a message that the text does not show, only what was said before can stand behind its prompt.
        let between = row.others(index, prompt.len(), first).next().filter(|span| own.is_some() || span.message < index);
        let start = match behind_prompt && between.is_none_or(|span| span.end > first) {
            true => prompt.len(),
            false => self.start(row, index, &prompt).clamp(header, first),
        };
        let content_end = own.map_or(start, |(_, last)| last.max(start));
        let always_opens = always_opens || index == 0 && self.opens_behind_first(content_end)?;
        let mut holes: Vec<_> = row.others(index, start, content_end).map(|span| (span.start, span.end)).collect();
        let limit = match index + 1 == row.cut {
            true if always_opens => content_end + self.before_next(row, index, content_end),
            true => text.len(),
            false if holes.is_empty() => content_end + self.closing(row, index, content_end)?,
            false => return Err("others speak in the midst of it".into()),
        };
        for span in row.others(index, content_end, limit) {
            // What was said before the turn may be repeated in it where the model was given what it would be given.
            if span.message > index || !behind_prompt || index + 1 < row.cut {
                return Err("others speak before its end".into());
            }
            holes.push((span.start, span.end));
        }
        Ok(Turn { start, content_end, limit, holes, opens_next: always_opens })
    }

    /// Whether an answer is opened behind the first message, which ends at `content_end`, although nobody asks for one.
    fn opens_behind_first(&self, content_end: usize) -> Result<bool, String> {
        let (closed, prompt) = (self.render(1, false)?, self.render(1, true)?);
        Ok(closed == prompt && (content_end..closed.trim_end().len()).contains(&self.unchanged(1, &closed)))
    }

    /// The bytes of the rendering of the first `cut` messages that stay where another question follows.
    fn unchanged(&self, cut: usize, text: &str) -> usize {
        match cut {
            0 => 0,
            _ => self.followed(cut).map_or(text.len(), |followed| common_prefix(&followed, text)),
        }
    }

    /// The first `cut` messages with a question behind them, or with the results of tools if the template allows nothing else there.
    fn followed(&self, cut: usize) -> Result<String, String> {
        let messages = &self.messages()[..cut];
        let parts_like =
            |role: &str| messages.iter().rev().find(|m| m.role == role).is_some_and(|m| m.form.as_ref().is_some_and(Value::is_array));
        let probe = |role: &str| {
            let form = parts_like(role).then(|| parts(PROBE));
            Message { form, ..Message::new(role, PROBE) }
        };
        let with = |next: Vec<Message>| self.try_render(&[messages, &next].concat(), false);
        with(vec![probe("user")]).or_else(|reason| {
            let calls = messages.last().and_then(|message| message.extra.get("tool_calls")).and_then(Value::as_array);
            let result = |call: &Value| {
                let mut result = probe("tool");
                result.extra.extend(call.get("id").map(|id| ("tool_call_id".to_string(), id.clone())));
                result
            };
            calls.map_or(Err(reason), |calls| with(calls.iter().map(result).collect()))
        })
    }

    /// Where a message begins that the generation prompt does not open: where it differs from one with a content alone.
    fn start(&self, row: &Rendered, index: usize, prompt: &str) -> usize {
        let mut messages = self.messages()[..=index].to_vec();
        let mut plain = Message::new("assistant", PROBE);
        plain.form = messages[index].form.as_ref().filter(|form| form.is_array()).map(|_| parts(PROBE));
        messages[index] = plain;
        match self.try_render(&messages, false) {
            Ok(other) => row.differs(&other, index),
            Err(_) => row.differs(prompt, index),
        }
    }

    /// The bytes that close the last message where a generation prompt follows in any case.
    fn before_next(&self, row: &Rendered, index: usize, content_end: usize) -> usize {
        let rest = &row.text[content_end..];
        match self.followed(index + 1) {
            Ok(followed) if followed.starts_with(&row.text[..content_end]) => whole_signs(rest, &followed[content_end..]),
            _ => rest.len(),
        }
    }

    /// The bytes that close a message both when it is the last one and when others follow.
    fn closing(&self, row: &Rendered, index: usize, content_end: usize) -> Result<usize, String> {
        let closed = self.render(index + 1, false)?;
        let rest = &row.text[content_end..];
        let closing = match closed.starts_with(&row.text[..content_end]) {
            true => &closed[content_end..],
            false => {
                let alone = self.rendered(index + 1, closed)?;
                let end = alone.spans.of_message.get(&index).map(|(_, last)| *last);
                let end = end.unwrap_or_else(|| common_prefix(&alone.text, &row.text));
                &alone.text[end..].to_string()
            }
        };
        let common = whole_signs(rest, closing);
        if common < closing.len() && self.messages()[index + 1].role == "tool" {
            return Err("the result of a tool stands before its end".into());
        }
        if rest[..common].trim().is_empty() && !closing.trim().is_empty() {
            return Err("it ends otherwise when the conversation goes on".into());
        }
        Ok(common)
    }

    /// The row of a text with these turns, or with what the template marks; of one message `alone`, or of all.
    fn row_of(&self, rendered: Rendered, turns: Vec<Turn>, alone: Option<usize>) -> Row {
        let others = |message: usize| self.messages()[message].role != "assistant";
        let lacks = rendered.spans.hidden.iter().any(|(message, _)| alone.is_none_or(|index| *message == index || others(*message)));
        let next = turns.last().and_then(|last| self.next(&rendered, last)).unwrap_or_default();
        let turns = self.marked(&rendered, &turns).unwrap_or(turns);
        Row { text: rendered.text, turns, next, lacks }
    }

    /// What would follow a turn that nothing closes, if it ends the text.
    fn next(&self, rendered: &Rendered, last: &Turn) -> Option<String> {
        if last.content_end < rendered.text.len() {
            return None;
        }
        let followed = self.followed(rendered.cut).ok()?;
        let next = followed.strip_prefix(&rendered.text)?;
        Some(next[..next.find(PROBE)?].into())
    }

    /// What the template itself marks as the assistant's, where that is to be learned.
    fn marked(&self, rendered: &Rendered, turns: &[Turn]) -> Option<Vec<Turn>> {
        let marked = self.template.try_render_marked(&self.messages()[..rendered.cut], &self.conversation.variables)?.ok()?;
        let (mut plain, mut parts, mut begin) = (String::new(), Vec::new(), 0);
        for c in marked.chars() {
            match c {
                _ if c == MARKS[0] => begin = plain.len(),
                _ if c == MARKS[1] => parts.push((begin, plain.len())),
                _ => plain.push(c),
            }
        }
        if plain != rendered.text {
            return None;
        }
        let learned = |&(start, end): &(usize, usize)| start < end && turns.iter().any(|turn| start < turn.limit && end > turn.start);
        let turn = |(start, end)| Turn { start, content_end: end, limit: end, holes: Vec::new(), opens_next: false };
        let found: Vec<Turn> = parts.into_iter().filter(learned).map(turn).collect();
        (!found.is_empty()).then_some(found)
    }

    fn kind(&self, index: usize) -> Kind {
        let messages = self.messages();
        let role = |index: Option<usize>| index.and_then(|index| messages.get(index)).map(|message| message.role.clone());
        let message = &messages[index];
        let says = super::messages::SAYINGS.iter().map(|key| message.extra.get(*key).is_some_and(|value| !super::keys::is_empty(value)));
        let says = says.chain([!message.content.trim().is_empty()]).collect();
        (role(index.checked_sub(1)), role(Some(index + 1)), says, index < 2)
    }
}

/// What turns have in common that are written alike: the roles before and after, what is said, and whether nothing precedes.
type Kind = (Option<String>, Option<String>, Vec<bool>, bool);

const NOTHING: &str = "the chat template shows nothing of what the messages say";

fn unclear(index: usize, why: &str) -> String {
    format!(
        "the chat template does not show which part of the text is the assistant's message {}: {why}; \
         pass --train-on-prompt to learn the whole conversation",
        index + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SpecialTokens;
    use crate::data::template::RENDERINGS;

    /// The assistant's parts of the text, each split where its content ends.
    fn parts(source: &str, messages: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let template = ChatTemplate::new(source, &SpecialTokens::default(), "t").unwrap();
        let messages: Vec<_> = messages.iter().map(|&(role, content)| Message::new(role, content)).collect();
        let (conversation, text) = template.show(&messages.into(), false)?;
        let turns = Turns::new(&template, &conversation);
        let rows = match turns.rows(text)? {
            Rows::One(row) => vec![row],
            Rows::Each(indices) => indices.into_iter().map(|index| turns.row(index)).collect::<Result<_, _>>()?,
        };
        let part = |row: &Row, t: &Turn| format!("{}^{}", &row.text[t.start..t.content_end], &row.text[t.content_end..t.limit]);
        Ok(rows.iter().flat_map(|row| row.turns.iter().map(|turn| part(row, turn)).collect::<Vec<_>>()).collect())
    }

    const TWO_TURNS: [(&str, &str); 4] = [("user", "a"), ("assistant", "b b"), ("user", "c"), ("assistant", " d")];

    #[test]
    fn every_assistant_message_is_found_with_what_closes_it() {
        let chatml =
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>|{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(parts(chatml, &TWO_TURNS).unwrap(), ["b b^<end>|", " d^<end>|"]);
        assert_eq!(parts(chatml, &[("user", "a")]).unwrap(), [""; 0]);
    }

    #[test]
    fn the_header_is_not_the_assistants_when_the_template_has_no_generation_prompt() {
        let plain = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}";
        assert_eq!(parts(plain, &TWO_TURNS).unwrap(), ["b b^<end>", "d^<end>"]);
    }

    #[test]
    fn a_first_message_of_the_assistant_is_found() {
        let plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}";
        assert_eq!(parts(plain, &[("assistant", "hi"), ("user", "a")]).unwrap(), ["hi^<end>"]);
    }

    #[test]
    fn an_end_of_text_after_the_last_message_does_not_belong_to_earlier_ones() {
        let phi = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}\
                   {% if add_generation_prompt %}<|assistant|>{% else %}<|endoftext|>{% endif %}";
        assert_eq!(parts(phi, &TWO_TURNS).unwrap(), ["b b^<|end|>", " d^<|end|><|endoftext|>"]);
    }

    #[test]
    fn reasoning_that_only_the_last_message_keeps_is_part_of_that_message() {
        let thinking = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}\
                        {{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(parts(thinking, &TWO_TURNS).unwrap(), ["b b^<end>", "<think></think> d^<end>"]);
    }

    #[test]
    fn a_text_that_counts_its_messages_gives_each_turn_behind_the_count_that_the_model_would_see() {
        let counting = "{{ messages | length }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
        assert_eq!(parts(counting, &TWO_TURNS).unwrap(), ["b b^", " d^"]);
    }

    #[test]
    fn a_long_conversation_is_rendered_as_often_as_a_short_one() {
        let chatml = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        let plain = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
        let renderings = |source: &str, turns: usize| {
            let messages: Vec<_> = (0..turns).flat_map(|i| [("user", format!("q{i}\n")), ("assistant", format!("w{i} "))]).collect();
            let messages: Vec<_> = messages.iter().map(|(role, content)| (*role, content.as_str())).collect();
            let before = RENDERINGS.get();
            let found = parts(source, &messages).unwrap();
            assert_eq!(found.len(), turns);
            assert!(found.iter().enumerate().all(|(i, part)| part.starts_with(&format!("w{i}"))), "{found:?}");
            RENDERINGS.get() - before
        };
        for source in [chatml, plain] {
            let [short, long] = [20, 2000].map(|turns| renderings(source, turns));
            assert!(short <= 40 && long <= short, "{short} renderings of 40 messages, {long} of 4,000");
        }
    }

    #[test]
    fn content_that_the_template_drops_leaves_the_rest_of_the_turn() {
        let silent = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'user' %}{{ m.content }}{% endif %}<end>{% endfor %}\
                      {% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(parts(silent, &TWO_TURNS).unwrap(), ["^<end>", "^<end>"]);
    }

    #[test]
    fn letters_that_stand_for_pieces_can_be_said_themselves() {
        let plain =
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        let said = [("user", "\u{20000}\u{20001}"), ("assistant", "\u{20001}"), ("user", "\u{20002}"), ("assistant", "\u{20003}\u{20000}")];
        assert_eq!(parts(plain, &said).unwrap(), ["\u{20001}^<end>", "\u{20003}\u{20000}^<end>"]);
        let template = ChatTemplate::new(plain, &SpecialTokens::default(), "t").unwrap();
        let messages: Vec<_> = said.iter().map(|&(role, content)| Message::new(role, content)).collect();
        let conversation: Conversation = messages.into();
        let text = template.try_render(&conversation.messages, &conversation.variables, false).unwrap();
        let Rows::One(row) = Turns::new(&template, &conversation).rows(text).unwrap() else { panic!("one row") };
        assert!(!row.lacks);
    }

    #[test]
    fn the_header_behind_a_first_message_of_the_assistant_is_not_its_own() {
        let opening = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}<assistant>";
        let ends = |messages: &[(&str, &str)]| {
            let template = ChatTemplate::new(opening, &SpecialTokens::default(), "t").unwrap();
            let conversation: Conversation = messages.iter().map(|&(role, content)| Message::new(role, content)).collect::<Vec<_>>().into();
            let text = template.try_render(&conversation.messages, &conversation.variables, false).unwrap();
            let Rows::One(row) = Turns::new(&template, &conversation).rows(text).unwrap() else { panic!("one row") };
            row.turns.iter().map(|turn| (row.text[turn.start..turn.limit].to_string(), turn.opens_next)).collect::<Vec<_>>()
        };
        assert_eq!(ends(&[("assistant", "hi")]), [("hi<end>".to_string(), true)]);
        assert_eq!(ends(&[("assistant", "hi"), ("user", "a"), ("assistant", "b")])[0], ("hi<end>".to_string(), true));
    }

    #[test]
    fn empty_contents_go_to_a_template_of_parts_as_parts() {
        let of_parts = "{% for m in messages %}<{{ m.role }}>{% if m.content[0]['type'] == 'text' %}{{ m.content[0]['text'] }}{% endif %}<end>{% endfor %}\
                        {% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(parts(of_parts, &[("user", "a"), ("assistant", ""), ("user", "c"), ("assistant", "d")]).unwrap(), ["^<end>", "d^<end>"]);
    }

    #[test]
    fn content_alone_counts_where_the_generation_prompt_opens_something_else() {
        let thinker = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}";
        assert_eq!(parts(thinker, &TWO_TURNS).unwrap(), ["b b^<end>", " d^<end>"]);
        let reasoned = [("user", "a"), ("assistant", "<think>hm</think>b")];
        assert_eq!(parts(thinker, &reasoned).unwrap(), ["hm</think>b^<end>"]);
    }

    #[test]
    fn a_conversation_that_reads_differently_in_hindsight_is_an_error_with_a_way_out() {
        let reversed = "{% for m in messages[::-1] %}<{{ m.role }}>{{ m.content }}{% endfor %}";
        let reason = parts(reversed, &TWO_TURNS).unwrap_err();
        assert!(reason.contains("assistant's message 2") && reason.contains("--train-on-prompt"), "{reason}");
    }
}
