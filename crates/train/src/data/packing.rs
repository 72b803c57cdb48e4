//! Short sequences side by side in rows of one length.

use super::sampler::shuffle;
use peft_core::{Error, Result, seed};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Distribute sequences over rows of at most `capacity` tokens: the longest first, each into the fullest row that has room for it
/// (best-fit decreasing). Each row lists the indices of its sequences.
///
/// Which of several sequences of one length share a row with which others is drawn by the seed; the rows come in no useful order.
///
/// # Errors
/// [`Error::InvalidConfig`] if a sequence is longer than a row.
pub fn pack(lengths: &[u32], capacity: usize, seed: u64) -> Result<Vec<Vec<usize>>> {
    if let Some(long) = lengths.iter().find(|length| **length as usize > capacity) {
        return Err(Error::InvalidConfig(format!("a sequence of {long} tokens does not fit in packed rows of {capacity}")));
    }
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    shuffle(&mut order, &mut seed::rng(seed, "packing"));
    order.sort_by_key(|example| Reverse(lengths[*example]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut by_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for example in order {
        let length = lengths[example] as usize;
        let (row, room) = fullest(&mut by_room, length).unwrap_or_else(|| {
            rows.push(Vec::new());
            (rows.len() - 1, capacity)
        });
        rows[row].push(example);
        by_room.entry(room - length).or_default().push(row);
    }
    Ok(rows)
}

/// Take out the row with the least room that has room for `length`, and its room.
fn fullest(by_room: &mut BTreeMap<usize, Vec<usize>>, length: usize) -> Option<(usize, usize)> {
    let (&room, rows) = by_room.range_mut(length..).next()?;
    let row = rows.pop();
    if rows.is_empty() {
        by_room.remove(&room);
    }
    row.map(|row| (row, room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_come_first_and_the_fullest_row_that_fits_takes_each() {
        // 7 | 6 | then 4 beside the 6, 3 beside the 7, and the 2 fits in neither.
        let rows = pack(&[2, 4, 7, 3, 6], 10, 0).unwrap();
        assert_eq!(rows, [vec![2, 3], vec![4, 1], vec![0]]);
    }

    #[test]
    fn every_sequence_is_in_one_row_and_no_row_is_too_long() {
        let lengths: Vec<u32> = (0..500).map(|i| 1 + i * i % 97).collect();
        let rows = pack(&lengths, 100, 3).unwrap();
        assert!(rows.iter().all(|row| row.iter().map(|i| lengths[*i]).sum::<u32>() <= 100));
        let mut all = rows.concat();
        all.sort_unstable();
        assert_eq!(all, (0..500).collect::<Vec<_>>());
        let filled = lengths.iter().sum::<u32>() as f64 / (100 * rows.len()) as f64;
        assert!(filled > 0.98, "{filled}");
    }

    #[test]
    fn the_seed_determines_who_shares_a_row() {
        let lengths = [5; 40];
        assert_eq!(pack(&lengths, 20, 1).unwrap(), pack(&lengths, 20, 1).unwrap());
        assert_ne!(pack(&lengths, 20, 1).unwrap(), pack(&lengths, 20, 2).unwrap());
    }

    #[test]
    fn a_sequence_that_fits_nowhere_is_an_error() {
        let error = pack(&[3, 11], 10, 0).unwrap_err().to_string();
        assert_eq!(error, "invalid configuration: a sequence of 11 tokens does not fit in packed rows of 10");
    }
}
