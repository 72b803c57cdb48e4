//! JSON Lines of examples.

use crate::bounds::{MEMORY, bounded};
use crate::edits::{edited, edited_json, noise};
use crate::{cases, tiny};
use peft_train::data::{ChatTemplate, EncodeConfig, Encoder, TextTokenizer, read_examples};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

fn lines() -> Vec<Value> {
    vec![
        json!({ "text": "copy: badu = é😀" }),
        json!({ "prompt": "mirror: badu = ", "completion": "udab", "answer": 3 }),
        json!({ "prompt": "a", "choices": ["b", "c"], "answer": 1 }),
        json!({ "prompt": "a", "answer": "b" }),
        json!({ "messages": [{ "role": "system", "content": "a" }, { "role": "user", "content": "b", "name": null }, { "role": "assistant", "content": "c" }] }),
    ]
}

fn text(lines: &[Value]) -> Vec<u8> {
    lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn any_file_is_read_or_refused(bytes in prop_oneof![
        4 => vec(select(lines()).prop_flat_map(edited_json), 1..4).prop_map(|lines| text(&lines)),
        3 => edited(text(&lines())),
        1 => noise(),
    ]) {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("data.jsonl");
        std::fs::write(&path, bytes)?;
        let _ = bounded(MEMORY, move || -> peft_core::Result<()> {
            let examples = read_examples(&path)?;
            let (tokenizer, template) = (TextTokenizer::load(tiny())?, ChatTemplate::load(tiny())?);
            let config = EncodeConfig { max_length: 16, ..EncodeConfig::default() };
            Encoder::new(&tokenizer, template.as_ref(), config)?.encode_all(&examples).map(drop)
        })?;
    }
}
