//! Examples to token ids, with a mark on every token that is to be learned.

use super::jsonl::{Content, Example, Message};
use super::template::ChatTemplate;
use super::tokenizer::{Piece, TextTokenizer};
use super::turns::{Turn, assistant_turns};
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// How examples become token sequences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeConfig {
    /// Tokens per example, at least 2; longer ones lose their end.
    pub max_length: usize,
    /// Learn prompts and user messages too, not only completions and what the assistant says.
    pub train_on_prompt: bool,
}

impl Default for EncodeConfig {
    fn default() -> Self {
        Self { max_length: 1024, train_on_prompt: false }
    }
}

/// A token sequence and which of its tokens are to be learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens.
    pub ids: Vec<u32>,
    /// For each token, whether predicting it counts in the loss. Never the first: nothing precedes it.
    pub labels_mask: Vec<bool>,
}

impl Encoded {
    /// How many tokens count in the loss.
    pub fn supervised(&self) -> usize {
        self.labels_mask.iter().filter(|&&counts| counts).count()
    }

    fn new(pieces: &[Piece], counts: impl Fn(usize, &Piece) -> bool) -> Self {
        let ids = pieces.iter().map(|p| p.id).collect();
        let labels_mask = pieces.iter().enumerate().map(|(i, p)| i > 0 && counts(i, p)).collect();
        Self { ids, labels_mask }
    }

    fn push(&mut self, id: u32) {
        self.labels_mask.push(!self.ids.is_empty());
        self.ids.push(id);
    }
}

/// What became of the examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EncodeStats {
    /// Sequences made.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those of their tokens that count in the loss.
    pub supervised: usize,
    /// Sequences that lost their end to `max_length`.
    pub truncated: usize,
    /// Examples left out because nothing to be learned fits in `max_length`.
    pub skipped: usize,
}

/// Turns examples into token sequences and keeps count.
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a TextTokenizer,
    template: Option<&'a ChatTemplate>,
    config: EncodeConfig,
    stats: EncodeStats,
}

impl<'a> Encoder<'a> {
    /// Fails if `max_length` is below 2: a single token predicts nothing.
    pub fn new(tokenizer: &'a TextTokenizer, template: Option<&'a ChatTemplate>, config: EncodeConfig) -> Result<Self> {
        if config.max_length < 2 {
            return Err(Error::InvalidConfig(format!("max_length must be at least 2, found {}", config.max_length)));
        }
        if tokenizer.eos_ids().is_empty() {
            tracing::warn!("the checkpoint names no end-of-sequence token: texts are left open, and the model will not learn to stop");
        }
        Ok(Self { tokenizer, template, config, stats: EncodeStats::default() })
    }

    /// What became of the examples so far.
    pub fn stats(&self) -> EncodeStats {
        self.stats
    }

    /// The sequence of one example, or `None` if nothing to be learned fits in `max_length`.
    ///
    /// - `text`: all of it counts, and the end-of-sequence token, which is added if missing.
    /// - `prompt`, `completion`: tokenised as one text; tokens that reach into the completion count, and the end-of-sequence token.
    /// - `messages`: the rendering of the chat template; every assistant message counts, through the special token that closes it.
    ///   Nothing is added to what the template writes.
    ///
    /// Fails, naming the example's line, on examples for evaluation, on conversations if there is no chat template, if the template
    /// refuses the conversation, or if it does not show which part is the assistant's.
    pub fn encode(&mut self, example: &Example) -> Result<Option<Encoded>> {
        let row = match &example.content {
            Content::Text { text } => self.text(text)?,
            Content::Completion { prompt, completion, .. } => self.completion(prompt, completion)?,
            Content::Chat { messages } => self.chat(example, messages)?,
            Content::Choice { .. } | Content::Question { .. } => {
                return Err(example.error("`prompt` with `answer` is for evaluation only; training needs a `completion`"));
            }
        };
        Ok(self.fit(row))
    }

    /// The sequences of all examples that have anything to learn; fails if none has.
    pub fn encode_all(&mut self, examples: &[Example]) -> Result<Vec<Encoded>> {
        let mut rows = Vec::with_capacity(examples.len());
        for example in examples {
            rows.extend(self.encode(example)?);
        }
        if rows.is_empty() {
            let (max, all) = (self.config.max_length, examples.len());
            return Err(Error::InvalidConfig(format!(
                "max_length = {max} leaves nothing to learn of any of the {all} examples; choose a larger one"
            )));
        }
        Ok(rows)
    }

    fn text(&self, text: &str) -> Result<Encoded> {
        Ok(self.closed(Encoded::new(&self.tokenizer.pieces(text, true)?, |_, _| true)))
    }

    fn completion(&self, prompt: &str, completion: &str) -> Result<Encoded> {
        let pieces = self.tokenizer.pieces(&format!("{prompt}{completion}"), true)?;
        let everything = self.config.train_on_prompt;
        let text_end = text_end(&pieces);
        let counts = |i, piece: &Piece| everything || i >= text_end || piece.end > prompt.len();
        Ok(self.closed(Encoded::new(&pieces, counts)))
    }

    fn chat(&self, example: &Example, messages: &[Message]) -> Result<Encoded> {
        let template = self.template.ok_or_else(|| example.error(NO_TEMPLATE))?;
        let text = template.try_render(messages, false).map_err(|reason| example.error(reason))?;
        let pieces = self.tokenizer.pieces(&text, false)?;
        if self.config.train_on_prompt {
            return Ok(Encoded::new(&pieces, |_, _| true));
        }
        let turns = assistant_turns(template, messages, &text).map_err(|reason| example.error(reason))?;
        if turns.is_empty() {
            return Err(example.error("`messages` holds no assistant message to learn; pass --train-on-prompt to learn the others"));
        }
        let mut counted = vec![false; pieces.len()];
        for turn in &turns {
            mark(turn, &pieces, &mut counted, |id| self.tokenizer.is_special(id));
        }
        Ok(Encoded::new(&pieces, |i, _| counted[i]))
    }

    /// With the end-of-sequence token.
    fn closed(&self, mut row: Encoded) -> Encoded {
        let eos = self.tokenizer.eos_ids();
        if let Some(&id) = eos.first()
            && !row.ids.last().is_some_and(|last| eos.contains(last))
        {
            row.push(id);
        }
        row
    }

    fn fit(&mut self, mut row: Encoded) -> Option<Encoded> {
        let too_long = row.ids.len() > self.config.max_length;
        row.ids.truncate(self.config.max_length);
        row.labels_mask.truncate(self.config.max_length);
        let supervised = row.supervised();
        if supervised == 0 {
            self.stats.skipped += 1;
            return None;
        }
        self.stats.examples += 1;
        self.stats.tokens += row.ids.len();
        self.stats.supervised += supervised;
        self.stats.truncated += usize::from(too_long);
        Some(row)
    }
}

const NO_TEMPLATE: &str = "`messages` need a chat template, and the checkpoint has none (no chat_template.jinja, no `chat_template` in \
                           tokenizer_config.json): use its instruction-tuned version, or write the data as `prompt` and `completion`";

/// [`Encoder::encode`] for a single example.
pub fn encode_example(
    example: &Example,
    tokenizer: &TextTokenizer,
    template: Option<&ChatTemplate>,
    config: &EncodeConfig,
) -> Result<Option<Encoded>> {
    Encoder::new(tokenizer, template, config.clone())?.encode(example)
}

/// A prompt and a possible continuation, whose tokens count, for scoring: neither closed nor shortened.
///
/// `add_special_tokens` is for plain prompts; a rendered chat template brings its own.
pub fn encode_continuation(tokenizer: &TextTokenizer, prompt: &str, continuation: &str, add_special_tokens: bool) -> Result<Encoded> {
    let mut pieces = tokenizer.pieces(&format!("{prompt}{continuation}"), add_special_tokens)?;
    pieces.truncate(text_end(&pieces));
    Ok(Encoded::new(&pieces, |_, piece| piece.end > prompt.len()))
}

/// The tokens of a text in the midst of a document, right after the character `before`.
///
/// Tokenised together with that character, so that tokenizers which add a space to the beginning of a text do not add one here.
pub(crate) fn encode_inside(tokenizer: &TextTokenizer, before: char, text: &str) -> Result<Vec<u32>> {
    let pieces = tokenizer.pieces(&format!("{before}{text}"), false)?;
    let boundary = before.len_utf8();
    if pieces.iter().any(|p| p.start < boundary && p.end > boundary) {
        return tokenizer.encode(text, false);
    }
    let inside = pieces[..text_end(&pieces)].iter().filter(|p| p.end > boundary);
    Ok(inside.map(|p| p.id).collect())
}

/// Where the tokens of the text end and those that the tokenizer adds after it begin.
fn text_end(pieces: &[Piece]) -> usize {
    pieces.iter().rposition(|p| !p.added).map_or(pieces.len(), |last| last + 1)
}

/// Mark the tokens of a turn: all that reach into its text, and those that close it, through the last special one.
fn mark(turn: &Turn, pieces: &[Piece], counted: &mut [bool], is_special: impl Fn(u32) -> bool) {
    // Tokenizers that trim spaces from the places of tokens report a token of spaces as empty, at its end.
    let spoken = |p: &Piece| p.end > turn.start && (p.start < turn.content_end || p.end <= turn.content_end);
    let closing = |p: &Piece| p.end > turn.content_end && p.end <= turn.limit;
    let last_special = pieces.iter().rposition(|p| closing(p) && is_special(p.id)).unwrap_or(pieces.len());
    for (i, piece) in pieces.iter().enumerate() {
        counted[i] |= spoken(piece) || (closing(piece) && i <= last_special);
    }
}
