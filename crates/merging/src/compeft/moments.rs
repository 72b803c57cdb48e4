//! Mean and deviation in one pass.

/// Count, mean and sum of squared deviations of some numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Those of a block of numbers, small enough to be read twice from the cache.
    pub fn of(block: &[f32]) -> Self {
        if block.is_empty() {
            return Self::default();
        }
        let count = block.len() as f64;
        let mean = sum(block, |x| x) / count;
        Self { count, mean, squares: sum(block, |x| (x - mean) * (x - mean)) }
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

/// In eight lanes, so that an addition need not wait for the one before.
fn sum(block: &[f32], term: impl Fn(f64) -> f64) -> f64 {
    let (eights, rest) = block.as_chunks::<8>();
    let mut lanes = [0f64; 8];
    for eight in eights {
        for (lane, x) in lanes.iter_mut().zip(eight) {
            *lane += term(f64::from(*x));
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|x| term(f64::from(*x))).sum::<f64>()
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
