//! Where in a rendered conversation the assistant speaks.

use super::jsonl::Message;
use super::template::{ChatTemplate, Variables};

/// A character that no conversation contains; it stands in for a message's content to find where the template puts that.
const PROBE: &str = "\u{10FFFD}";

/// One assistant message in the rendered text, as byte offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Where the assistant begins: after the generation prompt.
    pub(super) start: usize,
    /// Where its content ends.
    pub(super) content_end: usize,
    /// Up to where the text that closes the turn can reach: what follows belongs to the next message.
    pub(super) limit: usize,
}

/// The assistant's turns in `text`, the rendering of all `messages`.
///
/// The conversation before a turn must read the same whether or not the turn follows, or the model would be trained on other prompts
/// than it is used with: that is an error. The turn starts where the generation prompt ends; if the template does not render the
/// message behind that prompt (it has none, or the prompt opens a line of thought that the message lacks), where its content starts.
/// Its end is found by rendering the conversation up to it, with and without the content: a template may render a message differently
/// when it is the last one (add an end-of-text token, keep the reasoning), and only what both renderings close the turn with counts.
pub(super) fn assistant_turns(template: &ChatTemplate, messages: &[Message], text: &str) -> Result<Vec<Turn>, String> {
    let spoken = messages.iter().enumerate().filter(|(_, m)| m.role == "assistant");
    spoken.map(|(index, _)| turn(template, messages, text, index)).collect()
}

fn turn(template: &ChatTemplate, messages: &[Message], text: &str, index: usize) -> Result<Turn, String> {
    let render =
        |messages: &[Message], prompt| template.try_render(messages, &Variables::new(), prompt).map_err(|e| inconsistent(index, &e));
    let (prompt, without) = match &messages[..index] {
        [] => (String::new(), String::new()),
        earlier => (render(earlier, true)?, render(earlier, false)?),
    };
    let header = common_prefix(&prompt, &without); // what precedes the generation prompt
    if common_prefix(&prompt, text) < header {
        return Err(inconsistent(index, "the text before it changes with what follows"));
    }
    let (from, to) = content_span(text, &render(&probed(messages, index), false)?, &prompt);
    if from < header {
        return Err(inconsistent(index, "its content stands before it"));
    }
    let start = if prompt != without && text.starts_with(&prompt) { prompt.len() } else { from };
    let limit = if index + 1 == messages.len() {
        text.len()
    } else {
        let through = &messages[..=index];
        let closed = render(through, false)?;
        let (_, end) = content_span(&closed, &render(&probed(through, index), false)?, &prompt);
        to + common_prefix(&text[to..], &closed[end..])
    };
    Ok(Turn { start, content_end: to.max(start), limit })
}

fn inconsistent(index: usize, why: &str) -> String {
    format!(
        "the chat template does not show which part of the text is the assistant's message {}: {why}; \
         pass --train-on-prompt to learn the whole conversation",
        index + 1
    )
}

fn probed(messages: &[Message], index: usize) -> Vec<Message> {
    let mut messages = messages.to_vec();
    messages[index].content = PROBE.into();
    messages
}

/// The bytes of `text` that the content takes, given the rendering with the probe in its place. A content that the template leaves out
/// is empty and stands behind the prompt.
fn content_span(text: &str, probed: &str, prompt: &str) -> (usize, usize) {
    if text == probed {
        let end = common_prefix(text, prompt);
        return (end, end);
    }
    let start = common_prefix(text, probed);
    let same_end = text[start..].chars().rev().zip(probed[start..].chars().rev()).take_while(|(a, b)| a == b);
    (start, text.len() - same_end.map(|(a, _)| a.len_utf8()).sum::<usize>())
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SpecialTokens;

    /// The assistant's parts of the text, each split where its content ends.
    fn parts(source: &str, messages: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let template = ChatTemplate::new(source, &SpecialTokens::default(), "t").unwrap();
        let messages: Vec<_> = messages.iter().map(|&(role, content)| Message::new(role, content)).collect();
        let text = template.try_render(&messages, &Variables::new(), false)?;
        let turns = assistant_turns(&template, &messages, &text)?;
        Ok(turns.iter().map(|t| format!("{}^{}", &text[t.start..t.content_end], &text[t.content_end..t.limit])).collect())
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
        assert_eq!(parts(phi, &TWO_TURNS).unwrap(), ["b b^<|end|><|", " d^<|end|><|endoftext|>"]);
    }

    #[test]
    fn reasoning_that_only_the_last_message_keeps_is_part_of_that_message() {
        let thinking = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}\
                        {{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(parts(thinking, &TWO_TURNS).unwrap(), ["b b^<end>", "<think></think> d^<end>"]);
    }

    #[test]
    fn content_that_the_template_drops_leaves_the_rest_of_the_turn() {
        let silent = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'user' %}{{ m.content }}{% endif %}<end>{% endfor %}\
                      {% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(parts(silent, &TWO_TURNS).unwrap(), ["^<end>", "^<end>"]);
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
        let counting = "{{ messages | length }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
        let reason = parts(counting, &TWO_TURNS).unwrap_err();
        assert!(reason.contains("assistant's message 2") && reason.contains("--train-on-prompt"), "{reason}");

        let reversed = "{% for m in messages[::-1] %}<{{ m.role }}>{{ m.content }}{% endfor %}";
        assert!(parts(reversed, &TWO_TURNS).is_err());
    }
}
