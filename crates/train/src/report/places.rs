//! What is trained, and where, as a table.

use super::number::trimmed;
use peft_core::{Summary, grouped};
use serde::Serialize;
use std::collections::BTreeMap;

/// Sites that differ in the number of their layer alone.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Place {
    /// Their path, with `*` for the number.
    pub path: String,
    /// How many there are.
    pub sites: usize,
    /// Trained parameters of each, or from least to most.
    pub each: String,
    /// Trained parameters of all.
    pub parameters: String,
    /// The same in percent of all that is trained.
    pub percent: String,
}

/// The sites of a summary, the largest group first.
pub(super) fn places(summary: &Summary) -> Vec<Place> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (site, count) in &summary.by_site {
        let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
        let path: Vec<&str> = site.split('.').map(|part| if is_number(part) { "*" } else { part }).collect();
        groups.entry(path.join(".")).or_default().push(*count);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.iter().sum::<usize>()));
    let place = |(path, counts): (String, Vec<usize>)| {
        let (least, most) = (*counts.iter().min().unwrap_or(&0), *counts.iter().max().unwrap_or(&0));
        let all: usize = counts.iter().sum();
        Place {
            path,
            sites: counts.len(),
            each: if least == most { grouped(least) } else { format!("{} – {}", grouped(least), grouped(most)) },
            parameters: grouped(all),
            percent: trimmed(100.0 * all as f64 / summary.trainable.max(1) as f64, 1),
        }
    };
    groups.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_one_row_and_the_largest_comes_first() {
        let by_site = [("layers.0.q", 10), ("layers.1.q", 10), ("layers.0.up", 1500), ("layers.1.up", 480)];
        let by_site = by_site.map(|(site, count)| (site.to_string(), count)).into();
        let rows = places(&Summary { trainable: 2000, total: 9000, by_site });
        let row = |row: &Place| format!("{} {} {} {} {}", row.path, row.sites, row.each, row.parameters, row.percent);
        assert_eq!(rows.iter().map(row).collect::<Vec<_>>(), ["layers.*.up 2 480 – 1,500 1,980 99", "layers.*.q 2 10 20 1"]);
    }
}
