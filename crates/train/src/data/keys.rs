//! Keys with which data sets say how a row is to be trained or rendered, and what is said of them where they do nothing.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Keys that mean something in other programs or in other forms, with what to do about them.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("tools", RENDERED),
    ("documents", RENDERED),
    ("chat_template_kwargs", RENDERED),
    ("functions", "chat templates read `tools`"),
    ("system", "only conversations and instructions have one; put it into the prompt"),
    ("history", "earlier turns are not read; write all turns as `messages`"),
    ("label", "texts are learned without it; to learn labels, train an encoder, or write the label as `completion`"),
    ("labels", "texts are learned without them; to learn labels, train an encoder, or write the label as `completion`"),
    ("text_pair", "only encoders read pairs; write both texts in one"),
    ("chosen", PREFERENCE),
    ("rejected", PREFERENCE),
    ("images", TEXT_ALONE),
    ("image", TEXT_ALONE),
    ("videos", TEXT_ALONE),
    ("video", TEXT_ALONE),
    ("audios", TEXT_ALONE),
    ("audio", TEXT_ALONE),
    ("weight", WEIGHT),
    ("sample_weight", WEIGHT),
    ("loss_weight", WEIGHT),
    ("train_on_input", TRAIN_ON_PROMPT),
    ("train_on_inputs", TRAIN_ON_PROMPT),
    ("train_on_prompt", TRAIN_ON_PROMPT),
    ("mask", TOKENS),
    ("loss_mask", TOKENS),
    ("completion_mask", TOKENS),
    ("assistant_masks", TOKENS),
    ("input_ids", TOKENS),
    ("attention_mask", TOKENS),
    ("add_generation_prompt", "an example is rendered whole"),
    ("continue_final_message", "an example is rendered whole"),
];

const RENDERED: &str = "only conversations are rendered with it; write the example as `messages`";
const PREFERENCE: &str = "preferences are not learned";
const TEXT_ALONE: &str = "the text alone is learned";
const WEIGHT: &str = "all examples weigh the same; in `messages`, an assistant's message with `weight` 0 is not learned";
const TRAIN_ON_PROMPT: &str = "the setting train_on_prompt decides for all examples";
const TOKENS: &str = "the text is tokenised anew";

/// The keys of `object` that say something and do not act.
pub(super) fn unused(object: &Map<String, Value>, acts: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let said = |key: &str| object.get(key).is_some_and(|value| !is_empty(value));
    KEYS.iter().map(|(key, _)| *key).filter(|key| said(key) && !acts(key)).collect()
}

/// Whether a value says nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.iter().all(Value::is_null),
        Value::Object(entries) => entries.values().all(Value::is_null),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// How many examples of a file have keys that do nothing.
#[derive(Debug, Default)]
pub(super) struct Unused(BTreeMap<&'static str, usize>);

impl Unused {
    pub fn add(&mut self, keys: &[&'static str]) {
        keys.iter().for_each(|key| *self.0.entry(key).or_default() += 1);
    }

    /// Say each key once.
    pub fn warn(&self, file: &Path) {
        for (key, count) in &self.0 {
            let remedy = KEYS.iter().find(|(known, _)| known == key).map_or("", |(_, remedy)| remedy);
            let examples = if *count == 1 { "example" } else { "examples" };
            tracing::warn!("{}: `{key}` of {count} {examples} is not used: {remedy}", file.display());
        }
    }
}
