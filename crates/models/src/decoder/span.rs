//! Which keys the tokens of one call may see.

use super::config::DecoderConfig;
use burn::tensor::{Device, Tensor, TensorData};

/// What a layer attends to: the keys from `start` on, minus those that the mask hides.
///
/// Right-padded batches need no mask of their own: a padding token stands behind all tokens of its row, so causality hides it from
/// them, and what it computes itself is never read.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// The first key that any query of the call sees.
    pub start: usize,
    /// `0` where a query may look and `-∞` where not, `[1, 1, s, t - start]`; absent where all may look everywhere.
    pub mask: Option<Tensor<4>>,
}

/// The spans of full and of windowed layers for queries at positions `from..to`.
#[derive(Debug)]
pub(super) struct Spans {
    full: Option<Span>,
    windowed: Option<Span>,
}

impl Spans {
    pub fn new(config: &DecoderConfig, from: usize, to: usize, device: &Device) -> Self {
        let any = |windowed: bool| config.windowed.contains(&windowed);
        let windowed = config.sliding_window.filter(|_| any(true));
        Self {
            full: any(false).then(|| Span::new(from, to, usize::MAX, device)),
            windowed: windowed.map(|window| Span::new(from, to, window, device)),
        }
    }

    pub fn of(&self, windowed: bool) -> &Span {
        let span = if windowed { &self.windowed } else { &self.full };
        span.as_ref().expect("there is a span for every kind of layer")
    }
}

impl Span {
    fn new(from: usize, to: usize, window: usize, device: &Device) -> Self {
        let start = (from + 1).saturating_sub(window);
        // One query sees everything from `start` to itself.
        let mask = (to - from > 1).then(|| mask(from, to, start, window, device));
        Self { start, mask }
    }
}

fn mask(from: usize, to: usize, start: usize, window: usize, device: &Device) -> Tensor<4> {
    let keys = to - start;
    let mut values = vec![f32::NEG_INFINITY; (to - from) * keys];
    for (row, query) in values.chunks_exact_mut(keys).zip(from..to) {
        let first = (query + 1).saturating_sub(window).max(start);
        row[first - start..=query - start].fill(0.0);
    }
    Tensor::from_data(TensorData::new(values, [1, 1, to - from, keys]), &device.clone().without_autodiff())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(from: usize, to: usize, window: usize) -> (usize, Vec<Vec<usize>>) {
        let span = Span::new(from, to, window, &Device::default());
        let mask = span.mask.expect("several queries need a mask");
        let keys = mask.dims()[3];
        let mask = mask.try_into_vec_as::<f32>().unwrap();
        let seen = |row: &[f32]| (0..keys).filter(|k| row[*k] == 0.0).map(|k| k + span.start).collect();
        (span.start, mask.chunks(keys).map(seen).collect())
    }

    #[test]
    fn a_query_sees_itself_and_what_precedes_it() {
        assert_eq!(visible(0, 3, usize::MAX), (0, vec![vec![0], vec![0, 1], vec![0, 1, 2]]));
    }

    #[test]
    fn a_window_moves_with_the_query() {
        assert_eq!(visible(0, 4, 2), (0, vec![vec![0], vec![0, 1], vec![1, 2], vec![2, 3]]));
        assert_eq!(visible(5, 7, 3), (3, vec![vec![3, 4, 5], vec![4, 5, 6]]));
    }

    #[test]
    fn one_query_needs_no_mask() {
        let span = Span::new(9, 10, 4, &Device::default());
        assert!(span.mask.is_none());
        assert_eq!(span.start, 6);
    }
}
