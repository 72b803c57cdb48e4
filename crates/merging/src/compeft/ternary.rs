//! A vector of −s, 0 and +s as two bit planes, and what can be computed on the bits.

/// A vector whose entries are `-scale`, 0 or `scale`, in two bits each.
///
/// Bit `i % 64` of word `i / 64` of one plane says that entry `i` is positive, of the other that it is negative; never both.
///
/// ```
/// use peft_merge::compeft::Ternary;
///
/// let a = Ternary::from_signs(&[1, 0, -1, 1], 0.5);
/// let b = Ternary::from_signs(&[1, 1, 1, 0], 2.0);
/// assert_eq!(a.dot(&b), 0.0);
/// assert_eq!(a.dot(&a), 0.75);
/// assert_eq!(a.to_dense(), [0.5, 0.0, -0.5, 0.5]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Ternary {
    len: usize,
    scale: f32,
    positive: Vec<u64>,
    negative: Vec<u64>,
}

impl Ternary {
    /// A vector of `len` zeros.
    pub fn zeros(len: usize, scale: f32) -> Self {
        let words = len.div_ceil(64);
        Self { len, scale, positive: vec![0; words], negative: vec![0; words] }
    }

    /// A vector with the signs of `signs`.
    pub fn from_signs(signs: &[i8], scale: f32) -> Self {
        let mut ternary = Self::zeros(signs.len(), scale);
        for (i, sign) in signs.iter().enumerate().filter(|(_, sign)| **sign != 0) {
            ternary.put(i, *sign < 0);
        }
        ternary
    }

    /// Give entry `at`, which is 0 and inside the vector, a sign.
    pub(super) fn put(&mut self, at: usize, negative: bool) {
        // Signs are random: two writes cost less than a branch that is guessed wrong every other time.
        self.positive[at / 64] |= u64::from(!negative) << (at % 64);
        self.negative[at / 64] |= u64::from(negative) << (at % 64);
    }

    /// Give the 64 entries of word `word` that `keep` has, which are 0 and inside the vector, signs.
    pub(super) fn put_word(&mut self, word: usize, keep: u64, negative: u64) {
        self.positive[word] |= keep & !negative;
        self.negative[word] |= keep & negative;
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The magnitude of all entries but the zeros.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The same signs with another magnitude.
    pub fn with_scale(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    /// Words of which the set bits are the positive entries.
    pub fn positive(&self) -> &[u64] {
        &self.positive
    }

    /// Words of which the set bits are the negative entries.
    pub fn negative(&self) -> &[u64] {
        &self.negative
    }

    /// How many entries are not 0.
    pub fn count(&self) -> usize {
        ones(self.planes().map(|(p, n)| p | n))
    }

    /// The entries that are not 0, in order: where they are, and whether they are negative.
    pub fn signs(&self) -> impl Iterator<Item = (u64, bool)> + '_ {
        self.planes().enumerate().flat_map(|(word, (p, n))| bits(p | n).map(move |bit| (word as u64 * 64 + bit as u64, n >> bit & 1 == 1)))
    }

    /// The entries as numbers.
    pub fn to_dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.len];
        self.add_to(1.0, &mut dense);
        dense
    }

    /// Add `weight` times this vector to `sum`.
    ///
    /// # Panics
    /// If `sum` has another length.
    pub fn add_to(&self, weight: f32, sum: &mut [f32]) {
        assert_eq!(self.len, sum.len(), "vectors of different lengths");
        let step = weight * self.scale;
        for (chunk, (p, n)) in sum.chunks_mut(64).zip(self.planes()) {
            bits(p).for_each(|bit| chunk[bit] += step);
            bits(n).for_each(|bit| chunk[bit] -= step);
        }
    }

    /// The inner product with `other`: the entries where signs agree less those where they are opposed, times both scales.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(&self, other: &Self) -> f64 {
        let (agree, oppose) = self.overlap(other);
        f64::from(self.scale) * f64::from(other.scale) * (agree as f64 - oppose as f64)
    }

    /// Euclidean length.
    pub fn norm(&self) -> f64 {
        f64::from(self.scale).abs() * (self.count() as f64).sqrt()
    }

    /// The cosine of the angle to `other`, 0 if either is zero.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn cosine(&self, other: &Self) -> f64 {
        let norms = self.norm() * other.norm();
        if norms == 0.0 { 0.0 } else { self.dot(other) / norms }
    }

    /// Of the entries that neither vector has 0, the part whose signs agree; nothing if there are no such entries.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn sign_agreement(&self, other: &Self) -> Option<f64> {
        let (agree, oppose) = self.overlap(other);
        (agree + oppose > 0).then(|| agree as f64 / (agree + oppose) as f64)
    }

    /// The square of the Euclidean distance to `other`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn squared_distance(&self, other: &Self) -> f64 {
        self.norm().powi(2) + other.norm().powi(2) - 2.0 * self.dot(other)
    }

    /// How many bits of the two planes differ: 1 for an entry that only one vector has, 2 for opposed signs.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn hamming(&self, other: &Self) -> usize {
        self.pairs(other).map(|((p, n), (q, m))| ((p ^ q).count_ones() + (n ^ m).count_ones()) as usize).sum()
    }

    /// Entries where the signs agree, and where they are opposed.
    fn overlap(&self, other: &Self) -> (usize, usize) {
        self.pairs(other).fold((0, 0), |(agree, oppose), ((p, n), (q, m))| {
            let (same, opposite) = ((p & q) | (n & m), (p & m) | (n & q));
            (agree + same.count_ones() as usize, oppose + opposite.count_ones() as usize)
        })
    }

    fn pairs<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = ((u64, u64), (u64, u64))> + 'a {
        assert_eq!(self.len, other.len, "vectors of different lengths");
        self.planes().zip(other.planes())
    }

    /// The words of both planes.
    pub(super) fn planes(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.positive.iter().copied().zip(self.negative.iter().copied())
    }
}

fn ones(words: impl Iterator<Item = u64>) -> usize {
    words.map(|word| word.count_ones() as usize).sum()
}

/// The set bits of `word`, the lowest first.
pub(super) fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(bit as usize)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    /// Random signs, `density` of them not 0.
    pub fn random(len: usize, density: f64, scale: f32, seed: u64) -> Ternary {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let sign = |_| if rng.random_bool(density) { if rng.random_bool(0.5) { 1 } else { -1 } } else { 0 };
        Ternary::from_signs(&(0..len).map(sign).collect::<Vec<i8>>(), scale)
    }

    #[test]
    fn products_and_distances_are_those_of_the_numbers() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let (a, b) = (random(len, 0.4, 0.5, 1), random(len, 0.7, 3.0, 2));
            let (x, y) = (a.to_dense(), b.to_dense());
            let pairs = || x.iter().zip(&y).map(|(x, y)| (f64::from(*x), f64::from(*y)));
            let dot: f64 = pairs().map(|(x, y)| x * y).sum();
            assert_eq!(a.dot(&b), dot, "{len}");
            assert!((a.squared_distance(&b) - pairs().map(|(x, y)| (x - y).powi(2)).sum::<f64>()).abs() < 1e-6);
            let both: Vec<f64> = pairs().map(|(x, y)| x * y).filter(|product| *product != 0.0).collect();
            let agreeing = both.iter().filter(|product| **product > 0.0).count();
            assert_eq!(a.sign_agreement(&b), (!both.is_empty()).then(|| agreeing as f64 / both.len() as f64));
            let bits = |x: f64, y: f64| if x * y < 0.0 { 2 } else { usize::from((x == 0.0) != (y == 0.0)) };
            assert_eq!(a.hamming(&b), pairs().map(|(x, y)| bits(x, y)).sum::<usize>());
            assert_eq!(a.count(), x.iter().filter(|x| **x != 0.0).count());
        }
        let a = random(1000, 0.4, 0.5, 1);
        assert!((a.cosine(&a) - 1.0).abs() < 1e-12 && a.sign_agreement(&a) == Some(1.0));
        assert_eq!(a.cosine(&Ternary::zeros(1000, 1.0)), 0.0, "no direction, no angle");
    }

    #[test]
    fn entries_come_in_order_with_their_signs() {
        let a = Ternary::from_signs(&[&[0, -1, 1], vec![0; 70].as_slice(), &[-1]].concat(), 1.0);
        assert_eq!(a.signs().collect::<Vec<_>>(), [(1, true), (2, false), (73, true)]);
    }
}
