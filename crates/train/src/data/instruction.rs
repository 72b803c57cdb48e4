//! How Alpaca's examples are written.

use super::jsonl::{Content, Message};
use std::borrow::Cow;

const TASK: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
const TASK_WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further context. \
                               Write a response that appropriately completes the request.";

impl Content {
    /// The same as a model gets it: an instruction becomes a conversation where the model has a chat template, and otherwise a prompt
    /// with the words that Alpaca was trained with (Taori et al., 2023), in which a `system` takes the place of the first sentences.
    /// Anything else stays as it is.
    pub fn posed(&self, has_template: bool) -> Cow<'_, Content> {
        let Content::Instruction { instruction, input, output, system } = self else { return Cow::Borrowed(self) };
        let (input, system) = (input.as_deref(), system.as_deref());
        Cow::Owned(match has_template {
            true => conversation(instruction, input, output, system),
            false => Content::Completion { prompt: prompt(instruction, input, system), completion: output.clone(), answer: None },
        })
    }
}

fn conversation(instruction: &str, input: Option<&str>, output: &str, system: Option<&str>) -> Content {
    let asked = input.map_or_else(|| instruction.into(), |input| format!("{instruction}\n\n{input}"));
    let system = system.map(|system| Message::new("system", system));
    let messages = system.into_iter().chain([Message::new("user", asked), Message::new("assistant", output)]);
    Content::Chat(messages.collect::<Vec<_>>().into())
}

fn prompt(instruction: &str, input: Option<&str>, system: Option<&str>) -> String {
    let task = system.unwrap_or(if input.is_some() { TASK_WITH_INPUT } else { TASK });
    let input = input.map(|input| format!("### Input:\n{input}\n\n")).unwrap_or_default();
    format!("{task}\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n")
}
