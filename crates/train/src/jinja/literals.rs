//! Single tokens: names, numbers, texts with their escapes, operators.

use super::lexer::Token;

/// Longer ones first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";",
];

/// The token that `text` begins with, and its bytes. After a point, `1.2` is two numbers: items of items.
pub(super) fn token(text: &str, first: char, after_point: bool) -> Result<(Token, usize), String> {
    if first == '"' || first == '\'' {
        return string(text, first);
    }
    if first.is_ascii_digit() {
        return number(text, !after_point);
    }
    if first == '_' || first.is_alphabetic() {
        let end = text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len());
        return Ok((Token::Name(text[..end].into()), end));
    }
    let operator = OPERATORS.iter().find(|operator| text.starts_with(**operator));
    operator.map(|operator| (Token::Operator(operator), operator.len())).ok_or_else(|| format!("unexpected `{}`", first.escape_debug()))
}

fn number(text: &str, may_be_float: bool) -> Result<(Token, usize), String> {
    let digits = |text: &str, radix: u32| {
        let mut end = 0;
        for (at, c) in text.char_indices() {
            let separator = c == '_' && text[at + 1..].chars().next().is_some_and(|c| c.is_digit(radix)) && at > 0;
            if !(c.is_digit(radix) || separator) {
                break;
            }
            end = at + c.len_utf8();
        }
        end
    };
    let integer = |text: &str, radix| {
        i128::from_str_radix(&text.replace('_', ""), radix).map(Token::Int).map_err(|_| format!("the number {text:.40} is too large"))
    };
    for (prefixes, radix) in [(["0x", "0X"], 16), (["0o", "0O"], 8), (["0b", "0B"], 2)] {
        if let Some(rest) = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix))
            && digits(rest, radix) > 0
        {
            let end = digits(rest, radix);
            return Ok((integer(&rest[..end], radix)?, end + 2));
        }
    }
    let whole = digits(text, 10);
    let mut end = whole;
    if may_be_float {
        let fraction = text[end..].strip_prefix('.').map_or(0, |rest| digits(rest, 10));
        end += if fraction > 0 { 1 + fraction } else { 0 };
        if let Some(rest) = text[end..].strip_prefix(['e', 'E']) {
            let sign = usize::from(rest.starts_with(['+', '-']));
            let exponent = digits(&rest[sign..], 10);
            end += if exponent > 0 { 1 + sign + exponent } else { 0 };
        }
    }
    if end == whole {
        return Ok((integer(&text[..whole], 10)?, whole));
    }
    let value = text[..end].replace('_', "").parse().map_err(|_| format!("`{}` is no number", &text[..end]))?;
    Ok((Token::Float(value), end))
}

fn string(text: &str, quote: char) -> Result<(Token, usize), String> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((Token::Str(out), at + c.len_utf8())),
            '\\' => {
                let (_, escaped) = chars.next().ok_or("a text is not closed")?;
                let code = match escaped {
                    'x' => Some(2),
                    'u' => Some(4),
                    'U' => Some(8),
                    _ => None,
                };
                if let Some(length) = code {
                    let unit = hexadecimal(&mut chars, length).ok_or_else(|| format!("`\\{escaped}` needs {length} digits"))?;
                    out.push(character(unit, &mut chars));
                    continue;
                }
                match escaped {
                    '\n' => {}
                    '\\' | '\'' | '"' => out.push(escaped),
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    'a' => out.push('\u{7}'),
                    'b' => out.push('\u{8}'),
                    'f' => out.push('\u{c}'),
                    'v' => out.push('\u{b}'),
                    '0'..='7' => {
                        let mut code = escaped.to_digit(8).unwrap_or(0);
                        for _ in 0..2 {
                            let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(8)) else { break };
                            code = code * 8 + digit;
                            chars.next();
                        }
                        out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                    }
                    other => {
                        out.push('\\');
                        out.push(other);
                    }
                }
            }
            c => out.push(c),
        }
    }
    Err("a text is not closed".into())
}

type Characters<'t> = std::iter::Peekable<std::iter::Skip<std::str::CharIndices<'t>>>;

fn hexadecimal(chars: &mut Characters<'_>, length: usize) -> Option<u32> {
    let digits: String = (0..length).map_while(|_| chars.next_if(|(_, c)| c.is_ascii_hexdigit()).map(|(_, c)| c)).collect();
    (digits.len() == length).then(|| u32::from_str_radix(&digits, 16).ok()).flatten()
}

/// The character of a code, or of the two halves of a pair.
fn character(unit: u32, chars: &mut Characters<'_>) -> char {
    if (0xd800..0xdc00).contains(&unit) {
        let mut ahead = chars.clone();
        let pair = ahead.next().zip(ahead.next()).filter(|((_, a), (_, b))| (*a, *b) == ('\\', 'u'));
        if let Some(low) = pair.and_then(|_| hexadecimal(&mut ahead, 4)).filter(|low| (0xdc00..0xe000).contains(low)) {
            *chars = ahead;
            return char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).unwrap_or('\u{fffd}');
        }
    }
    char::from_u32(unit).unwrap_or('\u{fffd}')
}
