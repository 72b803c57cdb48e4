//! Texts that a model writes before and after training, for people to read.

use crate::data::{ChatTemplate, Content, Conversation, Example, Message, TextTokenizer};
use crate::generate::{GenerateConfig, generate_batch};
use peft_core::files::{read_text, write_atomic};
use peft_core::{Error, LanguageModel, Result};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// Longest text, in tokens.
const MAX_NEW_TOKENS: usize = 64;
/// Prompts that are continued together.
const BATCH: usize = 8;
/// Characters of a plain text that are given, and as many that may follow.
const EXCERPT: usize = 240;

/// A prompt and its continuations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What is given, as a person reads it.
    pub prompt: String,
    /// What the data say should follow.
    pub expected: String,
    /// What the model wrote before training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What the model wrote after training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Prompts to be continued before and after training: greedily, up to 64 tokens.
pub struct SampleTask<'a> {
    tokenizer: &'a TextTokenizer,
    samples: Vec<Sample>,
    prompts: Vec<Vec<u32>>,
}

impl<'a> SampleTask<'a> {
    /// Choose `count` examples, spread evenly; those whose prompt is empty or longer than `max_length` tokens are passed over.
    ///
    /// # Errors
    /// [`Error::Data`] for a conversation without a template for it.
    pub fn choose(
        count: usize,
        examples: &[Example],
        tokenizer: &'a TextTokenizer,
        template: Option<&ChatTemplate>,
        max_length: usize,
    ) -> Result<Self> {
        let (mut samples, mut prompts) = (Vec::new(), Vec::new());
        for part in 0..count.min(examples.len()) {
            let at = |part: usize| part * examples.len() / count.min(examples.len());
            for example in &examples[at(part)..at(part + 1)] {
                let Some((sample, prompt)) = posed(example, tokenizer, template)? else { continue };
                if (1..=max_length).contains(&prompt.len()) {
                    samples.push(sample);
                    prompts.push(prompt);
                    break;
                }
            }
        }
        Ok(Self { tokenizer, samples, prompts })
    }

    /// Let the model write as it is before training.
    ///
    /// # Errors
    /// As [`crate::generate::generate`].
    pub fn before<M: LanguageModel>(&mut self, model: &M) -> Result<()> {
        let texts = self.continued(model)?;
        self.samples.iter_mut().zip(texts).for_each(|(sample, text)| sample.before = Some(text));
        Ok(())
    }

    /// Let the model write as it is after training.
    ///
    /// # Errors
    /// As [`crate::generate::generate`].
    pub fn after<M: LanguageModel>(&mut self, model: &M) -> Result<()> {
        let texts = self.continued(model)?;
        self.samples.iter_mut().zip(texts).for_each(|(sample, text)| sample.after = Some(text));
        Ok(())
    }

    /// The prompts with what was written so far.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    fn continued<M: LanguageModel>(&self, model: &M) -> Result<Vec<String>> {
        let eos_ids = self.tokenizer.eos_ids().to_vec();
        let config = GenerateConfig { max_new_tokens: MAX_NEW_TOKENS, eos_ids, ..GenerateConfig::default() };
        let mut texts = Vec::new();
        for prompts in self.prompts.chunks(BATCH) {
            for tokens in generate_batch(model, prompts, &config, |_, _| ControlFlow::Continue(()))? {
                texts.push(self.tokenizer.decode(&tokens, true)?);
            }
        }
        Ok(texts)
    }
}

/// An example as a prompt with what should follow, and the prompt's tokens; none where nothing is to be written.
fn posed(example: &Example, tokenizer: &TextTokenizer, template: Option<&ChatTemplate>) -> Result<Option<(Sample, Vec<u32>)>> {
    let (prompt, expected) = match &example.content {
        Content::Text { text } => halves(text),
        Content::Completion { prompt, completion, .. } => (prompt.clone(), completion.clone()),
        Content::Question { prompt, answer, .. } => (prompt.clone(), answer.clone()),
        Content::Chat(spoken) => match spoken.asked() {
            Some((asked, last)) => return conversation(&asked, last, example, tokenizer, template),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let ids = tokenizer.encode_prompt(&prompt, true)?;
    Ok(Some((Sample { prompt, expected, ..Sample::default() }, ids)))
}

fn conversation(
    asked: &Conversation,
    last: &Message,
    example: &Example,
    tokenizer: &TextTokenizer,
    template: Option<&ChatTemplate>,
) -> Result<Option<(Sample, Vec<u32>)>> {
    let template = template.ok_or_else(|| example.error("`messages` need a chat template, and the checkpoint has none"))?;
    let text = template.render_conversation(asked, true).map_err(|e| example.error(e))?;
    let prompt = asked.messages.iter().map(|message| format!("{}: {}", message.role, message.content)).collect::<Vec<_>>().join("\n");
    Ok(Some((Sample { prompt, expected: last.content.clone(), ..Sample::default() }, tokenizer.encode_prompt(&text, false)?)))
}

/// The beginning of a text, up to a space, and what follows.
fn halves(text: &str) -> (String, String) {
    let middle = EXCERPT.min(text.chars().count() / 2);
    let middle = text.char_indices().nth(middle).map_or(text.len(), |(at, _)| at);
    let middle = text[..middle].rfind(char::is_whitespace).filter(|at| *at > 0).unwrap_or(middle);
    let (prompt, rest) = text.split_at(middle);
    (prompt.into(), rest.chars().take(EXCERPT).collect())
}

/// Write one sample a line.
///
/// # Errors
/// [`Error::Io`].
pub fn write_samples(path: &Path, samples: &[Sample]) -> Result<()> {
    let mut text = String::new();
    for sample in samples {
        text += &serde_json::to_string(sample).map_err(|e| Error::file(path, e))?;
        text.push('\n');
    }
    write_atomic(path, text.as_bytes())
}

/// The samples in a file; none if there is no file.
pub(super) fn read(path: &Path) -> Result<Vec<Sample>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let sample = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::Data { file: path.into(), line: index + 1, reason: e.to_string() })
    };
    lines.map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_words() {
        assert_eq!(halves("one two three four"), ("one two".into(), " three four".into()));
        assert_eq!(halves("abcdef"), ("abc".into(), "def".into()));
        assert_eq!(halves(""), (String::new(), String::new()));
        let (prompt, rest) = halves(&"wörter ".repeat(500));
        assert!(prompt.chars().count() <= EXCERPT && rest.chars().count() == EXCERPT);
    }

    #[test]
    fn samples_are_read_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("samples.jsonl");
        assert!(read(&file).unwrap().is_empty());
        let samples = [
            Sample { prompt: "a\n\"b\"".into(), expected: "</script>".into(), before: Some(String::new()), after: None },
            Sample { prompt: "ü".into(), expected: "x".into(), before: None, after: Some("y".into()) },
        ];
        write_samples(&file, &samples).unwrap();
        assert_eq!(read(&file).unwrap(), samples);
        std::fs::write(&file, "{\"prompt\":\"a\",\"expected\":\"b\"}\n{").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("samples.jsonl:2: "));
    }
}
