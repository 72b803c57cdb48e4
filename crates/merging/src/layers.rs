//! Which weights belong to which layer, from their names alone.

use std::collections::{BTreeMap, BTreeSet};

/// The weights of a model by layer: `PREFIX.N.SUFFIX` is a weight of layer N of the stack PREFIX.
#[derive(Debug)]
pub struct Layers {
    /// The number of layers of each stack.
    stacks: BTreeMap<String, usize>,
}

/// The place of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The stack of layers.
    pub prefix: &'a str,
    /// The layer, from 0.
    pub layer: usize,
    /// The weight within the layer.
    pub suffix: &'a str,
}

/// Where a weight is, by the first number in its name; `None` for one outside all layers.
pub fn place(key: &str) -> Option<Place<'_>> {
    let mut start = 0;
    loop {
        let dot = start + key[start..].find('.')?;
        let rest = &key[dot + 1..];
        let end = rest.find('.')?;
        if let Ok(layer) = rest[..end].parse::<u32>() {
            return Some(Place { prefix: &key[..dot], layer: layer as usize, suffix: &rest[end + 1..] });
        }
        start = dot + 1;
    }
}

/// The name of a weight at a place.
pub fn key_of(place: &Place) -> String {
    format!("{}.{}.{}", place.prefix, place.layer, place.suffix)
}

/// What is computed anew by every program, and stored by old ones.
pub fn is_ignored(key: &str) -> bool {
    ["inv_freq", "cos_cached", "sin_cached"].iter().any(|name| key.strip_suffix(name).is_some_and(|rest| rest.ends_with("rotary_emb.")))
}

/// What a weight is called today: old checkpoints of BERT call the scale and the shift of a norm gamma and beta.
pub fn current_name(key: &str) -> String {
    let old = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];
    let named = old.iter().find_map(|(old, new)| Some(format!("{}{new}", key.strip_suffix(old)?)));
    named.unwrap_or_else(|| key.to_owned())
}

/// Whether a tensor is a buffer: no weight that was learned, but positions, a mask or a count, which some versions of a program store
/// and others compute anew. Averages of it mean nothing.
pub fn is_buffer(key: &str, shape: &[usize]) -> bool {
    let (owner, name) = key.rsplit_once('.').unwrap_or(("", key));
    match name {
        "position_ids" | "token_type_ids" | "masked_bias" | "num_batches_tracked" | "relative_position_index" | "inv_freq" => true,
        "_float_tensor" => true,
        // The causal mask of GPT-2, GPT-J and GPT-NeoX; a bias proper has one axis.
        "bias" => shape.len() == 4 && ["attn", "attention"].contains(&owner.rsplit('.').next().unwrap_or_default()),
        _ => false,
    }
}

/// Whether a weight outside the layers comes before them; it then belongs to the first slice, otherwise to the last.
pub fn is_before_layers(key: &str) -> bool {
    let head = key.contains("embed_out");
    !head && ["embed", "wte", "wpe", "embd", "shared.weight", "ln_pre", "layernorm_pre"].iter().any(|part| key.contains(part))
}

impl Layers {
    /// Counts the layers of these weights.
    pub fn of<'a>(keys: impl Iterator<Item = &'a str>) -> Self {
        let mut stacks: BTreeMap<String, usize> = BTreeMap::new();
        for place in keys.filter_map(place) {
            let count = stacks.entry(place.prefix.into()).or_default();
            *count = (*count).max(place.layer + 1);
        }
        Self { stacks }
    }

    /// The number of layers of a stack.
    pub fn count(&self, prefix: &str) -> usize {
        self.stacks.get(prefix).copied().unwrap_or(0)
    }

    /// The only stack with its number of layers; the names of all if it is not the only one.
    ///
    /// # Errors
    /// The names of the stacks.
    pub fn only(&self) -> Result<(&str, usize), Vec<&str>> {
        match self.stacks.iter().collect::<Vec<_>>()[..] {
            [(prefix, count)] => Ok((prefix, *count)),
            _ => Err(self.stacks.keys().map(String::as_str).collect()),
        }
    }
}

/// The weights of one layer by their names in it.
pub fn suffixes<'a>(keys: impl Iterator<Item = &'a str>, layer: usize) -> BTreeSet<&'a str> {
    keys.filter(|key| !is_ignored(key)).filter_map(place).filter(|place| place.layer == layer).map(|place| place.suffix).collect()
}

/// How far a layer is from the first, at 0, to the last, at 1; a single layer is the last.
pub fn depth(layer: usize, count: usize) -> f64 {
    if count > 1 { layer as f64 / (count - 1) as f64 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_in_a_name_is_the_layer() {
        let found = place("model.layers.3.mlp.experts.1.w1.weight").unwrap();
        assert_eq!(found, Place { prefix: "model.layers", layer: 3, suffix: "mlp.experts.1.w1.weight" });
        assert_eq!(place("h.0.attn.c_attn.weight").unwrap().prefix, "h");
        assert_eq!(place("model.embed_tokens.weight"), None);
        assert_eq!(place("model.norm"), None);
        assert_eq!(place("score.2"), None, "a number at the end is no layer");
    }

    #[test]
    fn masks_and_positions_are_buffers_and_biases_are_not() {
        assert!(is_buffer("bert.embeddings.position_ids", &[1, 512]) && is_buffer("position_ids", &[1, 512]));
        assert!(is_buffer("h.0.attn.bias", &[1, 1, 8, 8]) && !is_buffer("encoder.attn.bias", &[8]));
        assert!(is_buffer("gpt_neox.layers.0.attention.bias", &[1, 1, 8, 8]) && !is_buffer("h.0.mlp.c_fc.bias", &[8]));
        assert!(is_ignored("model.layers.0.self_attn.rotary_emb.inv_freq") && is_ignored("rotary_emb.cos_cached"));
    }

    #[test]
    fn stacks_are_counted_apart() {
        let layers = Layers::of(["encoder.block.0.a.w", "encoder.block.4.a.w", "decoder.block.1.a.w", "shared.weight"].into_iter());
        assert_eq!((layers.count("encoder.block"), layers.count("decoder.block")), (5, 2));
        assert_eq!(layers.only().unwrap_err(), ["decoder.block", "encoder.block"]);
    }

    #[test]
    fn embeddings_come_before_the_layers_and_heads_after() {
        for key in ["model.embed_tokens.weight", "transformer.wpe.weight", "bert.embeddings.LayerNorm.bias", "gpt_neox.embed_in.weight"] {
            assert!(is_before_layers(key), "{key}");
        }
        for key in ["lm_head.weight", "model.norm.weight", "embed_out.weight", "score.weight", "transformer.ln_f.bias"] {
            assert!(!is_before_layers(key), "{key}");
        }
    }
}
