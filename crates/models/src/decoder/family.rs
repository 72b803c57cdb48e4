//! Which architecture a `config.json` describes, and what its absent keys mean.

use crate::Architecture;

/// What `config.json` calls the supported architectures.
pub(crate) const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "LlamaForCausalLM", model_type: "llama", models: "Llama 1 to 3, SmolLM, SmolLM2, TinyLlama, Yi" },
    Architecture { name: "MistralForCausalLM", model_type: "mistral", models: "Mistral 7B, Mistral Nemo" },
    Architecture { name: "Qwen2ForCausalLM", model_type: "qwen2", models: "Qwen1.5, Qwen2, Qwen2.5" },
    Architecture { name: "Qwen3ForCausalLM", model_type: "qwen3", models: "Qwen3" },
];

/// The branches of the Llama family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama and SmolLM.
    Llama,
    /// Mistral: every layer may attend through a sliding window.
    Mistral,
    /// Qwen2: biases on queries, keys and values.
    Qwen2,
    /// Qwen3: normalised queries and keys.
    Qwen3,
}

/// The values of absent keys, as transformers sets them.
pub(super) struct Defaults {
    pub vocab_size: usize,
    pub intermediate_size: usize,
    /// `None`: as many as query heads.
    pub num_key_value_heads: Option<usize>,
    /// `None`: the hidden size divided among the query heads.
    pub head_dim: Option<usize>,
    pub max_position_embeddings: usize,
}

impl Family {
    const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// Names in `config.json`.
    pub fn architecture(self) -> &'static Architecture {
        &ARCHITECTURES[self as usize]
    }

    /// The family that a `config.json` names in `architectures`, in `model_type` or in both.
    pub(super) fn detect(architectures: &[String], model_type: Option<&str>) -> Result<Self, String> {
        let by_type = model_type.map(|name| Self::find(name, "model_type", |a| a.model_type)).transpose()?;
        let by_name = architectures.first().map(|name| Self::find(name, "architecture", |a| a.name)).transpose()?;
        match (by_name, by_type) {
            (Some(name), Some(model_type)) if name != model_type => Err(format!(
                "architecture `{}` and model_type `{}` contradict each other",
                name.architecture().name,
                model_type.architecture().model_type
            )),
            (Some(family), _) | (None, Some(family)) => Ok(family),
            (None, None) => Err(format!("names neither `architectures` nor `model_type`; supported: {}", names(|a| a.name))),
        }
    }

    fn find(wanted: &str, kind: &str, name: fn(&Architecture) -> &'static str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|family| name(family.architecture()) == wanted);
        let encoder = || crate::encoder::ARCHITECTURES.iter().any(|known| name(known) == wanted);
        found.ok_or_else(|| match encoder() {
            true => format!("{kind} `{wanted}` is an encoder, which writes no text; this needs a decoder: {}", names(name)),
            false => format!("{kind} `{wanted}` is not supported; supported: {}", names(name)),
        })
    }

    pub(super) fn defaults(self) -> Defaults {
        match self {
            Self::Llama => Defaults {
                vocab_size: 32_000,
                intermediate_size: 11_008,
                num_key_value_heads: None,
                head_dim: None,
                max_position_embeddings: 2_048,
            },
            Self::Mistral => Defaults {
                vocab_size: 32_000,
                intermediate_size: 14_336,
                num_key_value_heads: Some(8),
                head_dim: None,
                max_position_embeddings: 131_072,
            },
            Self::Qwen2 | Self::Qwen3 => Defaults {
                vocab_size: 151_936,
                intermediate_size: 22_016,
                num_key_value_heads: Some(32),
                head_dim: (self == Self::Qwen3).then_some(128),
                max_position_embeddings: 32_768,
            },
        }
    }
}

fn names(name: fn(&Architecture) -> &'static str) -> String {
    let names: Vec<_> = ARCHITECTURES.iter().map(|a| format!("`{}`", name(a))).collect();
    names.join(", ")
}
