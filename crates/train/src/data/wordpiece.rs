//! BERT's tokenizer from its vocabulary alone.

use super::checkpoint::{SpecialTokens, read_json};
use peft_core::{Error, Result};
use serde::Deserialize;
use std::path::Path;
use tokenizers::decoders::wordpiece::WordPiece as Decoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

/// The vocabulary, one token a line.
pub(super) const VOCABULARY: &str = "vocab.txt";

/// The tokenizer of a checkpoint directory that has a `vocab.txt` in place of a `tokenizer.json`, as transformers makes it of that file and
/// `tokenizer_config.json`: WordPiece over words that are cleaned, split at spaces, punctuation and Chinese characters, and, if
/// `do_lower_case` is on or absent, written in lower case without accents.
pub(super) fn load(dir: &Path) -> Result<Tokenizer> {
    let file = dir.join(VOCABULARY);
    let invalid = |e: tokenizers::Error| Error::file(&file, format!("not a vocabulary: {e}"));
    let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
    let vocabulary = WordPiece::read_bytes(&bytes).map_err(invalid)?;
    let names = SpecialTokens::load(dir)?;
    let named = |name: &str, default: &str| names.get(name).unwrap_or(default).to_string();
    let [unk, cls, sep] = [("unk_token", "[UNK]"), ("cls_token", "[CLS]"), ("sep_token", "[SEP]")].map(|(name, text)| named(name, text));
    let id = |token: &String| {
        let id = vocabulary.get(token).copied();
        id.ok_or_else(|| Error::file(&file, format!("has no `{token}`: not the vocabulary of a BERT tokenizer; provide a tokenizer.json")))
    };
    let (_, cls_id, sep_id) = (id(&unk)?, id(&cls)?, id(&sep)?);
    let settings = Settings::read(dir)?;

    let special = [unk.clone(), cls.clone(), sep.clone(), named("pad_token", "[PAD]"), named("mask_token", "[MASK]")];
    let special: Vec<_> = special.into_iter().filter(|token| vocabulary.contains_key(token)).map(|t| AddedToken::from(t, true)).collect();
    let model = WordPiece::builder().vocab(vocabulary).unk_token(unk).build().map_err(invalid)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(settings.normalizer()))
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(BertProcessing::new((sep, sep_id), (cls, cls_id))))
        .with_decoder(Some(Decoder::default()));
    tokenizer.add_special_tokens(&special);
    Ok(tokenizer)
}

/// What `tokenizer_config.json` says about words.
#[derive(Deserialize, Default)]
struct Settings {
    do_lower_case: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    strip_accents: Option<bool>,
}

impl Settings {
    fn read(dir: &Path) -> Result<Self> {
        let file = dir.join("tokenizer_config.json");
        match read_json(&file)? {
            Some(json) => serde_json::from_value(json).map_err(|e| Error::file(&file, e)),
            None => Ok(Self::default()),
        }
    }

    fn normalizer(&self) -> BertNormalizer {
        let chinese = self.tokenize_chinese_chars.unwrap_or(true);
        BertNormalizer::new(true, chinese, self.strip_accents, self.do_lower_case.unwrap_or(true))
    }
}
