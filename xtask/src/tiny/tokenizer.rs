//! The tiny model's tokenizer: one token per character, in the `tokenizer.json` format.
//!
//! The vocabulary holds four special tokens, the newline and the printable ASCII characters. The file describes a
//! byte-pair model with no merges, which splits text into characters without a pre-tokenizer, and a decoder that
//! joins the characters with nothing in between.

use serde_json::{Map, Value, json};

/// The padding token, which has id 0.
pub const PAD: &str = "<pad>";
/// The token that opens every sequence, which has id 1.
pub const BOS: &str = "<bos>";
/// The token that closes a completion, which has id 2.
pub const EOS: &str = "<eos>";
/// The token that stands for any character outside the vocabulary, which has id 3.
pub const UNK: &str = "<unk>";

/// The id of [`PAD`].
pub const PAD_ID: u32 = 0;
/// The id of [`BOS`].
pub const BOS_ID: u32 = 1;
/// The id of [`EOS`].
pub const EOS_ID: u32 = 2;

const SPECIAL: [&str; 4] = [PAD, BOS, EOS, UNK];

/// Tokens in the vocabulary: the special tokens, the newline and the printable ASCII characters.
pub const VOCAB_SIZE: usize = SPECIAL.len() + 1 + (b'~' - b' ') as usize + 1;

/// Longest sequence that the tokenizer's configuration announces.
pub const MODEL_MAX_LENGTH: usize = 128;

/// Joins the messages with nothing in between: a user's message is the prompt as it stands, and an assistant's message
/// is the completion, closed by the end-of-sequence token.
const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\
    {% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";

/// The contents of `tokenizer.json`.
pub fn tokenizer_json() -> String {
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": true,
            })
        })
        .collect();
    let bos = |type_id: u32| json!({ "SpecialToken": { "id": BOS, "type_id": type_id } });
    let text = |name: &str, type_id: u32| json!({ "Sequence": { "id": name, "type_id": type_id } });
    pretty(&json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos(0), text("A", 0)],
            "pair": [bos(0), text("A", 0), bos(1), text("B", 1)],
            "special_tokens": { BOS: { "id": BOS, "ids": [BOS_ID], "tokens": [BOS] } },
        },
        "decoder": { "type": "Fuse" },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": UNK,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary(),
            "merges": [],
        },
    }))
}

/// The contents of `tokenizer_config.json`.
pub fn tokenizer_config_json() -> String {
    pretty(&json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MODEL_MAX_LENGTH,
        "padding_side": "right",
        "clean_up_tokenization_spaces": false,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "chat_template": CHAT_TEMPLATE,
    }))
}

/// Each token with its id: the special tokens, then the newline, then the characters from space to tilde.
fn vocabulary() -> Map<String, Value> {
    let special = SPECIAL.iter().map(|&token| token.to_owned());
    let characters = std::iter::once('\n').chain(' '..='~').map(String::from);
    special.chain(characters).enumerate().map(|(id, token)| (token, json!(id))).collect()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use tokenizers::Tokenizer;

    use super::*;

    fn tokenizer() -> Tokenizer {
        tokenizer_json().parse().expect("the tokenizer file parses")
    }

    #[test]
    fn special_tokens_come_first() {
        let tokenizer = tokenizer();
        for (id, token) in SPECIAL.iter().enumerate() {
            assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
        }
        assert_eq!((PAD_ID, BOS_ID, EOS_ID), (0, 1, 2));
        assert_eq!(tokenizer.get_vocab_size(true), VOCAB_SIZE);
    }

    #[test]
    fn every_character_survives_a_round_trip() {
        let text: String = std::iter::once('\n').chain(' '..='~').collect();
        let spaced = "  two  spaces , and a stop .  ";
        for text in [text.as_str(), spaced, "a\n b", ""] {
            let encoding = tokenizer().encode(text, false).expect("the text encodes");
            assert_eq!(encoding.get_ids().len(), text.chars().count());
            assert_eq!(tokenizer().decode(encoding.get_ids(), true).expect("the ids decode"), text);
        }
    }

    #[test]
    fn encoding_opens_with_the_first_token() {
        let encoding = tokenizer().encode("ab", true).expect("the text encodes");
        let [first, rest @ ..] = encoding.get_ids() else { panic!("no ids") };
        assert_eq!((*first, rest.len()), (BOS_ID, 2));
        assert_eq!(tokenizer().decode(encoding.get_ids(), true).expect("the ids decode"), "ab");
    }

    #[test]
    fn a_character_outside_the_vocabulary_is_unknown() {
        let encoding = tokenizer().encode("aéé", false).expect("the text encodes");
        assert_eq!(encoding.get_tokens(), ["a", UNK, UNK]);
    }

    #[test]
    fn a_special_token_in_the_text_is_one_token() {
        let encoding = tokenizer().encode("a<eos>", false).expect("the text encodes");
        assert_eq!(encoding.get_ids().last(), Some(&EOS_ID));
        assert_eq!(encoding.get_ids().len(), 2);
    }

    #[test]
    fn the_configuration_names_the_tokens() {
        let config: Value = serde_json::from_str(&tokenizer_config_json()).expect("the configuration parses");
        assert_eq!(config["bos_token"], BOS);
        assert_eq!(config["eos_token"], EOS);
        assert_eq!(config["pad_token"], PAD);
        assert!(config["chat_template"].as_str().is_some_and(|template| template.contains("messages")));
    }
}
