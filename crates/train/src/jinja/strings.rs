//! The methods of Python's texts.

use super::Error;
use super::calls::Args;
use super::lexer::is_space;
use super::machine::Machine;
use super::value::{Kind, Value};
use std::sync::Arc;

impl Machine<'_> {
    pub fn text_method(&mut self, text: &Arc<str>, name: &str, args: Args) -> Result<Value, Error> {
        match name {
            "format" => self.brace_format(text, args),
            "join" => {
                let [items] = args.bind("join", ["iterable"])?;
                let items = items.ok_or_else(|| Error::new("`join` needs something to join"))?;
                self.join(text, &items)
            }
            "startswith" | "endswith" => {
                let [affix, first, last] = args.bind(name, ["affix", "start", "end"])?;
                let part = part(text, first.as_ref(), last.as_ref()).map(|(part, _)| part);
                let matches = |affix: &str| {
                    part.is_some_and(|part| if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) })
                };
                match affix {
                    Some(Value::Str(affix)) => Ok(Value::Bool(matches(&affix))),
                    Some(Value::Seq(affixes)) if affixes.kind == Kind::Tuple => {
                        self.spend_items(affixes.items.len())?;
                        Ok(Value::Bool(affixes.items.iter().filter_map(Value::as_str).any(matches)))
                    }
                    _ => Err(Error::new(format!("`{name}` needs a text or a tuple of texts"))),
                }
            }
            "find" | "rfind" | "index" | "rindex" | "count" => self.search(text, name, args),
            "replace" => {
                let [old, new, count] = args.bind("replace", ["old", "new", "count"])?;
                let (Some(Value::Str(old)), Some(Value::Str(new))) = (old, new) else {
                    return Err(Error::new("`replace` needs two texts"));
                };
                let count = count.as_ref().and_then(Value::as_int).and_then(|count| usize::try_from(count).ok());
                self.replace(text, &old, &new, count.unwrap_or(usize::MAX))
            }
            "split" | "rsplit" => self.split(text, name == "rsplit", args),
            "splitlines" => {
                let [keep] = args.bind(name, ["keepends"])?;
                let keep = keep.is_some_and(|keep| keep.as_int().is_some_and(|keep| keep != 0));
                let lines = lines(text, keep);
                self.spend_items(lines.len())?;
                Ok(Value::texts(lines))
            }
            "partition" | "rpartition" => {
                let [separator] = args.bind(name, ["sep"])?;
                let Some(Value::Str(separator)) = separator.filter(|s| s.as_str().is_some_and(|s| !s.is_empty())) else {
                    return Err(Error::new(format!("`{name}` needs a separator that is not empty")));
                };
                let parts = match (name, text.split_once(&*separator), text.rsplit_once(&*separator)) {
                    ("partition", Some((head, tail)), _) | ("rpartition", _, Some((head, tail))) => [head, &separator, tail],
                    ("partition", ..) => [text, "", ""],
                    _ => ["", "", text],
                };
                Value::tuple(parts.map(Value::str).to_vec())
            }
            "strip" | "lstrip" | "rstrip" => {
                let [characters] = args.bind(name, ["chars"])?;
                let characters: Option<Vec<char>> = characters.as_ref().and_then(Value::as_str).map(|text| text.chars().collect());
                self.spend(characters.as_ref().map_or(0, |set| (set.len() as u64).saturating_mul(text.len() as u64) / 64))?;
                let strips = |c: char| characters.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
                let rest = if name == "rstrip" { text } else { text.trim_start_matches(strips) };
                Ok(Value::str(if name == "lstrip" { rest } else { rest.trim_end_matches(strips) }))
            }
            "removeprefix" | "removesuffix" => {
                let [affix] = args.bind(name, ["affix"])?;
                let Some(Value::Str(affix)) = affix else { return Err(Error::new(format!("`{name}` needs a text"))) };
                let rest = if name == "removeprefix" { text.strip_prefix(&*affix) } else { text.strip_suffix(&*affix) };
                Ok(Value::str(rest.unwrap_or(text)))
            }
            "center" | "ljust" | "rjust" | "zfill" => self.pad(text, name, args),
            "expandtabs" => {
                let [size] = args.bind(name, ["tabsize"])?;
                let size = size.as_ref().and_then(Value::as_int).unwrap_or(8).max(0) as usize;
                self.spend_text(text.len().saturating_mul(size.max(1)))?;
                Ok(Value::str(expand_tabs(text, size)))
            }
            _ => {
                let [] = args.bind(name, [])?;
                self.spend_text(text.len())?;
                Ok(super::filters::cased(text, name).map_or_else(|| Value::Bool(super::predicates::is(text, name)), Value::str))
            }
        }
    }

    /// The texts of `items` with `separator` between them.
    fn join(&mut self, separator: &str, items: &Value) -> Result<Value, Error> {
        let mut out = String::new();
        for (index, item) in self.items(items)?.into_iter().enumerate() {
            let Value::Str(item) = &item else {
                return Err(Error::new(format!("sequence item {index}: expected str instance, {} found", item.type_name())));
            };
            if index > 0 {
                self.push(&mut out, separator)?;
            }
            self.push(&mut out, item)?;
        }
        Ok(Value::str(out))
    }

    fn search(&mut self, text: &str, name: &str, args: Args) -> Result<Value, Error> {
        let [wanted, first, last] = args.bind(name, ["sub", "start", "end"])?;
        let Some(Value::Str(wanted)) = wanted else { return Err(Error::new(format!("`{name}` needs a text"))) };
        let part = part(text, first.as_ref(), last.as_ref());
        if name == "count" {
            let count =
                part.map_or(0, |(part, _)| if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(&*wanted).count() });
            return Ok(Value::Int(count as i128));
        }
        let found = part.and_then(|(part, skipped)| {
            let at = if name.starts_with('r') { part.rfind(&*wanted) } else { part.find(&*wanted) }?;
            Some(skipped + part[..at].chars().count())
        });
        match found {
            Some(at) => Ok(Value::Int(at as i128)),
            None if name.ends_with("find") => Ok(Value::Int(-1)),
            None => Err(Error::new("substring not found")),
        }
    }

    pub fn replace(&mut self, text: &str, old: &str, new: &str, count: usize) -> Result<Value, Error> {
        let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
        self.spend_text(text.len().saturating_add(found.min(count).saturating_mul(new.len())))?;
        Ok(Value::str(text.replacen(old, new, count)))
    }

    fn split(&mut self, text: &str, from_right: bool, args: Args) -> Result<Value, Error> {
        let [separator, limit] = args.bind("split", ["sep", "maxsplit"])?;
        let limit = limit.as_ref().and_then(Value::as_int).and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let parts: Vec<&str> = match separator {
            None | Some(Value::None) => split_at_spaces(text, limit, from_right),
            Some(Value::Str(separator)) if separator.is_empty() => return Err(Error::new("empty separator")),
            Some(Value::Str(separator)) if from_right => {
                let mut parts: Vec<_> = text.rsplitn(limit.saturating_add(1), &*separator).collect();
                parts.reverse();
                parts
            }
            Some(Value::Str(separator)) => text.splitn(limit.saturating_add(1), &*separator).collect(),
            Some(other) => return Err(Error::new(format!("`split` needs a text, found a {}", other.type_name()))),
        };
        self.spend_items(parts.len())?;
        Ok(Value::texts(parts))
    }

    fn pad(&mut self, text: &str, name: &str, args: Args) -> Result<Value, Error> {
        let [width, fill] = args.bind(name, ["width", "fillchar"])?;
        let width = width.as_ref().and_then(Value::as_int).ok_or_else(|| Error::new(format!("`{name}` needs a width")))?;
        let fill = fill.as_ref().and_then(Value::as_str).unwrap_or(if name == "zfill" { "0" } else { " " });
        self.spend_text(fill.len())?;
        if fill.chars().count() != 1 {
            return Err(Error::new("the fill character must be exactly one character long"));
        }
        let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
        let missing = width.saturating_sub(text.chars().count());
        self.spend_text(missing.saturating_mul(fill.len()).saturating_add(text.len()))?;
        let fill = |count: usize| fill.repeat(count);
        Ok(Value::str(match name {
            "ljust" => format!("{text}{}", fill(missing)),
            "rjust" => format!("{}{text}", fill(missing)),
            "zfill" => {
                let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
                format!("{sign}{}{digits}", fill(missing))
            }
            _ => {
                let left = missing / 2 + (missing & width & 1);
                format!("{}{text}{}", fill(left), fill(missing - left))
            }
        }))
    }
}

/// The part between two places, counted in characters, and how many characters are before it. None if it starts behind the end.
fn part<'t>(text: &'t str, first: Option<&Value>, last: Option<&Value>) -> Option<(&'t str, usize)> {
    if first.is_none() && last.is_none() {
        return Some((text, 0));
    }
    let length = text.chars().count();
    let start = first.and_then(Value::as_int).unwrap_or(0);
    if start > length as i128 {
        return None;
    }
    let (first, last) = span(first, last, length);
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    text.get(byte(first)..byte(last)).map(|part| (part, first))
}

/// Two places as Python's slices take them.
pub(super) fn span(first: Option<&Value>, last: Option<&Value>, length: usize) -> (usize, usize) {
    let place = |place: Option<&Value>, default: i128| {
        let place = place.and_then(Value::as_int).unwrap_or(default);
        let place = if place < 0 { place.saturating_add(length as i128) } else { place };
        place.clamp(0, length as i128) as usize
    };
    (place(first, 0), place(last, length as i128))
}

/// Words; after so many cuts, all that is left is the last one, or the first one from the right.
fn split_at_spaces(text: &str, limit: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() {
        let cut = if parts.len() == limit {
            None
        } else if from_right {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        let Some(at) = cut else {
            parts.push(rest);
            break;
        };
        let (before, after) = rest.split_at(at);
        if from_right {
            parts.push(after.trim_start_matches(is_space));
            rest = before.trim_end_matches(is_space);
        } else {
            parts.push(before);
            rest = after.trim_start_matches(is_space);
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// Python's `splitlines`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c: char| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let end = rest[at..].chars().next().map_or(0, char::len_utf8);
        let end = at + if rest[at..].starts_with("\r\n") { 2 } else { end };
        lines.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn expand_tabs(text: &str, size: usize) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    out
}
