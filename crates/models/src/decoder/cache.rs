//! Keys and values of past tokens.

use burn::tensor::Tensor;

/// Keys and values of the tokens that a model has seen, per layer.
///
/// The buffers are allocated with the first token, for as many positions as the cache was made for, and tokens are written in place.
#[derive(Clone, Debug)]
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    padding: Vec<usize>,
    capacity: usize,
    len: usize,
}

impl KvCache {
    pub(super) fn new(layers: usize, padding: &[usize], capacity: usize) -> Self {
        Self { layers: vec![LayerCache::default(); layers], padding: padding.to_vec(), capacity, len: 0 }
    }

    /// Number of positions on the left of each row that nothing looks at.
    pub fn padding(&self) -> &[usize] {
        &self.padding
    }

    /// Number of positions per row, padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of positions per row that there is room for. Beyond it buffers are copied to larger ones.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many positions buffers should have to hold `needed`.
    pub(super) fn room(&self, needed: usize) -> usize {
        if needed <= self.capacity { self.capacity } else { needed.next_power_of_two() }
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

/// Keys and values of one layer, `[b, kv, room, hd]` each, filled up to the length of the cache.
#[derive(Clone, Debug, Default)]
pub(super) struct LayerCache {
    keys: Option<Tensor<4>>,
    values: Option<Tensor<4>>,
}

impl LayerCache {
    /// Write `keys` and `values: [b, kv, s, hd]` at position `at`; all up to there, from position `start` on.
    pub fn append(&mut self, keys: Tensor<4>, values: Tensor<4>, at: usize, start: usize, room: usize) -> [Tensor<4>; 2] {
        let end = at + keys.dims()[2];
        let write = |buffer: &mut Option<Tensor<4>>, new: Tensor<4>| {
            // Taken out, the buffer has one owner and is written in place; the view below is dropped before the next token.
            let grown = grown(buffer.take(), &new, at, room);
            let [b, kv, _, hd] = new.dims();
            let written = grown.slice_assign([0..b, 0..kv, at..end, 0..hd], new);
            buffer.insert(written).clone().slice_dim(2, start..end)
        };
        // The past is a constant: a graph over it would keep every step alive.
        [write(&mut self.keys, keys.detach()), write(&mut self.values, values.detach())]
    }
}

/// A buffer of `room` positions with the first `filled` of `buffer`.
fn grown(buffer: Option<Tensor<4>>, like: &Tensor<4>, filled: usize, room: usize) -> Tensor<4> {
    let [b, kv, _, hd] = like.dims();
    let empty = |buffer: &Tensor<4>| Tensor::zeros([b, kv, room, hd], (&buffer.device(), buffer.dtype()));
    match buffer {
        Some(buffer) if buffer.dims()[2] >= room => buffer,
        Some(buffer) => empty(&buffer).slice_assign([0..b, 0..kv, 0..filled, 0..hd], buffer.slice_dim(2, 0..filled)),
        None => empty(like),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_what_the_cache_was_made_for() {
        let cache = KvCache::new(1, &[0], 200);
        assert_eq!(cache.room(1), 200);
        assert_eq!(cache.room(200), 200);
        assert_eq!(cache.room(201), 256);
    }

    #[test]
    fn growing_keeps_what_was_written() {
        let device = peft_core::device::host();
        let token = |value: f64| Tensor::<4>::full([1, 1, 1, 2], value, &device);
        let mut layer = LayerCache::default();
        for position in 0..3 {
            let value = position as f64 + 1.0;
            let [keys, values] = layer.append(token(value), token(-value), position, 0, position + 1);
            let expected: Vec<f32> = (0..=position).flat_map(|p| [p as f32 + 1.0; 2]).collect();
            assert_eq!(keys.try_into_vec_as::<f32>().unwrap(), expected);
            assert_eq!(values.dims(), [1, 1, position + 1, 2]);
        }
    }
}
