//! The words that a template knows.

/// The strings that stand in a template's expressions and statements.
pub(super) fn literals(source: &str) -> Vec<String> {
    let mut found = std::collections::BTreeSet::new();
    let mut rest = source;
    while let Some(at) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let close = if rest[at..].starts_with("{{") { "}}" } else { "%}" };
        rest = &rest[at + 2..];
        while !rest.is_empty() && !rest.starts_with(close) {
            let Some(c) = rest.chars().next() else { break };
            rest = &rest[c.len_utf8()..];
            if c == '\'' || c == '"' {
                let (text, after) = quoted(rest, c);
                found.insert(text);
                rest = after;
            }
        }
    }
    found.into_iter().collect()
}

/// What stands up to the quote, and what follows it.
fn quoted(source: &str, quote: char) -> (String, &str) {
    let mut text = String::new();
    let mut chars = source.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return (text, &source[at + c.len_utf8()..]),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some(other) => text.push(other),
                None => {}
            },
            _ => text.push(c),
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_expressions_and_statements_are_found() {
        let source = "don't {{ 'a' + \"b'}}\" }} {# 'no' #}{% if '</think>\\n' in m['c'] %}it's{% endif %}{{ 'open";
        assert_eq!(literals(source), ["</think>\n", "a", "b'}}", "c", "open"]);
    }
}
