//! Text to token ids and back, with the checkpoint's own tokenizer.

use super::checkpoint::{SpecialTokens, read_json, token_ids};
use super::declared::Declared;
use super::sources::Sources;
use super::{limits, wordpiece};
use peft_core::{Error, Result};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// A checkpoint's tokenizer and special tokens.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    pub(super) tokenizer: Tokenizer,
    file: PathBuf,
    /// As the files name them.
    named: Named,
    /// Those of them that the model's embedding has.
    usable: Named,
    special: HashSet<u32>,
    vocab_size: usize,
    /// How many tokens the model's embedding has, where that is known.
    rows: Option<usize>,
    /// How many times longer a text may become on its way to tokens.
    growth: u64,
}

/// Special tokens by their roles.
#[derive(Debug, Clone, Default)]
struct Named {
    bos: Option<u32>,
    /// The tokenizer's own end-of-sequence token first.
    eos: Vec<u32>,
    pad: Option<u32>,
}

/// A token and the bytes of the text that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: u32,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether it was added around the text instead of being found in it.
    pub(super) added: bool,
}

impl TextTokenizer {
    /// Read `tokenizer.json` of a checkpoint directory, or, where there is none, BERT's `vocab.txt`.
    ///
    /// Tokens that are declared in `tokenizer_config.json`, `special_tokens_map.json` or `added_tokens.json` alone are added as
    /// transformers adds them. The ids of special tokens come from there, `generation_config.json` and `config.json`, each optional.
    /// Truncation and padding that the file asks for are switched off: data decide about both.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        Self::load_from(&Sources::of(dir.as_ref(), None))
    }

    /// The tokenizer of an adapter: its own files where it has some, those of the base otherwise.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_adapted(base: &Path, adapter: Option<&Path>) -> Result<Self> {
        Self::load_from(&Sources::of(base, adapter))
    }

    fn load_from(sources: &Sources) -> Result<Self> {
        let dir = sources.vocabulary;
        let file = dir.join("tokenizer.json");
        let ((mut tokenizer, growth), file) = match std::fs::read(&file) {
            Ok(bytes) => (limits::tokenizer(&bytes).map_err(|reason| Error::file(&file, format!("not a tokenizer: {reason}")))?, file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let vocabulary = dir.join(wordpiece::VOCABULARY);
                match vocabulary.exists() {
                    true => ((wordpiece::load(dir)?, 1), vocabulary),
                    false => return Err(Error::file(file, missing(dir))),
                }
            }
            Err(e) => return Err(Error::io(&file, e)),
        };
        Declared::read(sources.settings)?.add_to(&mut tokenizer);
        Ok(Self { growth, ..Self::with_special_tokens(tokenizer, sources, file)? })
    }

    fn with_special_tokens(tokenizer: Tokenizer, sources: &Sources, file: PathBuf) -> Result<Self> {
        let names = SpecialTokens::load(sources.settings)?;
        let generation = read_json(&sources.model.join("generation_config.json"))?.unwrap_or_default();
        let model = read_json(&sources.model.join("config.json"))?.unwrap_or_default();
        let ids = |name: &str| {
            let mut ids: Vec<u32> = names.get(name).and_then(|text| known(&tokenizer, name, text)).into_iter().collect();
            let key = format!("{name}_id");
            let configured = token_ids(&generation, &key);
            ids.extend(if configured.is_empty() { token_ids(&model, &key) } else { configured });
            ids
        };
        let mut eos = Vec::new();
        for id in ids("eos_token") {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        let (bos, pad) = (ids("bos_token").first().copied(), ids("pad_token").first().copied());
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).chain(eos.iter().copied()).collect();
        let vocab_size = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let rows =
            [&model["vocab_size"], &model["text_config"]["vocab_size"]].into_iter().find_map(|size| usize::try_from(size.as_u64()?).ok());
        let named = Named { bos, eos, pad };
        let loaded = Self { tokenizer, file, usable: named.clone(), named, special, vocab_size, rows: None, growth: 1 };
        Ok(match rows {
            Some(rows) => loaded.with_rows(rows),
            None => loaded,
        })
    }

    /// For a model whose embedding has so many tokens, if those are not what `config.json` says: an adapter may bring others.
    pub fn with_rows(self, rows: usize) -> Self {
        let has = |id: &u32| (*id as usize) < rows;
        let usable = Named {
            bos: self.named.bos.filter(has),
            eos: self.named.eos.iter().copied().filter(has).collect(),
            pad: self.named.pad.filter(has),
        };
        if usable.eos.is_empty()
            && let Some(id) = self.named.eos.first()
        {
            tracing::warn!("the eos_token has id {id}, and the model's embedding has {rows} tokens; ignored");
        }
        Self { rows: Some(rows), usable, ..self }
    }

    /// An error for a text that would take gigabytes on its way to tokens. What published tokenizers do to texts is below the factor.
    pub(super) fn check_length(&self, text: &str) -> Result<()> {
        const USUAL: u64 = 128;
        const MOST: u64 = 1 << 30;
        match self.growth > USUAL && self.growth.saturating_mul(text.len() as u64) > MOST {
            true => Err(self.error(format!("a text of {} bytes could become {} times longer", text.len(), self.growth))),
            false => Ok(()),
        }
    }

    /// An error for tokens that the model's embedding does not have.
    pub(super) fn check(&self, ids: &[u32]) -> Result<()> {
        let Some(rows) = self.rows else { return Ok(()) };
        let Some(id) = ids.iter().find(|id| **id as usize >= rows) else { return Ok(()) };
        let token = self.tokenizer.id_to_token(*id).unwrap_or_default();
        Err(Error::file(
            &self.file,
            format!(
                "gives the token `{token}` the id {id}, and the model's embedding has {rows} tokens, 0 to {}: use the tokenizer that belongs to the \
                 model, or a model whose embedding was enlarged with transformers' `resize_token_embeddings`",
                rows.saturating_sub(1)
            ),
        ))
    }

    /// The ids of `text`; with `add_special_tokens`, including those that the tokenizer puts around a text (mostly the
    /// beginning-of-sequence token). Special tokens written out in the text always become their ids.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        self.check_length(text)?;
        let encoding = guarded(|| self.tokenizer.encode_fast(text, add_special_tokens)).map_err(|e| self.error(e))?;
        self.check(encoding.get_ids())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text that is to be continued: those of [`encode`](Self::encode) without what the tokenizer puts behind a text, such
    /// as the end-of-sequence token. A rendered chat template brings its own special tokens.
    pub fn encode_prompt(&self, prompt: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let mut pieces = self.pieces(prompt, add_special_tokens)?;
        match pieces.iter().rposition(|piece| !piece.added) {
            Some(last) => pieces.truncate(last + 1),
            // Nothing tells what stands before an empty text from what stands behind it.
            None => pieces.retain(|piece| !self.named.eos.contains(&piece.id)),
        }
        Ok(pieces.into_iter().map(|piece| piece.id).collect())
    }

    /// As [`encode`](Self::encode), with the place of every token in the text.
    pub(super) fn pieces(&self, text: &str, add_special_tokens: bool) -> Result<Vec<Piece>> {
        self.check_length(text)?;
        let encoding = guarded(|| self.tokenizer.encode(text, add_special_tokens)).map_err(|e| self.error(e))?;
        self.check(encoding.get_ids())?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets()).zip(encoding.get_special_tokens_mask());
        Ok(tokens.map(|((&id, &(start, end)), &added)| Piece { id, start, end, added: added != 0 }).collect())
    }

    /// The text of `ids`; with `skip_special`, without the special tokens. Bytes that are not UTF-8 become `U+FFFD`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(|| self.tokenizer.decode(ids, skip_special)).map_err(|e| self.error(e))
    }

    /// A decoder for tokens that follow `context` one by one; special tokens are left out.
    ///
    /// The context (a prompt, possibly empty) decides whether the first word starts with a space.
    pub fn stream(&self, context: &[u32]) -> Stream<'_> {
        let context = &context[context.len().saturating_sub(8)..];
        Stream { tokenizer: self, ids: context.to_vec(), shown: context.len() }
    }

    /// The tokens that end a text; the tokenizer's own first. Generation stops at any of them.
    pub fn eos_ids(&self) -> &[u32] {
        &self.usable.eos
    }

    /// The token that begins a text, if the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.usable.bos
    }

    /// What fills short rows of a batch: the padding token, else the end of text, else token 0. Such positions are never learned.
    pub fn pad_id(&self) -> u32 {
        self.usable.pad.or(self.usable.eos.first().copied()).unwrap_or(0)
    }

    /// The highest id + 1: how many rows the embedding must have.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Whether a token is a control token and not text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    pub(super) fn error(&self, reason: String) -> Error {
        Error::file(&self.file, format!("the tokenizer failed: {reason}"))
    }
}

/// What the tokenizer library returns, or why not: on some malformed files it panics, which is an error of the file like any other.
pub(super) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(message.unwrap_or("no reason given").to_string())
        }
    }
}

/// The id of a special token; one that the vocabulary lacks is as good as none.
fn known(tokenizer: &Tokenizer, name: &str, text: &str) -> Option<u32> {
    let id = tokenizer.token_to_id(text);
    if id.is_none() {
        tracing::warn!("the {name} `{text}` is not in the vocabulary; ignored");
    }
    id
}

fn missing(dir: &Path) -> String {
    let others = ["tokenizer.model", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"];
    let found: Vec<_> = others.into_iter().filter(|name| dir.join(name).exists()).collect();
    if found.is_empty() {
        return "no such file; a checkpoint needs its tokenizer.json, copy it from where the model comes from".into();
    }
    format!(
        "no such file; found {} instead, which transformers converts: \
         `AutoTokenizer.from_pretrained(dir).save_pretrained(dir)`",
        found.join(" and ")
    )
}

/// Decodes tokens as they are generated.
///
/// A token's text can depend on its neighbours (spaces) and can be part of a character (bytes), so tokens are decoded together with
/// those before, and text is held back until its last character is complete.
#[derive(Debug)]
pub struct Stream<'a> {
    tokenizer: &'a TextTokenizer,
    /// Tokens already shown, as far back as the next one's text depends on them, then those held back.
    ids: Vec<u32>,
    /// How many of `ids` have been shown.
    shown: usize,
}

impl Stream<'_> {
    /// More tokens than a character has bytes: text that is still incomplete then will never be complete.
    const HELD_BACK: usize = 4;

    /// Take the next token; gives the text that has become certain, if any.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.ids.push(id);
        let text = self.pending()?;
        let complete = !text.ends_with('\u{FFFD}') || self.ids.len() - self.shown > Self::HELD_BACK;
        if text.is_empty() || !complete {
            return Ok(None);
        }
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(Some(text))
    }

    /// The text held back, if any; bytes of an incomplete character become `U+FFFD`.
    pub fn finish(self) -> Result<Option<String>> {
        Ok(Some(self.pending()?).filter(|text| !text.is_empty()))
    }

    fn pending(&self) -> Result<String> {
        let shown = self.tokenizer.decode(&self.ids[..self.shown], true)?;
        let mut text = self.tokenizer.decode(&self.ids, true)?;
        let common: usize = shown.chars().zip(text.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        Ok(text.split_off(common))
    }
}
