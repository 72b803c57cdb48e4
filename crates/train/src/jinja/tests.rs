//! Templates with the text that transformers gives, and templates that are made to do harm.

use super::{Options, Rendering, Template, Value};
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

fn render(source: &str, context: &Json) -> Result<String, String> {
    let values = || context.as_object().unwrap().iter().map(|(name, value)| (name.clone(), Value::from_json(value))).collect();
    let template = Template::new(source, Options { trim: true, ..Options::default() }).map_err(|e| e.to_string())?;
    template.render(values, Rendering::default()).map_err(|e| e.to_string())
}

#[test]
fn expressions_give_the_text_that_transformers_gives() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/templates/expressions.json");
    let fixture: Json = serde_json::from_slice(&std::fs::read(file).expect("fixtures/templates is part of the repository")).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let source = case["template"].as_str().unwrap();
        match (render(source, &fixture["context"]), case["expected"].as_str()) {
            (Ok(text), Some(expected)) => assert_eq!(text, expected, "{source}"),
            (Err(_), None) => {}
            (found, expected) => panic!("{source}: found {found:?}, expected {expected:?} {}", case["error"]),
        }
    }
}

#[test]
fn errors_name_the_line() {
    assert_eq!(render("a\n{{ b.c }}", &json!({})).unwrap_err(), "`b` is undefined (line 2 of the template)");
    assert_eq!(render("a\n\n{% if %}", &json!({})).unwrap_err(), "expected an expression, found `%}` (line 3 of the template)");
    assert_eq!(
        render("{% for a in [] %}", &json!({})).unwrap_err(),
        "expected `else`, found the end of the template (line 1 of the template)"
    );
}

/// What Jinja 3.1 gives.
#[test]
fn a_loop_whose_body_never_ends_counts_as_empty() {
    let context = json!({"l": [1, 2]});
    let cases = [
        ("{% for a in l %}{{ a }}{% break %}{% else %}E{% endfor %}", "1E"),
        ("{% for a in l %}{% continue %}{% else %}E{% endfor %}", "E"),
        ("{% for a in l %}{{ a }}{% if a == 2 %}{% break %}{% endif %}{% else %}E{% endfor %}", "12"),
        ("{% for a in l if a > 2 %}{{ a }}{% else %}E{% endfor %}", "E"),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source, &context).unwrap(), expected, "{source}");
    }
}

/// Whatever becomes of a template, it is soon.
fn soon(source: &str, context: &Json) -> Result<String, String> {
    let began = Instant::now();
    let result = render(source, context);
    let start: String = source.chars().take(80).collect();
    assert!(began.elapsed() < Duration::from_secs(30), "{start}: {:?}", began.elapsed());
    result
}

#[test]
fn many_names_are_found_as_soon_as_few() {
    let many = 50_000;
    let each = |name: &dyn Fn(usize) -> String| (0..many).map(name).collect::<String>();
    let set = each(&|n| format!("{{%set v{n}=1%}}"));
    assert_eq!(soon(&format!("{set}{{{{ v0 + v{} }}}}", many - 1), &json!({})).unwrap(), "2");
    let parameters = each(&|n| format!("a{n},"));
    let called = format!("{{% macro f({parameters}b=2) %}}{{{{ b }}}}{{% endmacro %}}{{{{ f(1) }}}}");
    assert_eq!(soon(&called, &json!({})).unwrap(), "2");
    // Names that are looked for one by one are paid for.
    let named = each(&|n| format!("a{n}=1,"));
    let by_name = format!("{{% macro f({parameters}b=2) %}}{{% endmacro %}}{{{{ f({named}) }}}}");
    assert!(soon(&by_name, &json!({})).unwrap_err().contains("too long or too much memory"));
    let entries: Json = (0..many).map(|n| (format!("k{n}"), json!(0))).collect::<serde_json::Map<_, _>>().into();
    let attributes = "{% set ns = namespace(d) %}{% for a in range(90000) %}{% set ns.last = ns.last %}{% endfor %}";
    assert!(soon(attributes, &json!({"d": entries})).unwrap_err().contains("too long or too much memory"));
}

#[test]
fn reading_a_long_text_again_and_again_is_paid_for() {
    let context = json!({"t": "1".repeat(2 << 20), "d": {"a": 1}});
    let reads = ["{t: 1}", "t|int", "t|float", "d[t]", "d.get(t)", "t in d", "[t]|unique|list", "dict(a=1, **{t: 1})", "{(1, t): 1}"];
    for read in reads.into_iter().chain(["t is sameas t", "'a'.ljust(1, t)", "1|attr(t)", "[1]|tojson(indent=t)"]) {
        let source = format!("{{% for i in range(90000) %}}{{% set x = {read} %}}{{% endfor %}}");
        let reason = soon(&source, &context).expect_err(read);
        let refused = ["too long or too much memory", "exactly one character"].iter().any(|known| reason.contains(known));
        assert!(refused, "{read}: {reason}");
    }
    // Once is cheap, and gives what Python gives.
    assert_eq!(
        render("{{ {t: 5}[t] }} {{ t in {t: 1} }} {{ d.get(t) }} {{ '12'|int + '1.5'|float }}", &context).unwrap(),
        "5 True None 13.5"
    );
}

/// Why a template is refused, soon.
fn refusal(source: &str) -> String {
    let began = Instant::now();
    let reason = render(source, &json!({"x": [[1, 2], [3]], "a": {"b": 1}})).expect_err(&source.chars().take(80).collect::<String>());
    assert!(began.elapsed() < Duration::from_secs(60), "{}", source.chars().take(80).collect::<String>());
    reason
}

#[test]
fn chains_and_nesting_of_any_length_are_refused_before_they_are_evaluated() {
    let many = 100_000;
    let chains =
        ["+", "-", "*", "/", "//", "%", "**", " and ", " or "].map(|operator| format!("{{{{ {} }}}}", vec!["1"; many].join(operator)));
    let repeated = [("a", ".b", ""), ("'x'", "|upper", ""), ("x", "[0]", ""), ("x", "()", ""), ("1", " if 1", "")];
    let repeated = repeated.map(|(first, again, end)| format!("{{{{ {first}{}{end} }}}}", again.repeat(many)));
    let nested = [("[", "]"), ("(", ")"), ("{1:", "}"), ("not ", ""), ("-", ""), ("+", ""), ("a[", "]"), ("f(", ")"), ("-(", ")")];
    let nested = nested.map(|(open, close)| format!("{{{{ {}1{} }}}}", open.repeat(many), close.repeat(many)));
    let blocks =
        [("{%if a%}", "{%endif%}"), ("{%for a in b%}", "{%endfor%}"), ("{%set a%}", "{%endset%}"), ("{%macro f()%}", "{%endmacro%}")];
    let blocks = blocks.map(|(open, close)| open.repeat(many / 3) + &close.repeat(many / 3));
    let targets = format!("{{% set {}a{} = 1 %}}", "(".repeat(many), ")".repeat(many));
    for source in chains.iter().chain(&repeated).chain(&nested).chain(&blocks).chain([&targets]) {
        let reason = refusal(source);
        assert!(reason.contains("nested") || reason.contains("bytes"), "{reason}");
    }
    // A row of texts, of comparisons or of branches is no deeper for being long.
    assert_eq!(render(&format!("{{{{ {} }}}}", vec!["1"; 1000].join("~")), &json!({})).unwrap(), "1".repeat(1000));
    let branches = format!("{{% if 0 %}}{}{{% else %}}z{{% endif %}}", "{% elif 0 %}b".repeat(10_000));
    assert_eq!(render(&branches, &json!({})).unwrap(), "z");
}

#[test]
fn what_would_take_gigabytes_is_refused_before_it_is_made() {
    let sources = [
        "{{ 'a' * 10**9 }}",
        "{{ [1] * 10**9 }}",
        "{{ 'a'.center(10**9) }}",
        "{{ 'a'|center(10**9) }}",
        "{{ 'a'.ljust(10**10) }}",
        "{{ 'a'.zfill(10**10) }}",
        "{{ 'a'|indent(10**10) }}",
        "{{ 'a\tb'.expandtabs(10**10) }}",
        "{{ [1]|batch(10**10, 'x')|list }}",
        "{{ [1]|slice(10**10)|list }}",
        "{{ [1]|tojson(indent=10**10) }}",
        "{{ '{:999999999999}'.format(1) }}",
        "{{ '{:.999999999999f}'.format(1.5) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (10**12, 1) }}",
        "{% for i in range(100000) %}{{ 'a' * 100000 }}{% endfor %}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    ];
    let doubled = ["ns.x + ns.x", "ns.x ~ ns.x", "'%s%s' % (ns.x, ns.x)", "'{0}{0}'.format(ns.x)", "(ns.x, ns.x)|join(ns.x)"];
    let doubled =
        doubled.map(|twice| format!("{{% set ns = namespace(x='a') %}}{{% for i in range(60) %}}{{% set ns.x = {twice} %}}{{% endfor %}}"));
    let shared = ["{{ ns.x == ns.x }}", "{{ ns.x|tojson }}"];
    let shared = shared.map(|end| {
        let start = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
        format!("{start}{end}")
    });
    let keys = "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}";
    for source in sources.into_iter().chain(doubled.iter().map(String::as_str)).chain(shared.iter().map(String::as_str)).chain([keys]) {
        assert!(refusal(source).contains("too long or too much memory"), "{source}: {}", refusal(source));
    }
    assert!(refusal("{{ range(10**9) }}").contains("more than 100000"));
    assert!(refusal("{{ 10**10**10 }}").contains("too large"));
}

#[test]
fn what_holds_itself_and_what_never_returns_is_refused() {
    let sources = [
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x|string }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{% call f(1) %}{{ caller() }}{% endcall %}{% endmacro %}{{ f(1) }}",
        "{% for i in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    ];
    for source in sources {
        assert!(refusal(source).contains("too deep in recursion"), "{source}: {}", refusal(source));
    }
    for deeper in ["[ns.x]", "{'a': ns.x}", "(ns.x,)", "cycler(ns.x)", "[ns.x].index"] {
        let source = format!("{{% set ns = namespace(x=1) %}}{{% for i in range(100000) %}}{{% set ns.x = {deeper} %}}{{% endfor %}}");
        assert!(refusal(&source).contains("nested more than 500 deep"), "{deeper}: {}", refusal(&source));
    }
    // The precision of a float beyond what it has is zeros, and no panic.
    assert_eq!(render("{{ '{:.70000}'.format(1.5) }} {{ ('%.70000f' % 1.5)|length }}", &json!({})).unwrap(), "1.5 70002");
}
