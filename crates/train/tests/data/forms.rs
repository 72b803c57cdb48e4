//! Forms of rows and of contents, and what is learned of them.

use crate::{Dir, chat, checkpoint, contents, marked, read};
use peft_train::data::*;
use serde_json::{Value, json};

/// A row, rendered and encoded with a template: token by token, those that count in brackets.
fn rows(template: &str, row: &Value) -> peft_core::Result<Vec<String>> {
    encoded(&checkpoint(), template, row).map(|(rows, _)| rows)
}

fn encoded(dir: &Dir, template: &str, row: &Value) -> peft_core::Result<(Vec<String>, EncodeStats)> {
    let example = Example::new(contents(row.to_string()).remove(0), "data.jsonl", 1);
    let tokenizer = dir.tokenizer();
    let template = ChatTemplate::new(template, &SpecialTokens::load(dir)?, "chat_template.jinja")?;
    let mut encoder = Encoder::new(&tokenizer, Some(&template), EncodeConfig::default())?;
    let rows = encoder.encode(&example)?;
    Ok((rows.iter().map(|row| marked(&tokenizer, row)).collect(), encoder.stats()))
}

/// The text of a row.
fn text(template: &str, row: &Value) -> String {
    let Content::Chat(conversation) = contents(row.to_string()).remove(0) else { panic!("{row}") };
    ChatTemplate::new(template, &SpecialTokens::default(), "chat_template.jinja")
        .unwrap()
        .render_conversation(&conversation, false)
        .unwrap()
}

const QUESTION: &str = r#"{"role": "user", "content": "q"}"#;

fn after_question(message: Value) -> Value {
    json!({ "messages": [serde_json::from_str::<Value>(QUESTION).unwrap(), message] })
}

fn call(arguments: Value) -> Value {
    json!([{ "id": "abcdefghi", "type": "function", "function": { "name": "f", "arguments": arguments } }])
}

/// The expected texts are those of transformers 5.23 (`render_jinja_template`).
#[test]
fn what_stands_beside_the_messages_reaches_the_template() {
    let template = "{% if tools %}T{{ tools | tojson }}{% endif %}{% for d in documents or [] %}D{{ d.title }}{% endfor %}{{ k }}\
                    {% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let expected = r#"T[{"type": "function", "function": {"name": "f"}}]Da7<user>q<assistant>ok"#;
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let mut row = after_question(json!({"role": "assistant", "content": "ok"}));
    row["tools"] = tools.clone();
    row["documents"] = json!([{"title": "a", "text": "b"}]);
    row["chat_template_kwargs"] = json!({"k": 7});
    assert_eq!(text(template, &row), expected);
    // As tables write them: JSON in strings, and nulls for what other rows have.
    row["tools"] = tools.to_string().into();
    row["chat_template_kwargs"] = json!({"k": 7, "other": null});
    assert_eq!(text(template, &row), expected);
    row["tools"] = json!([{"type": "function", "function": {"name": "f", "strict": null}}]);
    assert_eq!(text(template, &row), expected);
    for absent in [json!(null), json!([]), json!("")] {
        row["tools"] = absent;
        assert_eq!(text(template, &row), "Da7<user>q<assistant>ok");
    }
}

#[test]
fn what_stands_beside_the_messages_and_cannot_be_read_is_an_error() {
    let reason = |key: &str, value: Value| {
        let mut row = after_question(json!({"role": "assistant", "content": "ok"}));
        row[key] = value;
        read(row.to_string()).unwrap_err()
    };
    assert_eq!(reason("tools", json!({"f": 1})), "data.jsonl:1: `tools` must be a list, found an object");
    assert!(reason("tools", json!("f(x)")).contains("`tools` is a string that is not JSON"));
    assert!(reason("chat_template_kwargs", json!([1])).contains("`chat_template_kwargs` must be an object, found a list"));
    assert!(reason("chat_template_kwargs", json!({"messages": 1})).contains("must not hold `messages`"));
}

/// The expected texts are those of transformers 5.23 where the template reads the form, and else those of the form that it reads.
#[test]
fn contents_are_read_in_every_form() {
    let calls = "{% for m in messages %}<{{ m.role }}>{% if m.content is not none %}{{ m.content }}{% endif %}\
                 {% for c in m.tool_calls or [] %}({{ c.function.name }} {{ c.function.arguments | tojson }}){% endfor %}{% endfor %}";
    let strings = calls.replace("{% if m.content is not none %}{{ m.content }}{% endif %}", "{{ m.content }}");
    let expected = r#"<user>q<assistant>(f {"a": 1, "b": "x"})"#;
    let arguments = json!({"a": 1, "b": "x"});
    for template in [calls, &strings] {
        for arguments in [arguments.clone(), arguments.to_string().into(), r#"{"a": 1, "b": "x"}"#.into()] {
            for content in [json!({"content": null}), json!({}), json!({"content": ""})] {
                let mut message = json!({"role": "assistant", "tool_calls": call(arguments.clone())});
                message.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
                assert_eq!(text(template, &after_question(message)), expected);
            }
        }
    }
    let verbatim = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ '(' + c.function.arguments + ')' }}{% endfor %}{% endfor %}";
    let message = json!({"role": "assistant", "content": null, "tool_calls": call(arguments)});
    assert_eq!(text(verbatim, &after_question(message)), r#"q({"a": 1, "b": "x"})"#);

    let parts = "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}\
                 {% for p in m.content %}{{ p.text }}|{% endfor %}{% endif %}{% endfor %}";
    let row = json!({"messages": [
        {"role": "user", "content": [{"type": "text", "text": "q", "image": null}, {"type": "input_text", "text": "r"}]},
        {"role": "assistant", "content": "ok"}]});
    assert_eq!(text(parts, &row), "<user>q|r|<assistant>ok");
    let plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    assert_eq!(text(plain, &row), "<user>q\nr<assistant>ok");
    let trimmed = "{% for m in messages %}<{{ m.role }}>{{ m.content.strip() }}{% endfor %}";
    assert_eq!(text(trimmed, &row), "<user>q\nr<assistant>ok");
}

#[test]
fn a_template_that_reads_lists_of_parts_alone_gets_them() {
    let template = "{% for m in messages %}<{{ m.role }}>{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}<end>{% endfor %}\
                    {% if add_generation_prompt %}<assistant>{% endif %}";
    let row = after_question(json!({"role": "assistant", "content": "ok"}));
    assert_eq!(rows(template, &row).unwrap(), ["(<user>)(q)(<end>)(<assistant>)[o][k][<end>]"]);
    let tokens = SpecialTokens::default();
    let template = ChatTemplate::new(template, &tokens, "chat_template.jinja").unwrap();
    assert_eq!(template.render(&[Message::new("user", "q")], true).unwrap(), "<user>q<end><assistant>");
}

#[test]
fn a_template_that_shows_nothing_is_refused_and_one_that_leaves_out_something_is_counted() {
    let silent = "{% for m in messages %}<{{ m.role }}>{% endfor %}";
    let row = after_question(json!({"role": "assistant", "content": "ok"}));
    let error = rows(silent, &row).unwrap_err().to_string();
    assert_eq!(error, "data.jsonl:1: the chat template shows nothing of what the messages say");
    let plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let thought = after_question(json!({"role": "assistant", "content": "ok", "reasoning_content": "hm"}));
    let (found, stats) = encoded(&checkpoint(), plain, &thought).unwrap();
    assert_eq!((found[0].as_str(), stats.incomplete), ("(<user>)(q)(<end>)(<assistant>)[o][k][<end>]", 1));
    assert!(stats.to_string().contains("1 lack something that their messages say"), "{stats}");
    assert_eq!(encoded(&checkpoint(), plain, &row).unwrap().1.incomplete, 0);
}

#[test]
fn messages_that_are_not_to_be_learned_are_not() {
    let plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let learned = |key: &str, value: Value| {
        let row = json!({"messages": [
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", key: value},
            {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]});
        rows(plain, &row).unwrap().remove(0)
    };
    let (both, second) = (
        "(<user>)(q)(<end>)(<assistant>)[a][<end>](<user>)(r)(<end>)(<assistant>)[b][<end>]",
        "(<user>)(q)(<end>)(<assistant>)(a)(<end>)(<user>)(r)(<end>)(<assistant>)[b][<end>]",
    );
    for (key, value) in
        [("weight", json!(0)), ("weight", json!(0.0)), ("train", json!(false)), ("loss", json!(false)), ("training", json!(0))]
    {
        assert_eq!(learned(key, value), second, "{key}");
    }
    for (key, value) in [("weight", json!(1)), ("train", json!(true)), ("loss", Value::Null)] {
        assert_eq!(learned(key, value), both, "{key}");
    }
    let half = after_question(json!({"role": "assistant", "content": "a", "weight": 0.5}));
    assert!(read(half.to_string()).unwrap_err().contains("`messages[1]`: `weight` must be 0 (not learned) or 1 (learned), found 0.5"));
}

#[test]
fn a_prompt_and_its_completion_can_be_messages() {
    let plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let completion = json!([{"role": "assistant", "content": "ok"}]);
    let row = json!({"prompt": [{"role": "user", "content": "q"}], "completion": completion, "messages": null});
    assert_eq!(rows(plain, &row).unwrap(), ["(<user>)(q)(<end>)(<assistant>)[o][k][<end>]"]);
    // What the assistant says in the prompt is given.
    let row = json!({"prompt": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}], "completion": completion});
    assert_eq!(rows(plain, &row).unwrap(), ["(<assistant>)(a)(<end>)(<user>)(q)(<end>)(<assistant>)[o][k][<end>]"]);
}

#[test]
fn answers_that_are_marked_as_bad_are_left_out() {
    let dir = Dir::new().with(
        "data.jsonl",
        "{\"prompt\": \"q\", \"completion\": \"bad\", \"label\": false}\n{\"prompt\": \"q\", \"completion\": \"ok\", \"label\": true}",
    );
    let tokenizer = checkpoint().tokenizer();
    let mut encoder = Encoder::new(&tokenizer, None, EncodeConfig::default()).unwrap();
    let rows = encoder.encode_all(&read_examples(dir.0.join("data.jsonl")).unwrap()).unwrap();
    assert_eq!(rows.iter().map(|row| marked(&tokenizer, row)).collect::<Vec<_>>(), ["(<s>)(q)[o][k][</s>]"]);
    assert_eq!((encoder.stats().skipped.unwanted, encoder.stats().examples), (1, 1));
}

#[test]
fn parts_that_are_no_text_are_refused_with_a_way_out() {
    let reason = |part: Value| read(json!({"messages": [{"role": "user", "content": [part]}]}).to_string()).unwrap_err();
    let image = reason(json!({"type": "image_url", "image_url": {"url": "a.png"}}));
    assert_eq!(
        image,
        "data.jsonl:1: `messages[0]`: `content` holds a part of type `image_url`; text alone can be learned; leave such parts out, or describe them in words"
    );
    assert!(reason(json!({"type": "text"})).contains("holds a part of type `text` without a `text`"));
    assert!(read(r#"{"messages": [{"role": "assistant", "content": null}]}"#).unwrap_err().contains("`content` is missing"));
}

#[test]
fn results_of_tools_can_be_values() {
    let plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let result =
        |content: Value| text(plain, &json!({"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": content}]}));
    assert_eq!(result(json!(22)), "<user>q<tool>22");
    assert_eq!(result(json!([1, "a"])), "<user>q<tool>[1, \"a\"]");
    let json = "{% for m in messages %}<{{ m.role }}>{{ m.content if m.content is string else m.content | tojson }}{% endfor %}";
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": {"degrees": 22}}]});
    assert_eq!(text(json, &row), "<user>q<tool>{\"degrees\": 22}");
}

/// The template of Mistral Nemo and Pixtral in short: the system prompt stands before the last question.
const MOVES: &str = "{{ bos_token }}{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[{% if loop.last or loop.revindex == 2 %}\
                     {{ messages[0].content }} {% endif %}{{ m.content }}]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";

#[test]
fn a_template_that_moves_what_came_before_gives_a_row_for_each_turn() {
    let row = json!({"messages": [
        {"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "A"},
        {"role": "user", "content": "r"}, {"role": "assistant", "content": "B"}]});
    let (found, stats) = encoded(&checkpoint(), MOVES, &row).unwrap();
    let expected = ["(<s>)([)(s)( )(q)(])[A][</s>]", "(<s>)([)(q)(])(A)(</s>)([)(s)( )(r)(])[B][</s>]"];
    assert_eq!((found.iter().map(String::as_str).collect::<Vec<_>>(), stats.split), (expected.to_vec(), 1));
    assert!(stats.to_string().contains("1 conversations gave a sequence for each turn"), "{stats}");
}

#[test]
fn rows_of_one_line_are_streamed_as_they_are_read() {
    let dir = checkpoint().with("lines.jsonl", {
        let turns = |n: usize| {
            (0..n).flat_map(|i| {
                [json!({"role": "user", "content": format!("q{i}")}), json!({"role": "assistant", "content": format!("a{i}")})]
            })
        };
        let row = |n| {
            json!({"messages": std::iter::once(json!({"role": "system", "content": "s"})).chain(turns(n)).collect::<Vec<_>>()}).to_string()
        };
        [row(3), row(1), row(2)].join("\n")
    });
    let (file, tokenizer) = (dir.0.join("lines.jsonl"), dir.tokenizer());
    let template = ChatTemplate::new(MOVES, &SpecialTokens::load(&dir).unwrap(), "t").unwrap();
    let config = EncodeConfig { max_length: 16, train_on_prompt: false };
    let mut encoder = Encoder::new(&tokenizer, Some(&template), config.clone()).unwrap();
    let rows = encoder.encode_all(&read_examples(&file).unwrap()).unwrap();
    let (streamed, stats) = stream_examples(&file, tokenizer.clone(), Some(template.clone()), config, |_, _| {}).unwrap();
    assert_eq!(stats, encoder.stats());
    assert_eq!((stats.examples, stats.skipped.too_long, stats.split), (5, 1, 2));
    assert_eq!((0..streamed.len()).map(|i| streamed.get(i).unwrap().into_owned()).collect::<Vec<_>>(), rows);

    // Rows of a conversation are trained on or set aside together: those of 3, 1 and 2 turns, of which one is too long.
    let memory = Examples::from(rows.clone()).with_origins(encoder.origins());
    let ((train, aside), (also_train, also_aside)) = (memory.split(1.0, 5).unwrap(), streamed.split(1.0, 5).unwrap());
    let of = [&rows[..2], &rows[2..3], &rows[3..]];
    let chosen = of.iter().position(|rows| **rows == aside[..]).expect("the rows of one conversation");
    let left: Vec<Encoded> = of.iter().enumerate().filter(|(index, _)| *index != chosen).flat_map(|(_, rows)| rows.to_vec()).collect();
    assert_eq!((train.into_rows().unwrap(), also_aside), (left.clone(), aside));
    assert_eq!(also_train.into_rows().unwrap(), left);
}

#[test]
fn an_end_that_the_template_writes_before_the_next_message_is_learned_by_a_turn_that_it_leaves_open() {
    let open = "{% for m in messages %}{% if m.role == 'user' %}{{ '<end>' if not loop.first }}<user>{% else %}<assistant>{% endif %}{{ m.content }}{% endfor %}\
                {% if add_generation_prompt %}<assistant>{% endif %}";
    let dir = checkpoint().with_json("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": "<end>"}));
    let row = json!({"messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]});
    let expected = "(<user>)(q)(<assistant>)[a][<end>](<user>)(r)(<assistant>)[b][<end>]";
    assert_eq!(encoded(&dir, open, &row).unwrap().0, [expected]);
}

#[test]
fn what_others_say_within_the_assistants_turn_is_not_learned() {
    let learned = |template: &str, row: Value| rows(template, &row).unwrap();
    let system = "{% for m in messages %}{% if m.role == 'assistant' %}<assistant>[{{ messages[0].content }}]{{ m.content }}<end>\
                  {% elif m.role == 'user' %}<user>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let row = json!({"messages": [{"role": "system", "content": "s s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "ok"}]});
    assert_eq!(learned(system, row), ["(<user>)(q)(<assistant>)([)(s)( )(s)(])[o][k][<end>]"]);
    let repeats = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}={{ messages[loop.index0 - 1].content }}<end>{% endif %}\
                   {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    assert_eq!(
        learned(repeats, after_question(json!({"role": "assistant", "content": "ok"}))),
        ["(<user>)(q)(<assistant>)[o][k][=](q)[<end>]"]
    );
    // The result of a tool before the content of the same message: the call is learned as the model writes it, without the result.
    let inside = "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% elif m.role == 'assistant' %}<assistant>\
                  {% for c in m.tool_calls or [] %}({{ c.function.name }}){% endfor %}\
                  {% for t in messages[loop.index:] if t.role == 'tool' %}[{{ t.content }}]{% endfor %}{{ m.content }}<end>{% endif %}{% endfor %}\
                  {% if add_generation_prompt %}<assistant>{% endif %}";
    for (content, expected) in [("", "[(][f][)][<end>]"), ("x", "[(][f][)][x][<end>]")] {
        let call = json!({"role": "assistant", "content": content, "tool_calls": call(json!({}))});
        let row = json!({"messages": [{"role": "user", "content": "q"}, call, {"role": "tool", "content": "4444"}]});
        assert_eq!(learned(inside, row), [format!("(<user>)(q)(<assistant>){expected}")]);
    }
}

/// The header of the next turn stands behind the last one (Command A).
#[test]
fn the_opening_of_the_next_turn_is_not_learned() {
    let opens = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}u:{{ m.content }}{% else %}a:{{ bos_token }}(({{ m.content }})){{ eos_token }}{% endif %}\
                 {% endfor %}a:{{ bos_token }}";
    let row = after_question(json!({"role": "assistant", "content": "ok"}));
    assert_eq!(rows(opens, &row).unwrap(), ["(<s>)(u)(:)(q)(a)(:)(<s>)[(][(][o][k][)][)][</s>](a)(:)(<s>)"]);
}

/// The marked parts are those of transformers 5.23 (`return_assistant_tokens_mask`).
#[test]
fn marks_of_what_is_generated_are_believed() {
    let marks = "{% for m in messages %}{% if m.role == 'assistant' %}<assistant>{% generation %}{{ m.content }}<end>{% endgeneration %}\
                 {% else %}<user>{{ m.content }}{% endif %}{% endfor %}";
    let row = json!({"messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "A"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "B"}]});
    assert_eq!(rows(marks, &row).unwrap(), ["(<user>)(q)(<assistant>)[A][<end>](<user>)(q)(<assistant>)[B][<end>]"]);
}

#[test]
fn keys_that_are_nulls_are_as_absent() {
    let row = r#"{"text": null, "prompt": "p", "completion": "c", "messages": null, "answer": null, "label": null}"#;
    let expected = Content::Completion { prompt: "p".into(), completion: "c".into(), answer: None };
    assert_eq!(contents(row), [expected]);
    let message = r#"{"messages": [{"role": "user", "content": "q", "from": null, "tool_calls": null}]}"#;
    assert_eq!(contents(message), [chat(&[("user", "q")]).content]);
    assert!(read(r#"{"prompt": null, "completion": "c"}"#).unwrap_err().ends_with("(`prompt` with null)"));
}
