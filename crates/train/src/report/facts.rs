//! The numbers that say in short how a run went.

use super::RunRecord;
use super::number::{bytes, duration, short, trimmed};
use peft_core::grouped;
use serde::Serialize;
use serde_json::Value;

/// One number with its name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Fact {
    /// What it is.
    pub label: String,
    /// The number, for people.
    pub value: String,
    /// A few words more.
    pub note: String,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Status {
    /// All steps were taken, and the outcome is there.
    pub finished: bool,
    /// The same in words.
    pub text: String,
}

pub(super) fn status(record: &RunRecord) -> Status {
    let (step, total) = record.steps();
    let finished = record.summary.is_some() && step >= total;
    let text = match (finished, record.summary.is_some()) {
        (true, _) => "finished".into(),
        (_, true) => format!("stopped after {} of {} steps", grouped(step), grouped(total)),
        _ => format!("{} of {} steps", grouped(step), grouped(total)),
    };
    Status { finished, text }
}

/// What was trained, and by which method.
pub(super) fn title(record: &RunRecord) -> String {
    let text = |key: &str| record.settings.get(key).and_then(Value::as_str);
    let model = text("model").map(|model| model.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(model));
    match (model, text("method")) {
        (Some(model), Some(method)) => format!("{model} · {method}"),
        (Some(model), None) => model.into(),
        _ => record.name(),
    }
}

fn fact(label: &str, value: String, note: String) -> Fact {
    Fact { label: label.into(), value, note }
}

/// The outcome in numbers, or as far as it is known.
pub(super) fn facts(record: &RunRecord) -> Vec<Fact> {
    let losses = [training_loss(record), evaluation_loss(record)].into_iter().flatten();
    let rest = [trainable(record), steps(record), time(record), throughput(record), memory(record)].into_iter().flatten();
    losses.chain(evaluation_metrics(record)).chain(rest).collect()
}

fn training_loss(record: &RunRecord) -> Option<Fact> {
    let first = record.outcome("train_loss_first").or_else(|| record.metrics.first("loss"))?;
    let last = record.outcome("train_loss_last").or_else(|| record.metrics.last("loss"))?;
    Some(fact("Training loss", trimmed(last, 4), format!("first step {}", trimmed(first, 4))))
}

fn evaluation_loss(record: &RunRecord) -> Option<Fact> {
    let last = record.outcome("eval_loss").or_else(|| record.metrics.last("eval_loss"))?;
    // Where the data are classified, say, there are other measures, and no perplexity.
    let note = if evaluation_metrics(record).is_empty() { format!("perplexity {}", short(last.exp())) } else { String::new() };
    Some(fact("Evaluation loss", trimmed(last, 4), note))
}

/// Measures of the evaluation other than the loss, which the metrics call `eval_…`.
fn evaluation_metrics(record: &RunRecord) -> Vec<Fact> {
    let names = record.metrics.names.iter().filter_map(|name| Some((name, name.strip_prefix("eval_")?)));
    let last = |name: &str| record.outcome(name).or_else(|| record.metrics.last(name));
    let metric = |(name, short): (&String, &str)| Some(fact(&format!("Evaluation {short}"), trimmed(last(name)?, 4), String::new()));
    names.filter(|(_, short)| *short != "loss").filter_map(metric).collect()
}

fn trainable(record: &RunRecord) -> Option<Fact> {
    let summary = record.parameters.as_ref()?;
    let note = format!("{} % of {}", trimmed(summary.percent(), 2), short(summary.total as f64));
    Some(fact("Trainable", grouped(summary.trainable), note))
}

fn steps(record: &RunRecord) -> Option<Fact> {
    let (step, total) = record.steps();
    let value = if step < total { format!("{} of {}", grouped(step), grouped(total)) } else { grouped(step) };
    let epochs = record.metrics.last("epoch").map(|epoch| match trimmed(epoch, 2).as_str() {
        "1" => "1 epoch".into(),
        epochs => format!("{epochs} epochs"),
    });
    Some(fact("Steps", value, epochs.unwrap_or_default()))
}

fn time(record: &RunRecord) -> Option<Fact> {
    // A run that is not finished says how fast it is, and so how long it has taken.
    let so_far = || Some(record.metrics.tokens() / record.metrics.last("tokens_per_second").filter(|speed| *speed > 0.0)?);
    let seconds = record.outcome("seconds").or_else(so_far)?;
    // The outcome of a run that was resumed tells of its last part.
    let is_part = record.outcome("tokens").is_some_and(|tokens| tokens < record.metrics.tokens());
    Some(fact("Time", duration(seconds), if is_part { "since it was resumed".into() } else { String::new() }))
}

fn throughput(record: &RunRecord) -> Option<Fact> {
    let speed = record.outcome("tokens_per_second").or_else(|| record.metrics.last("tokens_per_second"))?;
    let tokens = grouped(record.metrics.tokens() as usize);
    Some(fact("Tokens/s", grouped(speed.round() as usize), format!("{tokens} tokens")))
}

fn memory(record: &RunRecord) -> Option<Fact> {
    Some(fact("Peak memory", bytes(record.outcome("peak_memory_bytes")?), String::new()))
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;
    use serde_json::json;

    fn record(summary: Option<Value>) -> RunRecord {
        let row = |step: f64, loss: f64| {
            [("step", step), ("total_steps", 4.0), ("loss", loss), ("tokens", 50.0), ("tokens_per_second", 25.0)]
                .map(|(k, v)| (k.into(), v))
                .into()
        };
        RunRecord {
            metrics: Metrics { rows: vec![row(1.0, 3.0), row(2.0, 2.5)], ..Metrics::default() },
            settings: json!({ "model": "models/Tiny-1B/", "method": "lora" }).as_object().unwrap().clone(),
            summary: summary.map(|summary| summary.as_object().unwrap().clone()),
            ..RunRecord::default()
        }
    }

    fn value(facts: &[Fact], label: &str) -> Option<String> {
        facts.iter().find(|fact| fact.label == label).map(|fact| fact.value.clone())
    }

    #[test]
    fn a_run_under_way_says_how_far_it_is() {
        let record = record(None);
        assert_eq!(status(&record), Status { finished: false, text: "2 of 4 steps".into() });
        let facts = facts(&record);
        assert_eq!(value(&facts, "Steps").as_deref(), Some("2 of 4"));
        assert_eq!(value(&facts, "Training loss").as_deref(), Some("2.5"));
        assert_eq!(value(&facts, "Time").as_deref(), Some("4.0 s"), "100 tokens at 25 a second");
        assert_eq!(value(&facts, "Peak memory"), None);
    }

    #[test]
    fn a_run_with_an_outcome_but_not_all_steps_was_stopped() {
        assert_eq!(status(&record(Some(json!({ "steps": 2 })))).text, "stopped after 2 of 4 steps");
    }

    #[test]
    fn the_outcome_wins_over_what_the_steps_say() {
        let facts = facts(&record(Some(json!({ "seconds": 90.0, "peak_memory_bytes": 2_000_000_000u64 }))));
        assert_eq!(value(&facts, "Time").as_deref(), Some("1 min 30 s"));
        assert_eq!(value(&facts, "Peak memory").as_deref(), Some("2.00 GB"));
    }

    #[test]
    fn the_outcome_of_a_resumed_run_is_told_as_that_of_a_part() {
        let facts = facts(&record(Some(json!({ "seconds": 2.0, "tokens": 50, "tokens_per_second": 25.0 }))));
        let note = |label: &str| facts.iter().find(|fact| fact.label == label).unwrap().note.clone();
        assert_eq!((note("Time"), note("Tokens/s")), ("since it was resumed".into(), "100 tokens".into()));
    }

    #[test]
    fn other_measures_of_the_evaluation_are_named() {
        let mut record = record(None);
        record.metrics.names = vec!["eval_loss".into(), "eval_accuracy".into()];
        record.metrics.rows[1].extend([("eval_loss".to_string(), 0.5), ("eval_accuracy".to_string(), 0.875)]);
        let facts = facts(&record);
        assert_eq!(value(&facts, "Evaluation accuracy").as_deref(), Some("0.875"));
        assert!(facts.iter().all(|fact| !fact.note.contains("perplexity")));
    }

    #[test]
    fn the_title_is_the_model_and_the_method() {
        assert_eq!(title(&record(None)), "Tiny-1B · lora");
    }
}
