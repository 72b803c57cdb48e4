//! What a `tokenizer.json` from elsewhere may ask for, checked before the tokenizer library reads it: that takes any number at its word.

use super::tokenizer::guarded;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;
use tokenizers::Tokenizer;

/// The highest id of a token. The largest published vocabularies have a quarter of a million.
const MAX_ID: u64 = 1 << 24;
/// The longest text that is put before or behind every word.
const MAX_AFFIX: usize = 1 << 10;
/// The longest word that WordPiece is asked to look at, which it does in the square of that time. Published files have 100.
const MAX_WORD: u64 = 10_000;
/// The most steps of an expression once its repetitions are written out.
const MAX_EXPRESSION: u64 = 100_000;
/// How many times longer steps may make a text that they read.
const MAX_GROWTH: u64 = 4096;

/// The tokenizer in a file of these bytes, without truncation and padding, and how many times longer it may make a text.
pub(super) fn tokenizer(bytes: &[u8]) -> Result<(Tokenizer, u64), String> {
    let outline: Outline = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let growth = outline.check()?;
    let tokenizer = guarded(|| {
        let mut tokenizer = Tokenizer::from_bytes(bytes)?;
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        Ok(tokenizer)
    })?;
    Ok((tokenizer, growth))
}

#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: HighestId,
    #[serde(default)]
    max_input_chars_per_word: Option<u64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
}

impl Outline {
    /// How many times longer a text may become.
    fn check(&self) -> Result<u64, String> {
        let ids = self.added_tokens.iter().map(|token| token.id).chain(self.model.vocab.0);
        if let Some(id) = ids.max().filter(|id| *id > MAX_ID) {
            return Err(format!("a token has the id {id}; ids beyond {MAX_ID} are not supported"));
        }
        if let Some(length) = self.model.max_input_chars_per_word.filter(|length| *length > MAX_WORD) {
            return Err(format!("`max_input_chars_per_word` is {length}; more than {MAX_WORD} are not supported"));
        }
        for affix in [&self.model.continuing_subword_prefix, &self.model.end_of_word_suffix].into_iter().flatten() {
            if affix.len() > MAX_AFFIX {
                return Err(format!("a prefix or suffix of {} bytes is longer than {MAX_AFFIX}", affix.len()));
            }
        }
        let mut most = 1;
        for (name, steps) in [("normalizer", &self.normalizer), ("pre_tokenizer", &self.pre_tokenizer), ("decoder", &self.decoder)] {
            let growth = growth(steps).map_err(|reason| format!("`{name}`: {reason}"))?;
            if growth > MAX_GROWTH {
                return Err(format!("`{name}` can make a text more than {MAX_GROWTH} times longer"));
            }
            most = most.max(growth);
        }
        Ok(most)
    }
}

/// How many times longer a step, or several in a row, can make a text; an error for what cannot be told.
fn growth(step: &Value) -> Result<u64, String> {
    let Value::Object(fields) = step else { return Ok(1) };
    let mut grown: u64 = 1;
    // Steps in a row stand in `normalizers`, `pretokenizers` and `decoders`.
    for steps in fields.values().filter_map(Value::as_array) {
        for step in steps {
            grown = grown.saturating_mul(growth(step)?);
        }
    }
    let pattern = fields.get("pattern");
    if let Some(expression) = pattern.and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str) {
        let steps = written_out(expression);
        if steps > MAX_EXPRESSION {
            return Err(format!("the expression `{}…` repeats too much", expression.chars().take(40).collect::<String>()));
        }
    }
    if let Some(content) = fields.get("content").and_then(Value::as_str).filter(|_| pattern.is_some()) {
        let least = pattern.and_then(|pattern| pattern.get("String")).and_then(Value::as_str).map_or(1, str::len).max(1);
        grown = grown.saturating_mul(content.len().div_ceil(least).max(1) as u64);
    }
    if let Some(text) = fields.get("prepend").and_then(Value::as_str).filter(|text| text.len() > MAX_AFFIX) {
        return Err(format!("a prefix of {} bytes is longer than {MAX_AFFIX}", text.len()));
    }
    if let Some(charsmap) = fields.get("precompiled_charsmap").and_then(Value::as_str) {
        grown = grown.saturating_mul(longest_mapping(charsmap)?);
    }
    Ok(grown)
}

/// The longest text that a map of characters of SentencePiece puts in place of one: `[bytes of the trie: u32, trie, texts that end in 0]`.
fn longest_mapping(charsmap: &str) -> Result<u64, String> {
    let bytes = base64(charsmap).ok_or("`precompiled_charsmap` is not in base64")?;
    let trie = bytes.first_chunk::<4>().map(|size| u32::from_le_bytes(*size) as usize);
    let texts = trie.and_then(|size| bytes.get(size.checked_add(4)?..)).ok_or("`precompiled_charsmap` is shorter than it says")?;
    Ok(texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0).max(1) as u64)
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for c in text.bytes().take_while(|c| *c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, held) = (bits << 6 | u32::from(value), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}

/// How many steps an expression has once repetitions with a number, `x{9}`, are written out.
fn written_out(expression: &str) -> u64 {
    // The steps of every open group, and of what could be repeated next.
    let mut groups: Vec<u64> = Vec::new();
    let (mut sum, mut last) = (0u64, 0u64);
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '(' => {
                groups.push(sum.saturating_add(last));
                (sum, last) = (0, 0);
            }
            ')' => {
                last = sum.saturating_add(last).max(1);
                sum = groups.pop().unwrap_or(0);
            }
            '{' => {
                let end = rest.find('}').unwrap_or(0);
                let most = rest[..end].split(',').filter_map(|number| number.trim().parse::<u64>().ok()).max();
                last = last.max(1).saturating_mul(most.unwrap_or(1).max(1));
                rest = rest.get(end + 1..).unwrap_or("");
            }
            '\\' => {
                sum = sum.saturating_add(last);
                last = 1;
                let escaped = rest.chars().next().map_or(0, char::len_utf8);
                let named = ["p{", "P{", "x{"].iter().any(|name| rest.starts_with(name));
                rest = &rest[if named { rest.find('}').map_or(escaped, |end| end + 1) } else { escaped }..];
            }
            _ => {
                sum = sum.saturating_add(last);
                last = 1;
            }
        }
    }
    groups.into_iter().fold(sum.saturating_add(last), u64::saturating_add)
}

/// The highest id of a vocabulary, which is a map of tokens to ids or a list.
#[derive(Default)]
struct HighestId(Option<u64>);

impl<'de> Deserialize<'de> for HighestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = HighestId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary: a map of tokens to ids, or a list of tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HighestId, A::Error> {
                let mut highest = None;
                while let Some((_, id)) = map.next_entry::<IgnoredAny, u64>()? {
                    highest = highest.max(Some(id));
                }
                Ok(HighestId(highest))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<HighestId, A::Error> {
                let mut count = 0u64;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(HighestId(count.checked_sub(1)))
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<HighestId, E> {
                Err(E::custom("a vocabulary in a file of its own is not supported"))
            }
        }
        deserializer.deserialize_any(Ids).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_multiply_within_groups_and_add_up_beside_each_other() {
        assert_eq!(written_out("a{3}b{1,4}c"), 8);
        assert_eq!(written_out("((ab){10}){10}"), 200);
        assert_eq!(written_out(r"\p{N}{1,3}| ?[^\s\p{L}]+\{9}"), 15);
        assert!(written_out("(((a{1000}){1000}){1000}){1000}") > MAX_EXPRESSION);
    }

    #[test]
    fn steps_in_a_row_multiply_what_they_add() {
        let doubled = serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let steps = |count| serde_json::json!({"type": "Sequence", "normalizers": vec![doubled.clone(); count]});
        assert_eq!(growth(&steps(5)).unwrap(), 32);
        assert!(growth(&steps(40)).unwrap() > MAX_GROWTH);
        let space = serde_json::json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        assert_eq!(growth(&space).unwrap(), 3);
    }

    #[test]
    fn a_map_of_characters_cannot_say_that_it_is_longer_than_it_is() {
        // A trie of 4 bytes, and the texts `ab` and `c`.
        assert_eq!(longest_mapping("BAAAAAAAAABhYgBjAA==").unwrap(), 2);
        assert!(longest_mapping("/////w==").unwrap_err().contains("shorter than it says"));
    }
}
