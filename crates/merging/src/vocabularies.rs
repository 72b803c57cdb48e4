//! Whether two models mean the same tokens by the rows of their embeddings.

use crate::alignment::embedding_rows;
use crate::compatibility::Compared;
use crate::models::Model;
use crate::tokenizer::{TOKENIZER_FILE, Tokenizer, by_number};
use peft_core::files::{read_json, read_text};
use peft_core::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// Files of a tokenizer that list its tokens, besides `tokenizer.json`.
const VOCABULARY_JSON: &str = "vocab.json";
const VOCABULARY_TEXT: &str = "vocab.txt";
/// Files of SentencePiece, of which the bytes are compared.
const SENTENCE_PIECE: [&str; 5] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.tiktoken"];

/// Compares the vocabularies of two models as far as both have rows.
///
/// # Errors
/// [`Error::File`] for a vocabulary that cannot be read.
pub fn compare(first: &Model, model: &Model) -> Result<Compared> {
    let rows = embedding_rows(first).min(embedding_rows(model));
    if rows == usize::MAX {
        return Ok(Compared::Same);
    }
    let differ = |difference: String| {
        Compared::Differ(format!(
            "the tokenizers of {} and {} differ: {difference}; say which tokens the result has: tokenizer_source: base, union, or a model",
            first.name, model.name
        ))
    };
    if let (Some(ours), Some(theirs)) = (tokens(first)?, tokens(model)?) {
        return Ok(by_number(&ours, rows).difference(&by_number(&theirs, rows)).map_or(Compared::Same, differ));
    }
    let files = [first, model].map(|model| SENTENCE_PIECE.into_iter().find(|name| model.dir.join(name).is_file()));
    if let [Some(ours), Some(theirs)] = files {
        let read = |model: &Model, name: &str| std::fs::read(model.dir.join(name)).map_err(|e| Error::io(model.dir.join(name), e));
        return Ok(match ours == theirs && read(first, ours)? == read(model, theirs)? {
            true => Compared::Same,
            false => differ(format!("{ours} of one is not {theirs} of the other, and there is no {TOKENIZER_FILE} in both to compare")),
        });
    }
    let nothing = |model: &Model, file: Option<&str>| file.is_none() && listed(&model.dir).is_none();
    if let Some(model) = [(first, files[0]), (model, files[1])].into_iter().find(|(model, file)| nothing(model, *file)).map(|(m, _)| m) {
        return Ok(Compared::Unknown(format!("{} has no tokenizer: that it has the tokens of the others is not checked", model.name)));
    }
    let (lacks, file) = if files[1].is_some() { (model, files[1]) } else { (first, files[0]) };
    Ok(Compared::Differ(format!(
        "{} has {}, and no {TOKENIZER_FILE} to compare with the tokens of {}: write one with AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        lacks.name,
        file.unwrap_or_default(),
        if std::ptr::eq(lacks, model) { &first.name } else { &model.name }
    )))
}

/// The file that lists the tokens of a model.
fn listed(dir: &Path) -> Option<&'static str> {
    [TOKENIZER_FILE, VOCABULARY_JSON, VOCABULARY_TEXT].into_iter().find(|name| dir.join(name).is_file())
}

/// The number of each token, from whichever file lists them.
fn tokens(model: &Model) -> Result<Option<HashMap<String, usize>>> {
    let file = |name: &str| model.dir.join(name);
    let mut tokens: HashMap<String, usize> = match (&model.tokenizer, listed(&model.dir)) {
        (Some(tokenizer), _) => return Ok(Some(tokenizer.ids.clone())),
        (None, Some(VOCABULARY_JSON)) => read_json(&file(VOCABULARY_JSON))?,
        (None, Some(_)) => read_text(&file(VOCABULARY_TEXT))?.lines().enumerate().map(|(id, token)| (token.into(), id)).collect(),
        (None, None) => return Ok(None),
    };
    tokens.extend(Tokenizer::declared(&model.dir)?.into_iter().map(|(token, id, _)| (token, id)));
    Ok(Some(tokens))
}
