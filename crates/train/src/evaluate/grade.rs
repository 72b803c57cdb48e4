//! What a model's choices and answers are worth.

use super::item::{ChoiceItem, OpenItem};
use super::job::Metric;
use super::metrics::{Classification, Estimate, Normalise, normalised, rouge_l, same_number, token_f1};
use peft_core::Result;
use serde_json::{Value, json};

/// Scores by name, and what led to them.
#[derive(Clone, Debug)]
pub struct Graded {
    /// The name of each score and its value.
    pub scores: Vec<(&'static str, Estimate)>,
    /// For classification, what else there is to know.
    pub classification: Option<Classification>,
    /// One JSON object for each example.
    pub predictions: Vec<Value>,
}

/// Judge choices by their log-likelihoods; the first of equals is chosen.
///
/// Besides the most likely choice, the most likely by byte of its text is judged, since longer texts are less likely for their length alone.
pub(super) fn grade_choices(items: &[ChoiceItem], scores: &[Vec<f64>], metric: Metric) -> Result<Graded> {
    let chosen: Vec<usize> = scores.iter().map(|scores| best(scores)).collect();
    let by_byte = |(item, scores): (&ChoiceItem, &Vec<f64>)| {
        let scaled = scores.iter().zip(&item.choices).map(|(score, choice)| score / choice.len().max(1) as f64);
        best(&scaled.collect::<Vec<_>>()) == item.answer
    };
    let normalised: Vec<bool> = items.iter().zip(scores).map(by_byte).collect();
    let right: Vec<bool> = items.iter().zip(&chosen).map(|(item, chosen)| item.answer == *chosen).collect();
    let mut graded = Graded { scores: vec![("accuracy", share(&right))], classification: None, predictions: Vec::new() };
    if metric == Metric::Classification {
        let expected: Vec<usize> = items.iter().map(|item| item.answer).collect();
        let labels = items.iter().map(|item| item.choices.len()).max().unwrap_or_default();
        let classification = Classification::new(&chosen, &expected, labels)?;
        graded.scores.extend([("f1", classification.f1), ("matthews", classification.matthews)]);
        graded.classification = Some(classification);
    } else {
        graded.scores.push(("accuracy_normalised", share(&normalised)));
    }
    let shown = |((item, scores), chosen): ((&ChoiceItem, &Vec<f64>), &usize)| {
        json!({
            "line": item.origin.line, "prompt": item.prompt.text, "choices": item.choices, "log_likelihoods": scores,
            "choice": chosen, "expected": item.answer, "right": *chosen == item.answer,
        })
    };
    graded.predictions = items.iter().zip(scores).zip(&chosen).map(shown).collect();
    Ok(graded)
}

/// Judge written answers; of several that count as right, the one that fits best.
pub(super) fn grade_answers(items: &[OpenItem], answers: &[String], metric: Metric, normalise: &[Normalise]) -> Graded {
    let same = |answer: &str, expected: &str| normalised(answer, normalise) == normalised(expected, normalise);
    let score = |answer: &str, expected: &str| match metric {
        Metric::TokenF1 => token_f1(&normalised(answer, normalise), &normalised(expected, normalise)),
        Metric::RougeL => rouge_l(answer, expected),
        Metric::Numeric => f64::from(u8::from(same_number(answer, expected))),
        _ => f64::from(u8::from(same(answer, expected))),
    };
    let judged = |(item, answer): (&OpenItem, &String)| item.answers.iter().map(|right| score(answer, right)).fold(0.0, f64::max);
    let values: Vec<f64> = items.iter().zip(answers).map(judged).collect();
    let scores = match metric {
        Metric::TokenF1 => {
            let exact = items.iter().zip(answers).map(|(item, answer)| item.answers.iter().any(|right| same(answer, right)));
            vec![("f1", Estimate::mean(&values)), ("accuracy", share(&exact.collect::<Vec<_>>()))]
        }
        Metric::RougeL => vec![("rouge_l", Estimate::mean(&values))],
        _ => vec![("accuracy", Estimate::mean(&values))],
    };
    let shown = |((item, answer), value): ((&OpenItem, &String), &f64)| {
        let (line, prompt, expected) = (item.origin.line, &item.prompt.text, &item.answers);
        json!({ "line": line, "prompt": prompt, "output": answer, "expected": expected, "score": value, "right": *value == 1.0 })
    };
    let predictions = items.iter().zip(answers).zip(&values).map(shown).collect();
    Graded { scores, classification: None, predictions }
}

fn share(right: &[bool]) -> Estimate {
    let values: Vec<f64> = right.iter().map(|right| f64::from(u8::from(*right))).collect();
    Estimate::mean(&values)
}

/// The first of the highest scores.
fn best(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, index| if scores[index] > scores[best] { index } else { best })
}

#[cfg(test)]
mod tests {
    use super::super::item::{Origin, Prompt};
    use super::*;
    use std::path::Path;

    fn origin() -> Origin {
        Origin { file: Path::new("x.jsonl").into(), line: 1 }
    }

    fn choice(choices: &[&str], answer: usize) -> ChoiceItem {
        let choices = choices.iter().map(|choice| choice.to_string()).collect();
        ChoiceItem { prompt: Prompt::plain("p"), delimiter: String::new(), choices, answer, origin: origin() }
    }

    fn open(answers: &[&str]) -> OpenItem {
        OpenItem { prompt: Prompt::plain("p"), answers: answers.iter().map(|a| a.to_string()).collect(), origin: origin() }
    }

    fn graded(metric: Metric, item: OpenItem, answer: &str, normalise: &[Normalise]) -> Vec<(&'static str, f64)> {
        let graded = grade_answers(&[item], &[answer.into()], metric, normalise);
        graded.scores.into_iter().map(|(name, score)| (name, score.value)).collect()
    }

    #[test]
    fn a_long_choice_wins_by_byte_though_a_short_one_is_likelier() {
        let graded = grade_choices(&[choice(&["ab", "abcdefgh"], 1)], &[vec![-2.0, -4.0]], Metric::MultipleChoice).unwrap();
        let values: Vec<_> = graded.scores.iter().map(|(name, score)| (*name, score.value)).collect();
        assert_eq!(values, [("accuracy", 0.0), ("accuracy_normalised", 1.0)]);
        assert_eq!((&graded.predictions[0]["choice"], &graded.predictions[0]["right"]), (&json!(0), &json!(false)));
    }

    #[test]
    fn the_first_of_equal_choices_is_chosen() {
        assert_eq!(best(&[-1.0, -0.5, -0.5]), 1);
    }

    #[test]
    fn the_best_of_several_right_answers_counts() {
        let item = || open(&["the blue car", "a car"]);
        assert_eq!(graded(Metric::TokenF1, item(), "Car!", &Normalise::SQUAD), [("f1", 1.0), ("accuracy", 1.0)]);
        assert_eq!(graded(Metric::ExactMatch, item(), " a car\n", &[]), [("accuracy", 1.0)]);
        assert_eq!(graded(Metric::ExactMatch, item(), "A car", &[]), [("accuracy", 0.0)]);
        assert_eq!(graded(Metric::RougeL, item(), "the car", &[]), [("rouge_l", 0.8)]);
        assert_eq!(graded(Metric::Numeric, open(&["so #### 1,000"]), "it is 1000.", &[]), [("accuracy", 1.0)]);
    }
}
