//! Evaluations of plain data files, without a task file.

use super::answer::{Answering, answer};
use super::documents::Documents;
use super::item::{ChoiceItem, Items, OpenItem, Origin, Prompt};
use super::job::{Job, Metric};
use super::metrics::Estimate;
use super::task::Text;
use crate::data::{ChatTemplate, Content, EncodeConfig, Encoder, Example, TextTokenizer, read_examples};
use peft_core::{Error, LanguageModel, Result};
use serde::Serialize;
use std::path::Path;

/// How a data file is evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataOptions {
    /// Sequences, choices, prompts or windows that are computed together.
    pub batch_size: usize,
    /// Evaluate the first so many lines only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Longest sequence in tokens, or tokens of a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Measure perplexity in windows that begin so many tokens apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Count prompts too, for perplexity without windows.
    pub train_on_prompt: bool,
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
}

/// What a data file asks.
///
/// Perplexity is that of learned tokens, as in training; with a `stride` or of plain text it is measured in windows over whole texts.
///
/// # Errors
/// As reading the file; [`Error::Data`] for a line that the metric has no use for; [`Error::InvalidConfig`] for settings out of range.
pub fn data_job(
    file: &Path,
    metric: Metric,
    options: &DataOptions,
    tokenizer: &TextTokenizer,
    template: Option<&ChatTemplate>,
) -> Result<Job> {
    let examples = || {
        let mut examples = read_examples(file)?;
        examples.truncate(options.limit.unwrap_or(usize::MAX));
        Ok::<_, Error>(examples)
    };
    let items = if metric == Metric::Classification {
        return Err(Error::InvalidConfig("classification needs a task file, which lists the classes".into()));
    } else if metric.chooses() {
        Items::Choices(examples()?.iter().map(choice_item).collect::<Result<_>>()?)
    } else if metric.writes() {
        Items::Open(examples()?.iter().map(|example| open_item(example, template)).collect::<Result<_>>()?)
    } else if options.stride.is_some() || Documents::is_plain(file) {
        let text = (!Documents::is_plain(file)).then(|| Text::new("text", "text", file)).transpose()?;
        Items::Documents(Documents::new(file, text, options.limit, options.max_length, options.stride)?)
    } else {
        let config = EncodeConfig { max_length: options.max_length.unwrap_or(1024), train_on_prompt: options.train_on_prompt };
        Items::Learned(Encoder::new(tokenizer, template, config)?.encode_all(&examples()?)?)
    };
    let mut settings = serde_json::to_value(options).map_err(|e| Error::InvalidConfig(e.to_string()))?;
    settings["data"] = file.display().to_string().into();
    Ok(Job {
        name: file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
        metric,
        items,
        answering: Answering { batch_size: options.batch_size, max_new_tokens: options.max_new_tokens, stop: Vec::new() },
        normalise: metric.disregards().to_vec(),
        labels: Vec::new(),
        settings,
    })
}

/// Share of examples whose greedy answer is the right one, spaces around it aside. `batch_size` prompts are continued together.
///
/// The right answer is `answer`, else `completion`, else the last message if it is the assistant's.
///
/// # Errors
/// [`Error::Data`] for an example without an answer.
pub fn exact_match<M: LanguageModel>(
    model: &M,
    tokenizer: &TextTokenizer,
    template: Option<&ChatTemplate>,
    examples: &[Example],
    batch_size: usize,
    max_new_tokens: usize,
    on_progress: impl FnMut(usize, usize),
) -> Result<Estimate> {
    let items = examples.iter().map(|example| open_item(example, template)).collect::<Result<Vec<_>>>()?;
    let how = Answering { batch_size, max_new_tokens, stop: Vec::new() };
    let answers = answer(model, tokenizer, &items, &how, on_progress)?;
    let graded = super::grade::grade_answers(&items, &answers, Metric::ExactMatch, &[]);
    Ok(graded.scores[0].1)
}

fn choice_item(example: &Example) -> Result<ChoiceItem> {
    let Content::Choice { prompt, choices, answer } = &example.content else {
        return Err(example.error("multiple-choice needs `prompt`, `choices` and `answer`"));
    };
    if choices.len() < 2 {
        return Err(example.error(format!("`choices` needs at least two, found {}", choices.len())));
    }
    let (prompt, choices) = (Prompt::plain(prompt), choices.clone());
    Ok(ChoiceItem { prompt, delimiter: String::new(), choices, answer: *answer, origin: example.into() })
}

fn open_item(example: &Example, template: Option<&ChatTemplate>) -> Result<OpenItem> {
    let origin: Origin = example.into();
    let posed = example.content.posed(template.is_some());
    let (prompt, answer) = match posed.as_ref() {
        Content::Question { prompt, answer } => (Prompt::plain(prompt), answer),
        Content::Completion { prompt, completion, answer } => (Prompt::plain(prompt), answer.as_ref().unwrap_or(completion)),
        Content::Chat(conversation) => match conversation.asked() {
            Some((asked, last)) => (Prompt::chat(template, &asked, &origin)?, &last.content),
            _ => return Err(example.error("there is nothing to answer: the last message must be the assistant's, after others")),
        },
        _ => return Err(example.error("answers need `prompt` with `completion` or `answer`, or `messages`")),
    };
    Ok(OpenItem { prompt, answers: vec![answer.clone()], origin })
}
