//! Golomb–Rice codes of where the entries of a sparse ternary vector are, with a bit for each sign.
//!
//! The gaps between entries that are drawn independently are distributed geometrically, for which these codes are within a
//! percent or so of the entropy. One entry is: the gap divided by 2^b in unary (so many ones and a zero), the remainder in `b` bits,
//! and the sign, 1 for negative.

use super::bits::{BitReader, BitWriter};
use super::ternary::Ternary;

/// The highest parameter that a stream may have.
const MAX_PARAMETER: u8 = 56;

/// A sparse ternary vector, compressed.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// The number of entries.
    pub len: u64,
    /// How many of them are not 0.
    pub count: u64,
    /// The parameter `b`.
    pub parameter: u8,
    /// The codes.
    pub bytes: Vec<u8>,
}

impl Packed {
    /// Compress `ternary`.
    pub fn new(ternary: &Ternary) -> Self {
        Self::encode(ternary.len() as u64, ternary.count() as u64, ternary.signs())
    }

    /// Compress `count` entries of a vector of `len`: where they are, in increasing order, and whether they are negative.
    pub fn encode(len: u64, count: u64, entries: impl Iterator<Item = (u64, bool)>) -> Self {
        let parameter = parameter(len, count);
        // An entry takes about this much; see `parameter`.
        let bits = count as f64 * (f64::from(parameter) + 2.7);
        let mut writer = BitWriter::with_capacity((bits / 8.0) as usize + 8);
        let mut next = 0;
        // Not a `for` loop: the iterator knows best how to walk through words.
        entries.for_each(|(at, negative)| {
            let (gap, b) = (at - next, u32::from(parameter));
            next = at + 1;
            let (ones, low) = (gap >> b, gap & ((1 << b) - 1));
            let length = ones + u64::from(b) + 2;
            if length <= 32 {
                let unary = ((1 << ones) - 1) << (b + 2);
                writer.push(unary | low << 1 | u64::from(negative), length as u32);
                return;
            }
            (0..ones / 32).for_each(|_| writer.push(u64::from(u32::MAX), 32));
            writer.push(((1 << (ones % 32)) - 1) << 1, (ones % 32) as u32 + 1);
            writer.push(low >> 32, b.saturating_sub(32));
            writer.push(low & u64::from(u32::MAX), b.min(32));
            writer.push(u64::from(negative), 1);
        });
        Self { len, count, parameter, bytes: writer.finish() }
    }

    /// Hand every entry that is not 0 to `sink`: where it is, in increasing order and below `len`, and whether it is negative.
    ///
    /// # Errors
    /// What is wrong with the stream: it ends early, goes on too long, has an entry beyond the end, or an impossible parameter.
    pub fn decode(&self, mut sink: impl FnMut(u64, bool)) -> Result<(), String> {
        if self.parameter > MAX_PARAMETER || self.count > self.len {
            return Err(format!("{} of {} entries with parameter {}", self.count, self.len, self.parameter));
        }
        let b = u32::from(self.parameter);
        let mut reader = BitReader::new(&self.bytes);
        let mut next = 0u64;
        for _ in 0..self.count {
            let (gap, negative) = entry(&mut reader, b);
            let at = next.checked_add(gap).filter(|at| *at < self.len);
            if reader.is_past_end() {
                return Err(format!("truncated: {} bytes do not hold {} entries", self.bytes.len(), self.count));
            }
            let at = at.ok_or_else(|| format!("an entry beyond the {} that there are", self.len))?;
            sink(at, negative);
            next = at + 1;
        }
        match reader.is_at_end() {
            true => Ok(()),
            false => Err(format!("{} bytes hold more than {} entries", self.bytes.len(), self.count)),
        }
    }

    /// As bit planes.
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode), and a length that this machine cannot address.
    pub fn unpack(&self, scale: f32) -> Result<Ternary, String> {
        let len = usize::try_from(self.len).map_err(|_| format!("{} entries do not fit this machine's memory", self.len))?;
        let mut ternary = Ternary::zeros(len, scale);
        self.decode(|at, negative| ternary.put(at as usize, negative))?;
        Ok(ternary)
    }
}

/// The next gap and sign of a stream with parameter `b`.
#[inline]
fn entry(reader: &mut BitReader, b: u32) -> (u64, bool) {
    let word = reader.peek();
    let ones = word.leading_ones();
    let length = ones + b + 2;
    if length > 57 {
        return long_entry(reader, b);
    }
    reader.skip(length);
    let rest = word << ones << 1;
    (u64::from(ones) << b | rest >> 1 >> (63 - b), rest << b >> 63 == 1)
}

/// The same for an entry that may be longer than what can be peeked at.
#[cold]
fn long_entry(reader: &mut BitReader, b: u32) -> (u64, bool) {
    let mut ones = 0u64;
    let mut leading = reader.peek().leading_ones();
    while leading >= 57 && !reader.is_past_end() {
        reader.skip(57);
        ones += 57;
        leading = reader.peek().leading_ones();
    }
    reader.skip(leading + 1);
    ones += u64::from(leading);
    let low = reader.peek() >> 1 >> (63 - b);
    reader.skip(b);
    let negative = reader.peek() >> 63 == 1;
    reader.skip(1);
    // A gap that does not fit is beyond any end.
    (if ones.leading_zeros() < b { u64::MAX } else { ones << b | low }, negative)
}

/// The best parameter for gaps between `count` of `len` entries: `1 + ⌊log2(ln(φ−1) / ln(1−p))⌋` with `p = count/len`, at least 0.
///
/// An entry then takes `b + 1/(1−(1−p)^2^b)` bits and one for its sign.
fn parameter(len: u64, count: u64) -> u8 {
    let golden = (1.0 + 5f64.sqrt()) / 2.0;
    let p = count as f64 / len.max(1) as f64;
    let best = 1.0 + ((golden - 1.0).ln() / (-p).ln_1p()).log2().floor();
    // A conversion of infinities and of NaN saturates: nothing to encode, or everything.
    if count == 0 { 0 } else { (best.max(0.0) as u8).min(MAX_PARAMETER) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compeft::ternary::tests::random;

    #[test]
    fn what_was_packed_comes_back_exactly() {
        for len in [0, 1, 7, 63, 64, 65, 129, 5000] {
            for density in [0.0, 0.001, 0.05, 0.2, 0.5, 0.9, 1.0] {
                let ternary = random(len, density, 0.5, len as u64);
                assert_eq!(Packed::new(&ternary).unpack(0.5).unwrap(), ternary, "{len} entries, density {density}");
            }
        }
    }

    #[test]
    fn gaps_longer_than_32_bits_and_codes_longer_than_a_word_come_back() {
        // One entry far away has a long remainder; many close together and one far away a long unary part.
        let far = vec![(5_000_000_000u64, true), (9_000_000_000, false)];
        let close: Vec<(u64, bool)> = (0..2000).map(|i| (i, i % 3 == 0)).chain([(4_000, false)]).collect();
        for (len, entries) in [(10_000_000_000, far), (4_001, close)] {
            let packed = Packed::encode(len, entries.len() as u64, entries.iter().copied());
            let mut found = Vec::new();
            packed.decode(|at, negative| found.push((at, negative))).unwrap();
            assert_eq!(found, entries);
        }
    }

    #[test]
    fn the_length_is_what_the_formula_says() {
        let table = [(0.05, 4, 0.339), (0.1, 3, 0.576), (0.2, 2, 0.939), (0.3, 1, 1.188), (0.5, 0, 1.5)];
        for (density, parameter, bits) in table {
            let packed = Packed::new(&random(1_000_000, density, 1.0, 3));
            assert_eq!(packed.parameter, parameter, "density {density}");
            let found = packed.bytes.len() as f64 * 8.0 / 1e6;
            assert!((found / bits - 1.0).abs() < 0.01, "density {density}: {found} bits for {bits}");
        }
    }

    #[test]
    fn a_damaged_stream_is_an_error_and_no_panic() {
        let packed = Packed::new(&random(1000, 0.2, 1.0, 4));
        let reason = |packed: Packed| packed.unpack(1.0).unwrap_err();
        let cut = packed.bytes[..packed.bytes.len() - 3].to_vec();
        assert!(reason(Packed { bytes: cut, ..packed.clone() }).contains("truncated"));
        assert!(reason(Packed { count: packed.count - 20, ..packed.clone() }).contains("hold more than"));
        assert!(reason(Packed { len: 500, ..packed.clone() }).contains("beyond the 500"));
        assert!(reason(Packed { parameter: 200, ..packed.clone() }).contains("parameter 200"));
        for seed in 0..200 {
            let noise: Vec<u8> = random(64 * 40, 0.5, 1.0, seed).positive().iter().flat_map(|word| word.to_le_bytes()).collect();
            let _ = Packed { len: 2000, count: 300, parameter: (seed % 57) as u8, bytes: noise }.decode(|at, _| assert!(at < 2000));
        }
        let ones = Packed { len: u64::MAX, count: 3, parameter: 56, bytes: vec![255; 100] };
        assert!(ones.decode(|_, _| ()).is_err());
    }
}
