//! Examples to token ids, with a mark on every token that is to be learned.

use super::conversation::Conversation;
use super::jsonl::{Content, Example};
use super::marking::marked;
use super::stats::{EncodeStats, Skip};
use super::template::ChatTemplate;
use super::tokenizer::{Piece, TextTokenizer};
use super::turns::{Row, Rows, Turns};
use peft_core::{Error, Result};
use rayon::prelude::*;
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

/// Turns examples into token sequences and keeps count.
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a TextTokenizer,
    template: Option<&'a ChatTemplate>,
    config: EncodeConfig,
    stats: EncodeStats,
    origins: Vec<u32>,
}

impl<'a> Encoder<'a> {
    /// An encoder whose settings have been checked.
    pub(super) fn of_valid(tokenizer: &'a TextTokenizer, template: Option<&'a ChatTemplate>, config: EncodeConfig) -> Self {
        Self { tokenizer, template, config, stats: EncodeStats::default(), origins: Vec::new() }
    }

    /// Fails if `max_length` is below 2: a single token predicts nothing.
    pub fn new(tokenizer: &'a TextTokenizer, template: Option<&'a ChatTemplate>, config: EncodeConfig) -> Result<Self> {
        if config.max_length < 2 {
            return Err(Error::InvalidConfig(format!("max_length must be at least 2, found {}", config.max_length)));
        }
        if tokenizer.eos_ids().is_empty() {
            tracing::warn!("the checkpoint names no end-of-sequence token: texts are left open, and the model will not learn to stop");
        }
        Ok(Self::of_valid(tokenizer, template, config))
    }

    /// What became of the examples so far.
    pub fn stats(&self) -> EncodeStats {
        self.stats
    }

    /// For each sequence of [`encode_all`](Self::encode_all) the number of the example that it comes from.
    pub fn origins(&self) -> &[u32] {
        &self.origins
    }

    /// The sequences of one example; none if it is [left out](Skip).
    ///
    /// - `text`: all of it counts, and the end-of-sequence token, which is added if missing.
    /// - `prompt`, `completion`: tokenised as one text; tokens that reach into the completion count, and the end-of-sequence token.
    /// - `messages`: the rendering of the chat template; all that the assistant writes counts, through the special token that closes
    ///   each of its messages. Nothing is added to what the template writes. A sequence for each of these messages if the template
    ///   writes earlier ones anew when the conversation goes on, else one.
    /// - `instruction`, `output`: one of the last two; see [`Content::posed`].
    ///
    /// Fails, naming the example's line, on examples for evaluation, on conversations if there is no chat template, if the template
    /// refuses the conversation, or if it does not show which part is the assistant's.
    pub fn encode(&mut self, example: &Example) -> Result<Vec<Encoded>> {
        let made = self.make(example)?;
        Ok(made.into_iter().filter_map(|made| self.count(made)).collect())
    }

    /// What becomes of one example, not yet counted.
    pub(super) fn make(&self, example: &Example) -> Result<Vec<Made>> {
        if !example.wanted {
            return Ok(vec![Made::left_out(Skip::Unwanted, 0)]);
        }
        let content = example.content.posed(self.template.is_some());
        let row = match content.as_ref() {
            Content::Text { text } if text.is_empty() => return Ok(vec![Made::left_out(Skip::Empty, 0)]),
            Content::Text { text } => self.text(text)?,
            Content::Completion { prompt, completion, .. } => self.completion(prompt, completion)?,
            Content::Chat(conversation) => return self.chat(example, conversation),
            Content::Instruction { .. } => unreachable!("posed as a conversation or as a prompt"),
            Content::Choice { .. } | Content::Question { .. } => {
                return Err(example.error("`prompt` with `answer` is for evaluation only; training needs a `completion`"));
            }
        };
        Ok(vec![self.fit(row)])
    }

    /// Count what became of an example.
    pub(super) fn count(&mut self, made: Made) -> Option<Encoded> {
        match &made.row {
            Ok(row) => self.stats.made(row.ids.len(), row.supervised(), made.length),
            Err(why) => self.stats.skipped(*why),
        }
        self.stats.split += usize::from(made.splits);
        self.stats.incomplete += usize::from(made.lacks);
        made.row.ok()
    }

    /// The sequences of all examples that have anything to learn, made on all cores; fails if none has.
    pub fn encode_all(&mut self, examples: &[Example]) -> Result<Vec<Encoded>> {
        let made: Vec<Result<Vec<Made>>> = examples.par_iter().map(|example| self.make(example)).collect();
        let mut rows = Vec::with_capacity(examples.len());
        self.origins.clear();
        for (example, made) in made.into_iter().enumerate() {
            rows.extend(made?.into_iter().filter_map(|made| self.count(made)));
            self.origins.resize(rows.len(), example as u32);
        }
        self.check_any(rows.len())?;
        Ok(rows)
    }

    /// Refuse data of which nothing is left.
    pub(super) fn check_any(&self, rows: usize) -> Result<()> {
        let (max, skipped) = (self.config.max_length, self.stats.skipped);
        if rows > 0 {
            self.stats.warn();
            return Ok(());
        }
        let remedy = if skipped.too_long > 0 { format!("; choose a max_length above {max}") } else { String::new() };
        Err(Error::InvalidConfig(format!("there is nothing to learn in any of the {} examples: {skipped}{remedy}", skipped.all())))
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

    fn chat(&self, example: &Example, conversation: &Conversation) -> Result<Vec<Made>> {
        let template = self.template.ok_or_else(|| example.error(NO_TEMPLATE))?;
        let failed = |reason| example.error(reason);
        let (conversation, text) = template.show(conversation, false).map_err(failed)?;
        let turns = Turns::new(template, &conversation);
        if self.config.train_on_prompt {
            return Ok(vec![self.row(&turns.whole(text).map_err(failed)?, true)?]);
        }
        if conversation.messages.iter().all(|message| message.role != "assistant") {
            return Err(example.error("`messages` holds no assistant message to learn; pass --train-on-prompt to learn the others"));
        }
        match turns.rows(text).map_err(failed)? {
            Rows::One(row) => Ok(vec![self.row(&row, false)?]),
            Rows::Each(indices) => self.each_turn(example, &turns, &indices),
        }
    }

    /// A row for each of some messages. They grow, so that none fits behind one whose turn does not.
    fn each_turn(&self, example: &Example, turns: &Turns, indices: &[usize]) -> Result<Vec<Made>> {
        let (mut made, mut unclear): (Vec<Made>, _) = (Vec::new(), None);
        for index in indices {
            if made.last().is_some_and(|last| matches!(last.row, Err(Skip::TooLong))) {
                made.push(Made::left_out(Skip::TooLong, 0));
                continue;
            }
            made.push(match turns.row(*index) {
                Ok(row) => self.row(&row, false)?,
                Err(reason) => {
                    unclear.get_or_insert(reason);
                    Made::left_out(Skip::Unclear, 0)
                }
            });
        }
        match unclear {
            Some(reason) if made.iter().all(|made| matches!(made.row, Err(Skip::Unclear))) => Err(example.error(reason)),
            _ => {
                made.iter_mut().take(1).for_each(|first| first.splits = indices.len() > 1);
                Ok(made)
            }
        }
    }

    fn row(&self, row: &Row, everything: bool) -> Result<Made> {
        let (pieces, counted) = marked(row, self.tokenizer, everything)?;
        Ok(Made { lacks: row.lacks, ..self.fit(Encoded::new(&pieces, |i, _| counted[i])) })
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

    /// Without what is beyond `max_length`.
    fn fit(&self, mut row: Encoded) -> Made {
        let length = row.ids.len();
        if row.supervised() == 0 {
            return Made::left_out(if length < 2 { Skip::Empty } else { Skip::NothingToLearn }, length);
        }
        row.ids.truncate(self.config.max_length);
        row.labels_mask.truncate(self.config.max_length);
        if row.supervised() == 0 {
            return Made::left_out(Skip::TooLong, length);
        }
        Made { row: Ok(row), length, lacks: false, splits: false }
    }
}

/// What becomes of an example.
#[derive(Debug)]
pub(super) struct Made {
    /// Its sequence, or why there is none.
    pub row: Result<Encoded, Skip>,
    /// Its tokens before it was cut.
    pub length: usize,
    /// Whether its text lacks something that the messages say.
    pub lacks: bool,
    /// Whether it is the first of several that come from one conversation.
    pub splits: bool,
}

impl Made {
    fn left_out(why: Skip, length: usize) -> Self {
        Self { row: Err(why), length, lacks: false, splits: false }
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
) -> Result<Vec<Encoded>> {
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
