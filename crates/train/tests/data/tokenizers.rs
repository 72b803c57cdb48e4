//! Tokens that are declared beside `tokenizer.json`, tokens that a model lacks, prompts, and adapters with tokenizers of their own.

use peft_train::data::*;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The tiny checkpoint with files written over its own.
fn tiny_with(files: &Map<String, Value>) -> tempfile::TempDir {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/assets/tiny");
    let dir = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        std::fs::copy(tiny.join(name), dir.path().join(name)).unwrap();
    }
    for (name, content) in files {
        let file = dir.path().join(name);
        let mut whole: Value = std::fs::read(&file).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
        match (name.as_str(), content) {
            ("tokenizer.json", Value::Array(tokens)) => whole["added_tokens"].as_array_mut().unwrap().extend(tokens.iter().cloned()),
            ("tokenizer_config.json", Value::Object(settings)) => whole.as_object_mut().unwrap().extend(settings.clone()),
            _ => whole = content.clone(),
        }
        std::fs::write(&file, whole.to_string()).unwrap();
    }
    dir
}

#[test]
fn tokens_declared_anywhere_are_those_of_transformers() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers/added.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(&file).expect("fixtures/tokenizers is part of the repository")).unwrap();
    for case in fixture["cases"].as_array().unwrap() {
        let dir = tiny_with(case["files"].as_object().unwrap());
        // Tokens beyond the embedding are part of what is compared.
        let tokenizer = TextTokenizer::load(dir.path()).unwrap().with_rows(usize::MAX);
        for (text, ids) in fixture["texts"].as_array().unwrap().iter().zip(case["ids"].as_array().unwrap()) {
            let found = tokenizer.encode(text.as_str().unwrap(), false).unwrap();
            assert_eq!(json!(found), *ids, "{}: {text}", case["name"]);
        }
    }
}

#[test]
fn a_token_beyond_the_embedding_is_named_where_it_is_encoded() {
    let dir = tiny_with(json!({"added_tokens.json": {"<new>": 100}}).as_object().unwrap());
    let tokenizer = TextTokenizer::load(dir.path()).unwrap();
    let expected = "tokenizer.json: gives the token `<new>` the id 100, and the model's embedding has 100 tokens, 0 to 99: use the tokenizer that \
                    belongs to the model, or a model whose embedding was enlarged with transformers' `resize_token_embeddings`";
    for error in [
        tokenizer.encode("a<new>", true).unwrap_err(),
        tokenizer.encode_prompt("a<new>", true).unwrap_err(),
        tokenizer.encode_texts("a", Some("<new>"), 32).unwrap_err(),
        encode_continuation(&tokenizer, "a", "<new>", true).unwrap_err(),
    ] {
        assert!(error.to_string().ends_with(expected), "{error}");
    }
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [1, 70, 71]);
    assert_eq!(tokenizer.with_rows(101).encode("a<new>", false).unwrap(), [70, 100]);
}

#[test]
fn special_tokens_beyond_the_embedding_neither_fill_nor_close_texts() {
    let settings = json!({"tokenizer_config.json": {"pad_token": "<fill>", "eos_token": "<over>"}});
    let tokenizer = TextTokenizer::load(tiny_with(settings.as_object().unwrap()).path()).unwrap();
    // Of config.json.
    assert_eq!((tokenizer.eos_ids(), tokenizer.pad_id()), (&[2][..], 0));
    let tokenizer = tokenizer.with_rows(102);
    assert_eq!((tokenizer.eos_ids(), tokenizer.pad_id()), (&[100, 2][..], 101));
}

#[test]
fn a_prompt_ends_where_its_text_ends() {
    let special = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/assets/tiny/tokenizer.json")).unwrap())
            .unwrap();
    let around = |open: &str, close: &str| json!([{"SpecialToken": {"id": open, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": close, "type_id": 0}}]);
    tokenizer["post_processor"] = json!({"type": "TemplateProcessing", "single": around("<bos>", "<eos>"), "pair": around("<bos>", "<eos>"),
        "special_tokens": {"<bos>": special("<bos>", 1), "<eos>": special("<eos>", 2)}});
    let dir = tiny_with(&Map::new());
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokenizer = TextTokenizer::load(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [1, 70, 71, 2]);
    assert_eq!(tokenizer.encode_prompt("ab", true).unwrap(), [1, 70, 71]);
    assert_eq!(tokenizer.encode_prompt("", true).unwrap(), [1]);
    // What the text itself says stays.
    assert_eq!(tokenizer.encode_prompt("ab<eos>", true).unwrap(), [1, 70, 71, 2]);
    assert_eq!(tokenizer.encode_prompt("ab", false).unwrap(), [70, 71]);
}

#[test]
fn an_adapter_brings_its_own_tokenizer_and_template_file_by_file() {
    let base = tiny_with(&Map::new());
    let adapter = tempfile::tempdir().unwrap();
    let adapted = || {
        let tokens = SpecialTokens::load(Sources::of(base.path(), Some(adapter.path())).settings).unwrap();
        let template = ChatTemplate::load_first([adapter.path(), base.path()], &tokens).unwrap().unwrap();
        let tokenizer = TextTokenizer::load_adapted(base.path(), Some(adapter.path())).unwrap().with_rows(101);
        (template.render(&[Message::new("user", "a<new>")], true).unwrap(), tokenizer.encode("a<new>", false).unwrap())
    };
    let letters = vec![70, 33, 83, 74, 92, 35];
    assert_eq!(adapted(), ("<bos>a<new>".into(), letters.clone()));
    std::fs::write(adapter.path().join("chat_template.jinja"), "[{{ messages[0].content }}]").unwrap();
    assert_eq!(adapted(), ("[a<new>]".into(), letters));
    let settings = json!({"bos_token": "<bos>", "eos_token": "<eos>", "additional_special_tokens": ["<new>"], "chat_template": "unused"});
    std::fs::write(adapter.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    assert_eq!(adapted(), ("[a<new>]".into(), vec![70, 100]));
}
