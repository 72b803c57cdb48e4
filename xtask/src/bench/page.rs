//! Measurements as text: a table for the terminal, and the part of docs/src/performance.md that is made from the stored ones.

use super::record::{Measure, Record};
use super::spread::{Spread, short};
use super::{chart, docs};
use crate::Outcome;
use peft_core::files::write_atomic;
use std::fmt::Write;

const BEGIN: &str = "<!-- made by cargo xtask bench: begin -->";
const END: &str = "<!-- made by cargo xtask bench: end -->";

/// A table for the terminal.
pub fn text(record: &Record) -> String {
    let mut text = format!("{} {}: {}\n", record.job, record.shape, settings(record));
    writeln!(text, "{:<28} {:>24} {:>24} {:>8}", "median (min to max)", "burn-peft", record.job.peer(), "ratio").unwrap();
    for measure in &record.measures {
        let [ours, peer, ratio] = cells(measure);
        writeln!(text, "{:<28} {ours:>24} {peer:>24} {ratio:>8}", measure.label).unwrap();
    }
    text
}

/// Make the table in the book and its chart anew from the stored measurements.
pub fn renew() -> Outcome {
    let records = Record::stored()?;
    let page = docs().join("src/performance.md");
    let old = std::fs::read_to_string(&page).map_err(|e| format!("{}: {e}", page.display()))?;
    let new = replaced(&old, &table(&records)).ok_or_else(|| format!("{} has no lines `{BEGIN}` and `{END}`", page.display()))?;
    write_atomic(&page, new.as_bytes())?;
    Ok(write_atomic(&docs().join("src/performance.svg"), chart::svg(&records).as_bytes())?)
}

/// `page` with this between its markers.
fn replaced(page: &str, part: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{part}\n{END}{after}"))
}

fn table(records: &[Record]) -> String {
    let mut text = String::from("| job | model | measure | burn-peft | peer | ratio |\n|---|---|---|---:|---:|---:|\n");
    for record in records {
        for measure in &record.measures {
            let [ours, peer, ratio] = cells(measure);
            writeln!(text, "| {} | {} | {} | {ours} | {peer} | {ratio} |", record.job, record.subject(), measure.label).unwrap();
        }
    }
    let mut facts: Vec<(String, Vec<String>)> = Vec::new();
    for record in records {
        let (sentence, job) = (record.facts.sentence(), format!("{} {} ({})", record.job, record.subject(), settings(record)));
        match facts.iter_mut().find(|(known, _)| *known == sentence) {
            Some((_, jobs)) => jobs.push(job),
            None => facts.push((sentence, vec![job])),
        }
    }
    text.push('\n');
    for (sentence, jobs) in facts {
        writeln!(text, "- {}: {sentence}", jobs.join(", ")).unwrap();
    }
    text
}

/// The two sides and the ratio.
fn cells(measure: &Measure) -> [String; 3] {
    let spread = |spread: &Spread| format!("{} ({} to {})", short(spread.median), short(spread.min), short(spread.max));
    let missing = || "–".to_string();
    let ratio = measure.ratio.map_or_else(missing, |ratio| format!("{}×", short(ratio)));
    [spread(&measure.ours), measure.peer.as_ref().map_or_else(missing, spread), ratio]
}

fn settings(record: &Record) -> String {
    let mut parts: Vec<String> = record.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
    parts.push(format!("{} rounds", record.rounds));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let page = format!("# A\n\n{BEGIN}\nold\n{END}\n\ntext\n");
        let new = replaced(&page, "new\n").unwrap();
        assert_eq!(new, format!("# A\n\n{BEGIN}\n\nnew\n\n{END}\n\ntext\n"));
        assert_eq!(replaced(&new, "new\n").unwrap(), new);
        assert_eq!(replaced("# A\n", "new"), None);
    }
}
