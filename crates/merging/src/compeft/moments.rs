//! Mean and deviation in one pass.

/// Count, mean and sum of squared deviations of some numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Those of some numbers, from sums of their differences to the first: exact where all are equal.
    pub fn of(block: &[f32]) -> Self {
        let Some(first) = block.first().map(|x| f64::from(*x)) else { return Self::default() };
        // In eight lanes, so that an addition need not wait for the one before.
        let (mut sums, mut squares) = ([0f64; 8], [0f64; 8]);
        let mut add = |lane: usize, x: f32| {
            let difference = f64::from(x) - first;
            sums[lane] += difference;
            squares[lane] += difference * difference;
        };
        let (eights, rest) = block.as_chunks::<8>();
        eights.iter().for_each(|eight| (0..8).for_each(|lane| add(lane, eight[lane])));
        rest.iter().for_each(|x| add(0, *x));
        let (sum, count) = (sums.iter().sum::<f64>(), block.len() as f64);
        Self { count, mean: first + sum / count, squares: (squares.iter().sum::<f64>() - sum * sum / count).max(0.0) }
    }

    /// Those of both, by the formula of Chan, Golub and LeVeque.
    pub fn and(self, other: Self) -> Self {
        if other.count == 0.0 {
            return self;
        }
        let (count, delta) = (self.count + other.count, other.mean - self.mean);
        Self {
            count,
            mean: self.mean + delta * other.count / count,
            squares: self.squares + other.squares + delta * delta * self.count * other.count / count,
        }
    }

    /// Standard deviation with `n - 1`, as torch's `std`; 0 for fewer than two numbers.
    pub fn deviation(&self) -> f64 {
        if self.count < 2.0 { 0.0 } else { (self.squares / (self.count - 1.0)).sqrt() }
    }

    /// Whether all numbers were finite.
    pub fn is_finite(&self) -> bool {
        self.mean.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_together_have_the_deviation_of_the_whole() {
        let numbers: Vec<f32> = (0..1001).map(|i| (i as f32 * 0.7).sin() + 100.0).collect();
        let parts = numbers.chunks(64).map(Moments::of).fold(Moments::default(), Moments::and);
        let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / 1001.0;
        let expected = (numbers.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 1000.0).sqrt();
        assert!((parts.deviation() / expected - 1.0).abs() < 1e-12);
        let equal = [0.1f32; 1000].chunks(64).map(Moments::of).fold(Moments::default(), Moments::and);
        assert_eq!(equal.deviation(), 0.0);
        assert_eq!(Moments::default().deviation(), 0.0);
        assert!(!Moments::of(&[1.0, f32::NAN]).is_finite() && !Moments::of(&[f32::INFINITY]).is_finite());
    }
}
