//! `tokenizer.json` and the small files beside it.

use crate::bounds::{MEMORY, bounded};
use crate::edits::{edited_json, json_file};
use crate::{cases, copy, json_of, tiny};
use peft_train::data::TextTokenizer;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use std::path::Path;

/// Load a tokenizer, and use it if that succeeds.
fn read(dir: &Path) -> peft_core::Result<()> {
    let tokenizer = TextTokenizer::load(dir)?;
    for text in ["", "copy: badu = ", "Hello wörld 😀\u{0} <bos> ab  ab", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"] {
        for special in [true, false] {
            // What cannot be encoded is refused, which is no reason to stop.
            let Ok(ids) = tokenizer.encode(text, special) else { continue };
            drop(tokenizer.decode(&ids, special));
            let mut stream = tokenizer.stream(&ids);
            for id in ids.into_iter().chain([0, 1, 2, 1000, u32::MAX]) {
                if stream.push(id).is_err() {
                    break;
                }
            }
            drop(stream.finish());
        }
    }
    let _ = (tokenizer.pad_id(), tokenizer.vocab_size(), tokenizer.eos_ids());
    Ok(())
}

/// Tokenizers with a model, normalizer, pre-tokenizer, post-processor and decoder each, so that every kind that checkpoints have occurs.
fn kinds() -> Vec<Value> {
    let added = json!([{ "id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true }]);
    let with = |model: Value, normalizer: Value, pre: Value, post: Value, decoder: Value| {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre,
            "post_processor": post, "decoder": decoder, "model": model,
        })
    };
    let bytes = with(
        json!({
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": true,
            "vocab": { "<unk>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4, "Ġa": 5, "o": 6 }, "merges": [["a", "b"], ["Ġ", "a"]]
        }),
        json!({ "type": "Sequence", "normalizers": [{ "type": "NFC" }, { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }] }),
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+" }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        ] }),
        json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true }),
        json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
    );
    let sentences = with(
        json!({
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "vocab": { "<unk>": 0, "<0x41>": 1, "▁": 2, "a": 3, "▁a": 4 }, "merges": ["▁ a"]
        }),
        json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" }] }),
        json!(null),
        json!({ "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<unk>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<unk>": { "id": "<unk>", "ids": [0], "tokens": ["<unk>"] } } }),
        json!({ "type": "Sequence", "decoders": [{ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] }),
    );
    let words = with(
        json!({ "type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": { "<unk>": 0, "a": 1, "##b": 2, "hello": 3 } }),
        json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true }),
        json!({ "type": "BertPreTokenizer" }),
        json!({ "type": "BertProcessing", "sep": ["<unk>", 0], "cls": ["a", 1] }),
        json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
    );
    let unigram = with(
        json!({ "type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["▁", -2.0], ["ab", -1.0]], "byte_fallback": false }),
        json!({ "type": "Lowercase" }),
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }),
        json!({ "type": "RobertaProcessing", "sep": ["<unk>", 0], "cls": ["a", 1], "trim_offsets": true, "add_prefix_space": true }),
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }),
    );
    let whole = with(
        json!({ "type": "WordLevel", "vocab": { "<unk>": 0, "a": 1 }, "unk_token": "<unk>" }),
        json!({ "type": "Strip", "strip_left": true, "strip_right": true }),
        json!({ "type": "Digits", "individual_digits": true }),
        json!(null),
        json!({ "type": "CTC", "pad_token": "<unk>", "word_delimiter_token": "|", "cleanup": true }),
    );
    vec![json_of(&tiny().join("tokenizer.json")), bytes, sentences, words, unigram, whole]
}

fn read_with(name: &str, content: &[u8]) -> Result<peft_core::Result<()>, TestCaseError> {
    let dir = tempfile::tempdir()?;
    copy(&tiny(), dir.path());
    std::fs::write(dir.path().join(name), content)?;
    bounded(MEMORY, move || read(dir.path()))
}

#[test]
fn every_kind_is_read_before_it_is_damaged() {
    for (number, kind) in kinds().into_iter().enumerate() {
        read_with("tokenizer.json", kind.to_string().as_bytes()).unwrap().unwrap_or_else(|e| panic!("kind {number}: {e}"));
    }
}

#[test]
fn a_file_on_which_the_library_panics_is_refused() {
    let mut deep = kinds().remove(0);
    deep["decoder"] = (0..150).fold(json!(1), |value, _| json!([value]));
    let error = read_with("tokenizer.json", deep.to_string().as_bytes()).unwrap().unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: not a tokenizer: "), "{error}");
}

/// Why the first of the [`kinds`] is refused after a change to it, before much memory is taken.
fn refusal(change: impl FnOnce(&mut Value)) -> String {
    let mut tokenizer = kinds().remove(0);
    change(&mut tokenizer);
    read_with("tokenizer.json", tokenizer.to_string().as_bytes()).unwrap().unwrap_err().to_string()
}

#[test]
fn numbers_that_nobody_needs_are_refused_before_they_are_used() {
    assert!(refusal(|t| t["model"]["vocab"]["z"] = json!(4_294_967_295u64)).contains("the id 4294967295"));
    assert!(refusal(|t| t["added_tokens"][0]["id"] = json!(4_294_967_295u64)).contains("the id 4294967295"));
    assert!(refusal(|t| t["model"]["vocab"]["z"] = json!(u64::MAX)).contains("the id 18446744073709551615"));
    let words = |length: u64| {
        move |t: &mut Value| {
            t["model"] = json!({"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": length,
                "vocab": {"<unk>": 0}});
        }
    };
    assert!(refusal(words(1 << 40)).contains("`max_input_chars_per_word` is 1099511627776"));
    assert!(refusal(|t| t["model"]["end_of_word_suffix"] = json!("x".repeat(1 << 20))).contains("is longer than 1024"));
    assert!(refusal(|t| t["normalizer"] = json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)})).contains("is longer than 1024"));
}

#[test]
fn steps_that_double_a_text_again_and_again_are_refused() {
    let doubled = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let steps = vec![doubled; 40];
    assert!(refusal(|t| t["normalizer"] = json!({"type": "Sequence", "normalizers": steps})).contains("`normalizer` can make a text"));
    assert!(refusal(|t| t["decoder"] = json!({"type": "Sequence", "decoders": steps})).contains("`decoder` can make a text"));
    let long = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "x".repeat(1 << 20)});
    assert!(refusal(|t| t["normalizer"] = long).contains("`normalizer` can make a text"));
}

#[test]
fn an_expression_that_repeats_without_end_is_refused() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    for pattern in ["(((a{1000}){1000}){1000}){1000}", "(?:(?:(?:(?=a)a){9999}){9999}){9999}"] {
        assert!(refusal(|t| t["pre_tokenizer"] = split(pattern)).contains("repeats too much"), "{pattern}");
    }
    // Backtracking without end is stopped by the library, as an error of the text.
    let slow = "(?=(a+)+$)b";
    let mut tokenizer = kinds().remove(0);
    tokenizer["pre_tokenizer"] = split(slow);
    read_with("tokenizer.json", tokenizer.to_string().as_bytes()).unwrap().unwrap();
}

#[test]
fn a_map_of_characters_that_says_it_is_longer_than_it_is_is_refused() {
    // Four gigabytes of trie, in four bytes.
    let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="});
    assert!(refusal(|t| t["normalizer"] = charsmap).contains("shorter than it says"));
}

#[test]
fn lengths_for_truncation_and_padding_are_no_danger() {
    let mut tokenizer = kinds().remove(0);
    tokenizer["truncation"] = json!({"direction": "Right", "max_length": u64::MAX >> 1, "strategy": "LongestFirst", "stride": 0});
    tokenizer["padding"] = json!({"strategy": {"Fixed": 1u64 << 40}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<unk>"});
    read_with("tokenizer.json", tokenizer.to_string().as_bytes()).unwrap().unwrap();
}

#[test]
fn declared_tokens_are_read_or_refused() {
    for (name, json) in [
        ("added_tokens.json", json!({"<a>": u64::MAX, "<b>": 0, "": 5})),
        ("added_tokens.json", json!({"<a>": "x"})),
        ("added_tokens.json", json!([1])),
        ("special_tokens_map.json", json!({"bos_token": [], "additional_special_tokens": [1, null]})),
        ("tokenizer_config.json", json!({"added_tokens_decoder": {"18446744073709551615": {"content": "<a>"}, "1": {"content": "<b>"}}})),
        ("tokenizer_config.json", json!({"added_tokens_decoder": {"x": {"content": "<a>"}}})),
        ("tokenizer_config.json", json!({"added_tokens_decoder": [], "extra_special_tokens": {"a": 1}})),
    ] {
        let _ = read_with(name, json.to_string().as_bytes()).unwrap();
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn any_tokenizer_is_read_or_refused(json in select(kinds()).prop_flat_map(json_file)) {
        let _ = read_with("tokenizer.json", &json)?;
    }

    #[test]
    fn any_names_of_special_tokens_are_read_or_refused(
        (name, json) in select(vec!["tokenizer_config.json", "generation_config.json", "config.json"])
            .prop_flat_map(|name| (Just(name), edited_json(json_of(&tiny().join(name))))),
    ) {
        let _ = read_with(name, json.to_string().as_bytes())?;
    }
}
