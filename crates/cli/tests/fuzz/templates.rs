//! Chat templates: any program in Jinja, any conversation.

use crate::bounds::bounded;
use crate::edits::{any_json, edited};
use crate::{cases, fixture, json_of, tiny};
use peft_train::data::{ChatTemplate, Content, EncodeConfig, Encoder, Example, Message, SpecialTokens, TextTokenizer};
use peft_train::evaluate::Task;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A template may take what its budget allows it.
const MEMORY: usize = 1 << 30;

/// Render a conversation, and find in it what is to be learned.
fn read(source: &str, messages: Vec<Message>) -> peft_core::Result<()> {
    let tokens = SpecialTokens::from_iter([("bos_token", "<s>"), ("eos_token", "</s>")]);
    let template = ChatTemplate::new(source, &tokens, "chat_template.jinja")?;
    template.render(&messages, true)?;
    let tokenizer = TextTokenizer::load(tiny())?;
    let config = EncodeConfig { max_length: 64, ..EncodeConfig::default() };
    let example = Example::new(Content::Chat(messages.into()), "data.jsonl", 1);
    Encoder::new(&tokenizer, Some(&template), config)?.encode_all(&[example]).map(drop)
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let content = prop_oneof![3 => "[a-z ]{0,8}", 1 => ".{0,8}", 1 => Just("{{ messages }}".to_string())];
    let extra =
        prop_oneof![3 => Just(None), 1 => (select(vec!["name", "tool_calls", "reasoning_content", "x"]), any_json()).prop_map(Some)];
    let message = (select(vec!["system", "user", "assistant", "tool"]), content, extra).prop_map(|(role, content, extra)| {
        let mut message = Message::new(role, content);
        message.extra.extend(extra.map(|(key, value)| (key.to_string(), value)));
        message
    });
    vec(message, 1..5)
}

fn expression() -> impl Strategy<Value = String> {
    let leaves = [
        "messages",
        "m",
        "m.content",
        "m['role']",
        "messages[0]",
        "messages[-1].content",
        "messages[0].tool_calls",
        "loop.index",
        "loop",
        "x",
        "ns.x",
        "ns",
        "'ab'",
        "''",
        "1",
        "0",
        "-1",
        "3",
        "99999999999",
        "9223372036854775807",
        "-9223372036854775808",
        "1.5",
        "1e308",
        "none",
        "true",
        "bos_token",
        "[]",
        "{}",
        "tools",
        "range(9)",
        "range(100000)",
        "self",
        "caller",
        "namespace",
        "f",
        "missing",
        "'{}%s'",
        "m.items()",
    ];
    let operators = ["~", "+", "-", "*", "/", "//", "%", "**", "==", "<", "in", "not in", "and", "or", "is"];
    let filters = [
        "tojson",
        "tojson(indent=9)",
        "trim",
        "length",
        "upper",
        "capitalize",
        "title",
        "list",
        "first",
        "last",
        "sort",
        "unique",
        "reverse",
        "string",
        "int",
        "float",
        "map(attribute='content')",
        "selectattr('role')",
        "map('upper')",
        "select",
        "dictsort",
        "items",
        "round",
        "abs",
        "sum",
        "min",
        "max",
        "safe",
        "escape",
        "pprint",
        "groupby('role')",
        "lines",
        "bool",
        "chain",
    ];
    let filters_of_one = [
        "join",
        "replace('a',",
        "indent",
        "batch",
        "slice",
        "default",
        "round",
        "split",
        "attr",
        "format",
        "map",
        "reject",
        "zip",
        "tojson",
    ];
    let methods = [
        "strip",
        "split",
        "rsplit",
        "lstrip",
        "startswith",
        "endswith",
        "replace",
        "join",
        "format",
        "find",
        "count",
        "get",
        "removeprefix",
        "removesuffix",
        "partition",
        "rpartition",
        "splitlines",
        "upper",
        "items",
        "keys",
        "zfill",
        "ljust",
        "rjust",
        "center",
        "isdigit",
    ];
    let tests = [
        "defined",
        "none",
        "string",
        "mapping",
        "iterable",
        "sequence",
        "number",
        "odd",
        "sameas(x)",
        "divisibleby(0)",
        "in(x)",
        "filter",
        "undefined",
    ];
    let text = |words: &[&'static str]| select(words.to_vec());
    text(&leaves).prop_map(String::from).prop_recursive(4, 24, 3, move |e| {
        prop_oneof![
            (e.clone(), text(&operators), e.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (e.clone(), text(&filters)).prop_map(|(a, filter)| format!("({a})|{filter}")),
            (e.clone(), text(&filters_of_one), e.clone()).prop_map(|(a, filter, b)| match filter.ends_with(',') {
                true => format!("({a})|{filter} {b})"),
                false => format!("({a})|{filter}({b})"),
            }),
            (e.clone(), text(&methods), vec(e.clone(), 0..3)).prop_map(|(a, method, b)| format!("({a}).{method}({})", b.join(", "))),
            (e.clone(), text(&tests)).prop_map(|(a, test)| format!("({a}) is {test}")),
            (e.clone(), e.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            (e.clone(), e.clone(), e.clone()).prop_map(|(a, b, c)| format!("({a})[{b}:{c}]")),
            (e.clone(), e.clone(), e.clone()).prop_map(|(a, b, c)| format!("({a} if {b} else {c})")),
            (e.clone(), e.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (e.clone(), e.clone()).prop_map(|(a, b)| format!("{{'k': {a}, 'l': {b}}}")),
            (e.clone(), e.clone()).prop_map(|(a, b)| format!("{a}({b})")),
            (e.clone(), e).prop_map(|(a, b)| format!("namespace(x={a}, y={b})")),
        ]
    })
}

fn template() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        2 => "[a-z<>|\\n ]{0,6}",
        5 => expression().prop_map(|e| format!("{{{{ {e} }}}}")),
        2 => expression().prop_map(|e| format!("{{% set x = {e} %}}")),
        2 => expression().prop_map(|e| format!("{{% set ns.x = {e} %}}")),
        1 => expression().prop_map(|e| format!("{{% set ns = namespace(x={e}) %}}")),
        1 => expression().prop_map(|e| format!("{{{{ raise_exception({e}) }}}}")),
        1 => expression().prop_map(|e| format!("{{{{ strftime_now({e}) }}}}")),
        1 => expression().prop_map(|e| format!("{{% include {e} %}}")),
        1 => select(vec!["{% break %}", "{% continue %}", "{% generation %}x{% endgeneration %}", "{# c #}", "{% extends 'chat_template' %}", "{{ loop(m) }}", "{{ f(1) }}"])
            .prop_map(String::from),
    ];
    leaf.prop_recursive(4, 32, 4, |t| {
        let body = vec(t, 1..4).prop_map(|parts| parts.concat());
        prop_oneof![
            3 => body.clone(),
            2 => (expression(), body.clone(), body.clone()).prop_map(|(e, a, b)| format!("{{% if {e} %}}{a}{{% else %}}{b}{{% endif %}}")),
            3 => (expression(), body.clone()).prop_map(|(e, a)| format!("{{%- for m in {e} -%}}{a}{{%- endfor %}}")),
            1 => (expression(), body.clone()).prop_map(|(e, a)| format!("{{% for m in {e} recursive %}}{a}{{{{ loop(m) }}}}{{% endfor %}}")),
            1 => (expression(), body.clone()).prop_map(|(e, a)| format!("{{% macro f(m) %}}{a}{{% endmacro %}}{{{{ f({e}) }}}}")),
            1 => body.clone().prop_map(|a| format!("{{% filter upper %}}{a}{{% endfilter %}}")),
            1 => body.prop_map(|a| format!("{{% set x %}}{a}{{% endset %}}{{{{ x }}}}")),
        ]
    })
}

/// Templates of the fixtures, which published models have.
fn published() -> Vec<String> {
    let fixture = json_of(&fixture("chat/cases.json"));
    fixture.as_array().unwrap().iter().map(|case| case["chat_template"].as_str().unwrap().into()).collect()
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn any_template_renders_or_is_refused(source in template(), messages in messages()) {
        let source = format!("{{% set ns = namespace(x='a') %}}{source}");
        let _ = bounded(MEMORY, move || read(&source, messages))?;
    }

    #[test]
    fn any_change_to_a_published_template_renders_or_is_refused(
        source in select(published()).prop_flat_map(|source| edited(source.into_bytes())),
        messages in messages(),
    ) {
        let source = String::from_utf8_lossy(&source).into_owned();
        let _ = bounded(MEMORY, move || read(&source, messages))?;
    }
}

/// The reason for which a template is refused.
fn refusal(source: &str) -> String {
    let source = source.to_string();
    let messages = vec![Message::new("user", "a"), Message::new("assistant", "b")];
    bounded(MEMORY, move || read(&source, messages)).unwrap().unwrap_err().to_string()
}

#[test]
fn a_template_that_would_not_end_is_stopped() {
    let loops = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    assert!(refusal(loops).contains("takes too long"), "{}", refusal(loops));
    let recursion = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    assert!(refusal(recursion).contains("recursion"), "{}", refusal(recursion));
}

#[test]
fn a_template_that_would_fill_the_memory_is_stopped() {
    let sources = [
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x | tojson }}",
        "{% for i in range(100000) %}{{ 'a' * 100000 }}{% endfor %}",
        "{% for i in range(1000) %}{{ ('a' * 10000000) | length }}{{ ('a' * 10000000).replace('a', 'bb') | length }}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) | join(ns.x) %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
    ];
    for source in sources {
        assert!(refusal(source).contains("takes too long or too much memory"), "{source}: {}", refusal(source));
    }
}

#[test]
fn deep_nesting_is_no_danger() {
    for end in
        ["", "{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == ns.x }}", "{{ ns.x | string | length }}", "{{ ns.x | tojson(indent=64) }}"]
    {
        for depth in [400, 100_000] {
            let source =
                format!("{{% set ns = namespace(x=[1]) %}}{{% for i in range({depth}) %}}{{% set ns.x = [ns.x] %}}{{% endfor %}}{end}");
            let _ = bounded(MEMORY, move || read(&source, vec![Message::new("user", "a")])).unwrap();
        }
    }
    for (open, close) in [("[", "]"), ("(", ")"), ("{'a':", "}"), ("not ", ""), ("-", ""), ("a.b[", "]"), ("f(", ")")] {
        let source = format!("{{{{ {}1{} }}}}", open.repeat(100_000), close.repeat(100_000));
        assert!(refusal(&source).contains("nested more than"), "{open}: {}", refusal(&source));
    }
    for block in ["{%if a%}", "{%for a in b%}", "{%set a%}", "{%macro a()%}"] {
        let source = block.repeat(100_000);
        assert!(refusal(&source).contains("does not compile"), "{block}: {}", refusal(&source));
    }
}

#[test]
fn chains_of_any_length_are_no_danger() {
    for operator in ["+", "-", "*", "/", "//", "%", "**", " and ", " or "] {
        let source = format!("{{{{ {} }}}}", vec!["1"; 100_000].join(operator));
        assert!(refusal(&source).contains("chain that is too long"), "{operator}: {}", refusal(&source));
    }
    for (first, again) in [("a", ".b"), ("'x'", "|upper"), ("a", "[0]"), ("a", "()"), ("1", " if 1")] {
        let source = format!("{{{{ {first}{} }}}}", again.repeat(100_000));
        assert!(refusal(&source).contains("chain that is too long"), "{again}: {}", refusal(&source));
    }
}

#[test]
fn a_template_of_a_few_characters_cannot_end_the_program() {
    let sources = [
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace(x='a') %}{% set ns.x = [ns] %}{{ ns.x }}",
        "{{ '{:.70000}'.format(1.5) }}",
        "{{ '{:999999999999}'.format(1) }}",
        "{{ '%999999999999d' % 1 }}",
        "{{ 'a' * 10**12 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 'a' | center(10**12) }}",
        "{{ 'a' | indent(10**12) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ];
    for source in sources {
        let _ = bounded(MEMORY, move || read(source, vec![Message::new("user", "a"), Message::new("assistant", "b")])).unwrap();
    }
}

#[test]
fn templates_of_task_files_have_the_same_bounds() {
    let sources = [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{{ 'a' * 10**12 }}",
    ];
    for source in sources {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("data.jsonl"), "{\"a\": 1}\n").unwrap();
        let task = serde_json::json!({"data": "data.jsonl", "metric": "exact_match", "prompt": source, "answer": "a"});
        std::fs::write(dir.path().join("task.yaml"), task.to_string()).unwrap();
        let prepared = bounded(MEMORY, move || Task::read(dir.path().join("task.yaml")).and_then(|task| task.prepare(None, 1)).map(drop));
        let reason = prepared.unwrap().unwrap_err().to_string();
        assert!(reason.contains("data.jsonl:1") && (reason.contains("too long") || reason.contains("recursion")), "{source}: {reason}");
    }
}
