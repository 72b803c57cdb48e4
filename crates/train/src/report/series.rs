//! Series of numbers made fit to be drawn.

/// Steps with their values.
pub(super) type Series = Vec<(f64, f64)>;

/// Steps over which a series of `length` is smoothed: a twenty-fifth, so that the eye sees the course and not the batches.
pub(super) fn span(length: usize) -> usize {
    (length / 25).clamp(1, 500)
}

/// Exponential moving average over about `span` steps, which begins at the first value and not at 0.
pub(super) fn smoothed(series: &[(f64, f64)], span: usize) -> Series {
    let alpha = 2.0 / (span as f64 + 1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut average = |value: f64| {
        sum += alpha * (value - sum);
        weight += alpha * (1.0 - weight);
        sum / weight
    };
    series.iter().map(|(step, value)| (*step, average(*value))).collect()
}

/// At most some `most` points that look the same: of each stretch the lowest and the highest, and both ends.
pub(super) fn thinned(series: &[(f64, f64)], most: usize) -> Series {
    if series.len() <= most {
        return series.to_vec();
    }
    let (first, last) = (series[0], series[series.len() - 1]);
    let inner = &series[1..series.len() - 1];
    let mut points = vec![first];
    for stretch in inner.chunks(inner.len().div_ceil((most / 2).max(1))) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let low = stretch.iter().min_by(by_value).expect("chunks are not empty");
        let high = stretch.iter().max_by(by_value).expect("chunks are not empty");
        let (early, late) = if low.0 <= high.0 { (low, high) } else { (high, low) };
        points.push(*early);
        if early != late {
            points.push(*late);
        }
    }
    points.push(last);
    points
}

/// The values without outliers: those farther from the middle 98 % than these are wide.
pub(super) fn usual(series: &[(f64, f64)]) -> Vec<f64> {
    let mut values: Vec<f64> = series.iter().map(|(_, value)| *value).collect();
    values.sort_by(f64::total_cmp);
    let cut = if values.len() >= 50 { values.len().div_ceil(100) } else { 0 };
    if let [low, .., high] = values[cut..values.len() - cut] {
        let width = high - low;
        values.retain(|value| (low - width..=high + width).contains(value));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noisy(length: usize) -> Series {
        (1..=length).map(|i| (i as f64, 2.0 + if i % 2 == 0 { 0.5 } else { -0.5 })).collect()
    }

    #[test]
    fn smoothing_takes_the_noise_and_leaves_the_level() {
        let smooth = smoothed(&noisy(400), span(400));
        assert!(smooth[200..].iter().all(|(_, value)| (value - 2.0).abs() < 0.1));
        assert!((smooth[0].1 - 1.5).abs() < 1e-9, "it begins where the series begins");
        assert_eq!(smoothed(&noisy(9), span(9)), noisy(9), "a short series stays as it is");
    }

    #[test]
    fn thinning_keeps_extremes_ends_and_order() {
        let mut series = noisy(100_000);
        series[77_777].1 = 9.0;
        let thin = thinned(&series, 800);
        assert!(thin.len() <= 810, "{}", thin.len());
        assert!(thin.contains(&(77_778.0, 9.0)));
        assert_eq!((thin[0], thin[thin.len() - 1]), (series[0], series[99_999]));
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn a_spike_does_not_count_as_usual() {
        let mut series = noisy(100);
        series[3].1 = 1000.0;
        series[4].1 = 3.1;
        let values = usual(&series);
        assert_eq!((values.len(), values.last()), (99, Some(&3.1)));
    }
}
