//! What a task file says.

use super::super::job::Metric;
use super::super::metrics::Normalise;
use peft_core::files::read_yaml;
use peft_core::{Error, Result};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// A benchmark: which data, what is asked, what is right and what is measured.
///
/// Where a text is wanted, the name of a field gives its value (`question`, or `choices.text` for a field in a field); what holds `{{`
/// or `{%` is a Jinja template over the row's fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The task file, where errors say a setting comes from.
    #[serde(skip)]
    pub(super) file: PathBuf,
    /// What the results call it; by default the name of the task file.
    #[serde(default)]
    pub name: String,
    /// Rows in JSON Lines (`.jsonl`), `.csv` or `.tsv`; a relative path starts at the task file. For perplexity also plain `.txt`.
    pub data: PathBuf,
    /// What is measured.
    pub metric: Metric,
    /// What the model is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What is right: for choices the number of the right one from 0, or its text; else a text, or a list of texts that all count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What can be chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<Choices>,
    /// How a choice is written, a template over the row's fields and `choice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<String>,
    /// What stands between a prompt and its answer or choice; by default one space unless the prompt ends in white space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// The text that perplexity is measured on, by default the field `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Solved rows that stand before every prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<FewShot>,
    /// Ask in the checkpoint's chat format, with the prompt as the user's message.
    #[serde(default)]
    pub chat: bool,
    /// A system message, with `chat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Texts that end an answer and are no part of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Longest answer in tokens, by default 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// What answers may differ in; by default nothing for `exact_match`, everything for `token_f1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalise: Option<Vec<Normalise>>,
    /// Tokens of a window, for perplexity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// How many tokens a window begins after the one before, for perplexity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Evaluate the first so many rows only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// What can be chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Choices {
    /// The same in every row, or templates over its fields.
    List(Vec<String>),
    /// The field that lists them.
    Field(String),
}

impl<'de> Deserialize<'de> for Choices {
    /// Each element is read as the text that it is written as: `[yes, no]` and `[1, 2]` are texts here, not booleans and numbers.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Choices;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts, or the name of a field that holds one")
            }

            fn visit_str<E>(self, field: &str) -> Result<Choices, E> {
                Ok(Choices::Field(field.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Choices, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Choices::List(texts))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Solved rows before every prompt. A row is never among the examples of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewShot {
    /// How many.
    pub k: usize,
    /// Where they come from; by default the evaluated data. A relative path starts at the task file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Draw them anew for every row, as this number determines; by default the first `k` rows are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What stands between them, by default an empty line.
    #[serde(default = "empty_line")]
    pub separator: String,
}

fn empty_line() -> String {
    "\n\n".into()
}

impl Task {
    /// Read a task file.
    ///
    /// # Errors
    /// [`Error::File`] for what is not YAML, a field that does not exist (the message lists those that do), a field that is missing or
    /// that the metric has no use for.
    pub fn read(file: impl AsRef<Path>) -> Result<Self> {
        let file = file.as_ref();
        let mut task: Self = read_yaml(file)?;
        task.check().map_err(|reason| Error::file(file, reason))?;
        task.file = file.into();
        let dir = file.parent().unwrap_or(Path::new(""));
        task.data = dir.join(&task.data);
        if let Some(few_shot) = &mut task.few_shot {
            few_shot.data = few_shot.data.as_deref().map(|path| dir.join(path));
        }
        if task.name.is_empty() {
            task.name = file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        }
        Ok(task)
    }

    /// The same with the defaults that its metric uses written out.
    #[must_use]
    pub fn effective(&self) -> Self {
        let mut task = self.clone();
        if self.metric.writes() {
            task.max_new_tokens.get_or_insert(64);
        }
        if self.metric.normalises() {
            task.normalise.get_or_insert_with(|| self.metric.disregards().to_vec());
        }
        task
    }

    fn check(&self) -> Result<(), String> {
        let metric = self.metric.name();
        let chooses = self.metric.chooses();
        let writes = self.metric.writes();
        let asks = chooses || writes;
        // The field, whether it is set, whether the metric has a use for it, and whether it needs it.
        let fields = [
            ("prompt", self.prompt.is_some(), asks, true),
            ("answer", self.answer.is_some(), asks, true),
            ("choices", self.choices.is_some(), chooses, true),
            ("choice", self.choice.is_some(), chooses, false),
            ("delimiter", self.delimiter.is_some(), asks && !self.chat, false),
            ("few_shot", self.few_shot.is_some(), asks, false),
            ("chat", self.chat, asks, false),
            ("system", self.system.is_some(), asks && self.chat, false),
            ("stop", !self.stop.is_empty(), writes, false),
            ("max_new_tokens", self.max_new_tokens.is_some(), writes, false),
            ("normalise", self.normalise.is_some(), self.metric.normalises(), false),
            ("text", self.text.is_some(), !asks, false),
            ("max_length", self.max_length.is_some(), !asks, false),
            ("stride", self.stride.is_some(), !asks, false),
        ];
        for (name, set, useful, needed) in fields {
            match (set, useful) {
                (true, false) if name == "system" && asks => return Err("`system` needs `chat: true`".into()),
                (true, false) if name == "delimiter" && asks => return Err("`delimiter` has no use in a chat".into()),
                (true, false) => return Err(format!("`{name}` has no use for the metric {metric}")),
                (false, true) if needed => return Err(format!("`{name}` is missing; the metric {metric} needs it")),
                _ => {}
            }
        }
        self.check_values()
    }

    fn check_values(&self) -> Result<(), String> {
        let zero = [
            ("limit", self.limit),
            ("max_new_tokens", self.max_new_tokens),
            ("few_shot.k", self.few_shot.as_ref().map(|few_shot| few_shot.k)),
        ];
        if let Some((name, _)) = zero.iter().find(|(_, value)| *value == Some(0)) {
            return Err(format!("`{name}` must be at least 1"));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err("`stop` holds an empty text, which would end every answer at once".into());
        }
        match &self.choices {
            Some(Choices::List(list)) if list.len() < 2 => Err(format!("`choices` needs at least two, found {}", list.len())),
            Some(Choices::Field(_)) if self.metric == Metric::Classification => {
                Err("classification needs the same `choices` in every row, as a list in the task file".into())
            }
            _ => Ok(()),
        }
    }
}
