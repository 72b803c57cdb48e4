//! What in a run deserves a second look.

use super::number::trimmed;
use super::{RunRecord, facts};
use serde_json::Value;

/// Sentences about a run, each saying what was seen and what to do about it.
pub(super) fn warnings(record: &RunRecord) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(unfinished(record));
    found.extend(unreadable(record));
    found.extend(examples(record));
    found.extend(no_progress(record));
    found.extend(overfitted(record));
    found.extend(clipped(record));
    found
}

fn unfinished(record: &RunRecord) -> Option<String> {
    let status = facts::status(record);
    let text = match record.summary {
        Some(_) => format!("The run was {}.", status.text),
        None => format!("The run was not finished when this page was made: {}.", status.text),
    };
    (!status.finished).then_some(text)
}

fn unreadable(record: &RunRecord) -> Option<String> {
    let lines: Vec<String> = record.metrics.unreadable.iter().map(usize::to_string).collect();
    match lines.as_slice() {
        [] => None,
        [line] => Some(format!("Line {line} of metrics.jsonl is not whole and is left out.")),
        [first, ..] => {
            Some(format!("{} lines of metrics.jsonl are not whole and are left out, the first of them line {first}.", lines.len()))
        }
    }
}

fn examples(record: &RunRecord) -> Vec<String> {
    let examples = record.summary.as_ref().and_then(|summary| summary.get("examples"));
    let count = |key: &str| examples.and_then(|examples| examples.get(key)).and_then(Value::as_u64).unwrap_or(0);
    let sentences = [
        (count("truncated"), "are longer than max_length and lost their end"),
        (count("skipped"), "had nothing left to learn within max_length and were skipped"),
    ];
    sentences.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} training examples {what}.")).collect()
}

fn no_progress(record: &RunRecord) -> Option<String> {
    let losses: Vec<f64> = record.metrics.series("loss").into_iter().map(|(_, loss)| loss).collect();
    let tenth = losses.len() / 10;
    if tenth == 0 {
        return None;
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..tenth]), mean(&losses[losses.len() - tenth..]));
    (last >= first).then(|| {
        let (first, last) = (trimmed(first, 4), trimmed(last, 4));
        format!("The training loss did not fall: {first} on average over the first tenth of the steps, {last} over the last. Try another learning rate.")
    })
}

fn overfitted(record: &RunRecord) -> Option<String> {
    let losses = record.metrics.series("eval_loss");
    let best = losses.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let last = losses.last()?;
    (last.1 > best.1 * 1.01).then(|| {
        let (at, lowest, end) = (best.0, trimmed(best.1, 4), trimmed(last.1, 4));
        format!(
            "The evaluation loss was lowest at step {at} ({lowest}) and rose to {end} at the end: the run may be too long for its data."
        )
    })
}

fn clipped(record: &RunRecord) -> Option<String> {
    let limit = record.setting("max_grad_norm").filter(|limit| *limit > 0.0)?;
    let norms = record.metrics.series("grad_norm");
    let above = norms.iter().filter(|(_, norm)| *norm > limit).count();
    let percent = 100 * above / norms.len().max(1);
    (norms.len() >= 10 && percent >= 90).then(|| {
        format!("The gradient was clipped to a norm of {limit} in {percent} % of the steps, so that the learning rate alone says little about their length.")
    })
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;
    use serde_json::json;

    /// A finished run of 20 steps.
    fn run(loss: impl Fn(f64) -> f64, eval: impl Fn(f64) -> f64, norm: f64) -> RunRecord {
        let row = |step: usize| {
            let at = step as f64;
            let row = [("step", at), ("total_steps", 20.0), ("loss", loss(at)), ("eval_loss", eval(at)), ("grad_norm", norm)];
            row.map(|(name, value)| (name.to_string(), value)).into()
        };
        let object = |value: Value| value.as_object().unwrap().clone();
        RunRecord {
            metrics: Metrics { rows: (1..=20).map(row).collect(), ..Metrics::default() },
            settings: object(json!({ "max_grad_norm": 1.0 })),
            summary: Some(object(json!({ "examples": { "truncated": 0, "skipped": 0 } }))),
            ..RunRecord::default()
        }
    }

    #[test]
    fn a_run_that_went_well_has_none() {
        assert_eq!(warnings(&run(|step| 3.0 - step / 10.0, |step| 3.0 - step / 10.0, 0.5)), Vec::<String>::new());
    }

    #[test]
    fn what_went_wrong_is_said_with_its_numbers() {
        let mut record = run(|step| 1.0 + step / 10.0, |step| 1.0 + (step - 5.0).abs() / 10.0, 2.0);
        record.summary.as_mut().unwrap().insert("examples".into(), json!({ "truncated": 3, "skipped": 2 }));
        record.metrics.unreadable = vec![21];
        let text = warnings(&record).join("\n");
        for part in [
            "Line 21 of metrics.jsonl",
            "3 training examples are longer",
            "2 training examples had nothing left",
            "did not fall: 1.15 on average",
            "lowest at step 5 (1) and rose to 2.5",
            "clipped to a norm of 1 in 100 % of the steps",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        record.summary = None;
        assert!(!warnings(&record)[0].is_empty() && warnings(&record)[0].contains("not finished"));
    }
}
