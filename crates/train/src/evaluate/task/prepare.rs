//! From a task and its data to what the model is asked.

use super::super::answer::Answering;
use super::super::documents::Documents;
use super::super::item::{ChoiceItem, Items, OpenItem, Origin, Prompt};
use super::super::job::Job;
use super::config::{Choices, Task};
use super::few_shot::shots;
use super::rows::{Row, Rows};
use super::text::{Text, as_text, is_template};
use crate::data::{ChatTemplate, Message};
use peft_core::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// A row with its answer.
#[derive(Clone, Debug)]
pub(super) struct Solved {
    pub prompt: String,
    /// Empty unless there is something to choose.
    choices: Vec<String>,
    /// The number of the right choice.
    right: usize,
    /// At least one; the text of the right choice, or the texts that count.
    answers: Vec<String>,
    pub origin: Origin,
}

impl Task {
    /// Read the data and make the prompts. `template` is the checkpoint's, for `chat`; `batch_size` prompts, choices or windows are
    /// computed together.
    ///
    /// # Errors
    /// [`Error::File`] for a template that does not compile, and without rows; [`Error::Data`] for a row that lacks a field, or whose
    /// choices or answer are of no use.
    pub fn prepare(&self, template: Option<&ChatTemplate>, batch_size: usize) -> Result<Job> {
        let items = if self.metric.chooses() || self.metric.writes() { self.items(template)? } else { self.documents()? };
        let task = self.effective();
        let settings = serde_json::to_value(&task).map_err(|e| Error::InvalidConfig(e.to_string()))?;
        let answering = Answering { batch_size, max_new_tokens: task.max_new_tokens.unwrap_or_default(), stop: task.stop };
        let labels = match &self.choices {
            Some(Choices::List(list)) => list.clone(),
            _ => Vec::new(),
        };
        Ok(Job {
            name: self.name.clone(),
            metric: self.metric,
            items,
            answering,
            normalise: task.normalise.unwrap_or_default(),
            labels,
            settings,
        })
    }

    fn documents(&self) -> Result<Items> {
        let text = match Documents::is_plain(&self.data) {
            true => None,
            false => Some(Text::new("text", self.text.as_deref().unwrap_or("text"), &self.data)?),
        };
        Ok(Items::Documents(Documents::new(&self.data, text, self.limit, self.max_length, self.stride)?))
    }

    fn items(&self, template: Option<&ChatTemplate>) -> Result<Items> {
        let solver = Solver::new(self)?;
        let solved_of = |file: &Path, limit| Rows::read(file, limit)?.iter().map(|row| solver.solve(row)).collect::<Result<Vec<_>>>();
        let rows = solved_of(&self.data, self.limit)?;
        let pool = match &self.few_shot {
            Some(few_shot) => solved_of(few_shot.data.as_deref().unwrap_or(&self.data), None)?,
            None => Vec::new(),
        };
        let asked = |(number, solved): (usize, &Solved)| {
            let shots = self.few_shot.as_ref().map_or_else(|| Ok(Vec::new()), |few_shot| shots(few_shot, &pool, solved, number))?;
            self.ask(&shots, solved, template)
        };
        let prompts = rows.iter().enumerate().map(asked).collect::<Result<Vec<_>>>()?;
        let pairs = rows.into_iter().zip(prompts);
        Ok(if self.metric.chooses() {
            Items::Choices(pairs.map(|(row, prompt)| self.choice_item(row, prompt)).collect())
        } else {
            Items::Open(pairs.map(|(row, prompt)| OpenItem { prompt, answers: row.answers, origin: row.origin }).collect())
        })
    }

    fn choice_item(&self, row: Solved, prompt: Prompt) -> ChoiceItem {
        let delimiter = if self.chat { String::new() } else { self.delimiter(&row.prompt).into() };
        ChoiceItem { prompt, delimiter, choices: row.choices, answer: row.right, origin: row.origin }
    }

    fn ask(&self, shots: &[&Solved], solved: &Solved, template: Option<&ChatTemplate>) -> Result<Prompt> {
        if self.chat {
            let system = self.system.iter().map(|text| Message::new("system", text));
            let pair = |shot: &&Solved| [Message::new("user", &shot.prompt), Message::new("assistant", &shot.answers[0])];
            let asked = Message::new("user", &solved.prompt);
            let messages: Vec<Message> = system.chain(shots.iter().flat_map(pair)).chain([asked]).collect();
            return Prompt::chat(template, &messages.into(), &solved.origin);
        }
        let separator = self.few_shot.as_ref().map_or("", |few_shot| few_shot.separator.as_str());
        let shown = |shot: &&Solved| format!("{}{}{}{separator}", shot.prompt, self.delimiter(&shot.prompt), shot.answers[0]);
        Ok(Prompt::plain(shots.iter().map(shown).collect::<String>() + &solved.prompt))
    }

    fn delimiter(&self, prompt: &str) -> &str {
        match &self.delimiter {
            Some(delimiter) => delimiter,
            None if prompt.is_empty() || prompt.ends_with(char::is_whitespace) => "",
            None => " ",
        }
    }
}

/// The texts of a task.
struct Solver {
    prompt: Text,
    answer: Text,
    choices: ChoiceTexts,
    choice: Option<Text>,
}

enum ChoiceTexts {
    None,
    List(Vec<Text>),
    Field(Text),
}

impl Solver {
    fn new(task: &Task) -> Result<Self> {
        let text = |name, source: &Option<String>| Text::new(name, source.as_deref().unwrap_or_default(), &task.file);
        let choices = match &task.choices {
            None => ChoiceTexts::None,
            Some(Choices::List(list)) => {
                ChoiceTexts::List(list.iter().map(|text| Text::template("choices", text, &task.file)).collect::<Result<_>>()?)
            }
            Some(Choices::Field(field)) if is_template(field) => {
                return Err(Error::file(&task.file, "`choices` must be a list of texts, or the name of a field that holds one"));
            }
            Some(Choices::Field(field)) => ChoiceTexts::Field(Text::new("choices", field, &task.file)?),
        };
        let choice = task.choice.as_ref().map(|source| Text::template("choice", source, &task.file)).transpose()?;
        Ok(Self { prompt: text("prompt", &task.prompt)?, answer: text("answer", &task.answer)?, choices, choice })
    }

    fn solve(&self, row: &Row) -> Result<Solved> {
        let prompt = self.prompt.render(row)?;
        let answer = self.answer.value(row)?;
        let origin = row.origin.clone();
        let choices = self.choices(row)?;
        if choices.is_empty() {
            let answers = answers(&answer).map_err(|reason| self.answer.error(row, reason))?;
            return Ok(Solved { prompt, choices, right: 0, answers, origin });
        }
        let right = right_choice(&answer, &choices).map_err(|reason| self.answer.error(row, reason))?;
        let choices = match &self.choice {
            Some(choice) => choices.iter().map(|text| choice.render_choice(row, text)).collect::<Result<Vec<_>>>()?,
            None => choices,
        };
        Ok(Solved { prompt, right, answers: vec![choices[right].clone()], choices, origin })
    }

    fn choices(&self, row: &Row) -> Result<Vec<String>> {
        let field = match &self.choices {
            ChoiceTexts::None => return Ok(Vec::new()),
            ChoiceTexts::List(texts) => return texts.iter().map(|text| text.render(row)).collect(),
            ChoiceTexts::Field(field) => field,
        };
        let value = field.value(row)?;
        let list = value.as_array().and_then(|list| list.iter().map(as_text).collect::<Option<Vec<_>>>());
        match list {
            None => Err(field.error(row, format!("must be a list of texts, found {value}"))),
            Some(list) if list.len() < 2 => Err(field.error(row, format!("needs at least two choices, found {}", list.len()))),
            Some(list) => Ok(list),
        }
    }
}

/// The texts that count as right.
fn answers(value: &Value) -> Result<Vec<String>, String> {
    let texts = match value {
        Value::Array(list) => list.iter().map(as_text).collect(),
        other => as_text(other).map(|text| vec![text]),
    };
    match texts {
        Some(texts) if !texts.is_empty() => Ok(texts),
        _ => Err(format!("must be a text, a number, or a list of at least one of them, found {value}")),
    }
}

/// The number of the right choice: a number counts from 0; a text is that of a choice. Digits in a text, all that CSV has, count as a
/// number where no choice reads as one, so that the two never mix.
fn right_choice(answer: &Value, choices: &[String]) -> Result<usize, String> {
    let number = |number: usize| Some(number).filter(|number| *number < choices.len());
    let numeric = choices.iter().any(|choice| choice.trim().parse::<f64>().is_ok());
    let found = match answer {
        Value::Number(n) => n.as_u64().and_then(|n| number(usize::try_from(n).ok()?)),
        Value::String(text) => {
            let text = text.trim();
            let digits = || if numeric { None } else { number(text.parse().ok()?) };
            choices.iter().position(|choice| choice.trim() == text).or_else(digits)
        }
        _ => None,
    };
    found.ok_or_else(|| format!("{answer} is neither one of the {} choices nor the number of one, from 0", choices.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn right(answer: Value, choices: [&str; 3]) -> Option<usize> {
        right_choice(&answer, &choices.map(String::from)).ok()
    }

    #[test]
    fn the_right_choice_is_a_number_or_a_text_and_never_mistaken_for_the_other() {
        let (words, digits) = (["a", "b", "c"], ["3", "1", "2"]);
        assert_eq!((right(json!(2), words), right(json!("b"), words), right(json!("2"), words)), (Some(2), Some(1), Some(2)));
        assert_eq!((right(json!(2), digits), right(json!("2"), digits), right(json!("0"), digits)), (Some(2), Some(2), None));
        assert_eq!(
            (right(json!(3), words), right(json!("d"), words), right(json!(-1), words), right(json!(null), words)),
            (None, None, None, None)
        );
    }
}
