//! Which elements are among the largest, without sorting them.

use crate::stack::{Block, Stack};

/// Counts of the upper half of the bits of a magnitude, whose sign is off.
const UPPER: usize = 1 << 15;
/// Counts of the lower half.
const LOWER: usize = 1 << 16;

/// The place of a rank in the order of (magnitude, index).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The magnitude at this rank.
    key: u32,
    /// How many elements of the same magnitude come before it.
    equals_before: usize,
}

impl Bound {
    /// The magnitude at this rank.
    pub fn value(self) -> f32 {
        f32::from_bits(self.key)
    }
}

/// The bits of |x|, which are in the order of |x|.
pub fn key(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// The elements at the ranks `ranks`, ascending from 0, of each of `count` lists of numbers that `numbers` writes for a block.
///
/// The ranks are below the number of elements. Two counting passes over the blocks take the place of a sort: one over the upper half
/// of the bits, one over the lower half of those that share the upper half with a rank that is looked for.
pub fn select(stack: &Stack, ranks: &[Vec<usize>], numbers: impl Fn(&Block, usize, &mut Vec<f32>) + Sync) -> Vec<Vec<Bound>> {
    let uppers = count(stack, ranks.len(), UPPER, |block, list, buffer, counts| {
        numbers(block, list, buffer);
        buffer.iter().for_each(|x| counts[(key(*x) >> 16) as usize] += 1);
    });
    // Per list and rank the upper half, and the rank among those of this half.
    let halves: Vec<Vec<(u32, usize)>> =
        ranks.iter().zip(&uppers).map(|(ranks, counts)| ranks.iter().map(|rank| locate(counts, *rank)).collect()).collect();
    let wanted: Vec<Vec<u32>> = halves.iter().map(|ranks| distinct(ranks.iter().map(|(half, _)| *half))).collect();
    let most = wanted.iter().map(Vec::len).max().unwrap_or(0);
    let lowers = count(stack, ranks.len(), most * LOWER, |block, list, buffer, counts| {
        numbers(block, list, buffer);
        for (slot, half) in wanted[list].iter().enumerate() {
            let counts = &mut counts[slot * LOWER..(slot + 1) * LOWER];
            for key in buffer.iter().map(|x| key(*x)).filter(|key| key >> 16 == *half) {
                counts[(key & 0xffff) as usize] += 1;
            }
        }
    });
    let bound = |list: usize, (half, rank): (u32, usize)| {
        let slot = wanted[list].iter().position(|h| *h == half).unwrap_or(0);
        let (lower, equals_before) = locate(&lowers[list][slot * LOWER..(slot + 1) * LOWER], rank);
        Bound { key: (half << 16) | lower, equals_before }
    };
    halves.iter().enumerate().map(|(list, ranks)| ranks.iter().map(|rank| bound(list, *rank)).collect()).collect()
}

fn count(stack: &Stack, lists: usize, len: usize, add: impl Fn(&Block, usize, &mut Vec<f32>, &mut [u64]) + Sync) -> Vec<Vec<u64>> {
    let each = |(counts, buffer): &mut (Vec<Vec<u64>>, Vec<f32>), block: &Block| {
        for (list, counts) in counts.iter_mut().enumerate() {
            add(block, list, buffer, counts);
        }
    };
    let sum = |(mut a, buffer): (Vec<Vec<u64>>, Vec<f32>), (b, _): (Vec<Vec<u64>>, Vec<f32>)| {
        a.iter_mut().flatten().zip(b.iter().flatten()).for_each(|(a, b)| *a += b);
        (a, buffer)
    };
    stack.count(|| (vec![vec![0; len]; lists], Vec::new()), each, sum).0
}

/// The class that holds `rank`, and the rank within the class.
fn locate(counts: &[u64], rank: usize) -> (u32, usize) {
    let mut before = 0;
    for (class, count) in counts.iter().enumerate() {
        let count = *count as usize;
        if rank < before + count {
            return (class as u32, rank - before);
        }
        before += count;
    }
    (counts.len() as u32 - 1, 0)
}

fn distinct(values: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut values: Vec<u32> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// The elements whose rank lies between two bounds.
#[derive(Debug)]
pub struct Band {
    empty: bool,
    low: Option<Bound>,
    high: Option<Bound>,
    /// Per block, how many elements before it have the magnitude of `low` and of `high`.
    equals: Vec<[usize; 2]>,
}

impl Band {
    /// The elements of the ranks `from..to` of each list that `numbers` writes; `to` may be the number of elements.
    pub fn of(stack: &Stack, ranks: &[(usize, usize)], numbers: impl Fn(&Block, usize, &mut Vec<f32>) + Sync) -> Vec<Self> {
        let len = stack.len();
        let asked: Vec<Vec<usize>> =
            ranks.iter().map(|(from, to)| [*from, *to].into_iter().filter(|r| (1..len).contains(r)).collect()).collect();
        let found = select(stack, &asked, &numbers);
        let bands: Vec<(Option<Bound>, Option<Bound>)> = ranks.iter().zip(&found).map(|(asked, found)| ends(asked, found, len)).collect();
        let equals = equals_per_block(stack, &bands, numbers);
        let bands = bands.into_iter().zip(equals).zip(ranks);
        bands.map(|(((low, high), equals), (from, to))| Self { empty: from >= to, low, high, equals }).collect()
    }

    /// Put zeros where an element of the block `index` is outside.
    pub fn apply(&self, index: usize, numbers: &mut [f32]) {
        match (self.low, self.high) {
            _ if self.empty => numbers.fill(0.0),
            // The common case: no two elements at the edge are equal.
            (Some(low), None) if low.equals_before == 0 => {
                numbers.iter_mut().for_each(|x| *x = if key(*x) >= low.key { *x } else { 0.0 });
            }
            (None, None) => {}
            (low, high) => {
                let [mut at_low, mut at_high] = self.equals.get(index).copied().unwrap_or_default();
                for x in numbers {
                    let key = key(*x);
                    let above = low.is_none_or(|bound| reached(key, bound, &mut at_low));
                    let below = !high.is_some_and(|bound| reached(key, bound, &mut at_high));
                    if !(above && below) {
                        *x = 0.0;
                    }
                }
            }
        }
    }
}

/// Whether an element is at or above a bound, of whose magnitude `seen` elements came before.
fn reached(key: u32, bound: Bound, seen: &mut usize) -> bool {
    if key != bound.key {
        return key > bound.key;
    }
    *seen += 1;
    *seen > bound.equals_before
}

/// Both ends of a band; the ranks 0 and `len` bound nothing.
fn ends(&(from, to): &(usize, usize), found: &[Bound], len: usize) -> (Option<Bound>, Option<Bound>) {
    let mut found = found.iter().copied();
    let mut end = |rank: usize| (1..len).contains(&rank).then(|| found.next()).flatten();
    (end(from), end(to))
}

/// Per list and block, how many elements before the block are equal to either bound; empty where no bound has equals before it.
fn equals_per_block(
    stack: &Stack,
    bands: &[(Option<Bound>, Option<Bound>)],
    numbers: impl Fn(&Block, usize, &mut Vec<f32>) + Sync,
) -> Vec<Vec<[usize; 2]>> {
    let matters = |bound: Option<Bound>| bound.filter(|bound| bound.equals_before > 0);
    if bands.iter().all(|(low, high)| matters(*low).is_none() && matters(*high).is_none()) {
        return vec![Vec::new(); bands.len()];
    }
    let per_block = stack.each(1, |block| {
        let mut buffer = Vec::new();
        let mut equal = |list: usize, (low, high): &(Option<Bound>, Option<Bound>)| {
            numbers(block, list, &mut buffer);
            [low, high].map(|bound| bound.map_or(0, |bound| buffer.iter().filter(|x| key(**x) == bound.key).count()))
        };
        bands.iter().enumerate().map(|(list, band)| equal(list, band)).collect::<Vec<_>>()
    });
    let mut before = vec![[0; 2]; bands.len()];
    let mut equals = vec![Vec::with_capacity(per_block.len()); bands.len()];
    for block in per_block {
        for ((equals, before), counts) in equals.iter_mut().zip(&mut before).zip(block) {
            equals.push(*before);
            before[0] += counts[0];
            before[1] += counts[1];
        }
    }
    equals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Numbers, Source};

    fn kept(numbers: &[f32], from: usize, to: usize) -> Vec<f32> {
        let stack = Stack {
            name: "w",
            shape: &[numbers.len()],
            base: None,
            others: vec![Source { label: "a".into(), numbers: Numbers::Slice(numbers) }],
        };
        let write = |block: &Block, _: usize, out: &mut Vec<f32>| {
            out.clear();
            out.extend_from_slice(block.others[0]);
        };
        let band = Band::of(&stack, &[(from, to)], write).pop().unwrap();
        let blocks = stack.each(1, |block| {
            let mut numbers = block.others[0].to_vec();
            band.apply(block.index, &mut numbers);
            numbers
        });
        blocks.concat()
    }

    /// The same by a stable sort.
    fn by_sorting(numbers: &[f32], from: usize, to: usize) -> Vec<f32> {
        let mut order: Vec<usize> = (0..numbers.len()).collect();
        order.sort_by(|a, b| numbers[*a].abs().total_cmp(&numbers[*b].abs()));
        let mut kept = vec![0.0; numbers.len()];
        order[from..to].iter().for_each(|i| kept[*i] = numbers[*i]);
        kept
    }

    #[test]
    fn a_band_is_what_sorting_gives_also_among_equals_and_over_blocks() {
        let spread: Vec<f32> = (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) as i32) as f32 * 1e-9).collect();
        let coarse: Vec<f32> = spread.iter().map(|x| (x * 4.0).round()).collect();
        for numbers in [&spread, &coarse] {
            for (from, to) in
                [(0, 50_000), (25_000, 50_000), (10_000, 49_500), (1, 2), (0, 0), (50_000, 50_000), (7, 7), (0, 20_000), (49_999, 50_000)]
            {
                assert_eq!(kept(numbers, from, to), by_sorting(numbers, from, to), "{from}..{to}");
            }
        }
    }
}
