//! Every setting of HF PEFT's configurations: read, without effect on a loaded adapter, or refused with a reason.

use super::config::Kind;

/// What becomes of a setting.
pub(super) enum Fate {
    /// It is read; its value has this form.
    Read(Form),
    /// It says nothing about a loaded adapter; it is kept and written back.
    Kept,
    /// If it is set, the adapter means something that this library does not do, for this reason.
    Refused(&'static str),
}

/// The form of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    /// True or false; null is false, as in Python.
    Flag,
    /// A whole number from 0 on.
    Count,
    /// A number.
    Number,
    /// The share of elements that are dropped in training; HF PEFT takes less than none for none.
    Dropout,
    /// A text or null.
    Text,
    /// A list of names, an expression, or null.
    Names,
    /// A list of names or null.
    List,
    /// A number of a layer, a list of them, or null.
    Layers,
    /// Expressions with whole numbers; null is none.
    Counts,
    /// Expressions with numbers; null is none.
    Numbers,
    /// `none`, `all`, or `lora_only`; null is `none`.
    Bias,
    /// A flag or a name; null is false, as in Python.
    Start,
}

use Fate::{Kept, Read, Refused};
use Form::{Bias, Count, Counts, Dropout, Flag, Layers, List, Names, Number, Numbers, Start, Text};

/// The settings that all configurations have.
const COMMON: &[(&str, Fate)] = &[
    ("auto_mapping", Kept),
    ("base_model_name_or_path", Read(Text)),
    ("inference_mode", Read(Flag)),
    ("modules_to_save", Read(List)),
    ("peft_type", Kept),
    ("peft_version", Kept),
    ("revision", Kept),
    // HF PEFT passes over it, and over what it is in files of other versions.
    ("runtime_config", Kept),
    ("task_type", Read(Text)),
];

const TARGETS: &[(&str, Fate)] = &[
    ("exclude_modules", Read(Names)),
    // HF PEFT sets it by the type of the layer, whatever the file says.
    ("fan_in_fan_out", Read(Flag)),
    ("layers_pattern", Read(Names)),
    ("layers_to_transform", Read(Layers)),
    ("target_modules", Read(Names)),
];

const LORA: &[(&str, Fate)] = &[
    ("alora_invocation_tokens", Refused("the adapter acts only behind certain tokens of the prompt")),
    ("alpha_pattern", Read(Numbers)),
    ("arrow_config", Refused("several adapters are chosen among at every token")),
    ("bias", Read(Bias)),
    // What a start was computed with; `init_lora_weights` says whether the start matters.
    ("corda_config", Kept),
    ("enable_lora", Refused("of a fused projection only some parts are adapted")),
    ("ensure_weight_tying", Refused("the adapters of embedding and head are tied to each other")),
    ("eva_config", Kept),
    ("init_lora_weights", Read(Start)),
    ("kasa_config", Refused("the base is changed too, and there is a diagonal between the matrices")),
    ("layer_replication", Refused("layers of the base are repeated; make that model with a passthrough merge first")),
    ("loftq_config", Kept),
    ("lora_alpha", Read(Number)),
    ("lora_bias", Read(Flag)),
    ("lora_dropout", Read(Dropout)),
    // ms-swift writes the type in which it trained, and the learning rates of LoRA+.
    ("lora_dtype", Kept),
    ("lora_ga_config", Kept),
    ("lorap_emb_lr", Kept),
    ("lorap_lr_ratio", Kept),
    ("megatron_config", Refused("the layers are those of Megatron")),
    ("megatron_core", Kept),
    // Of early versions: whether evaluation merges, which changes no result.
    ("merge_weights", Kept),
    ("monteclora_config", Refused("the matrices are drawn at random around those of the file")),
    ("qalora_group_size", Kept),
    ("r", Read(Count)),
    ("rank_pattern", Read(Counts)),
    ("target_parameters", Refused("parameters without a module of their own are adapted")),
    ("trainable_token_indices", Refused("single rows of the embedding are trained")),
    ("use_bdlora", Refused("the matrices are block-diagonal")),
    ("use_dora", Read(Flag)),
    ("use_qalora", Refused("the inputs of groups are averaged")),
    ("use_rslora", Read(Flag)),
    // It changes how gradients are computed, and no output.
    ("velora_config", Kept),
];

const IA3: &[(&str, Fate)] = &[("feedforward_modules", Read(Names)), ("init_ia3_weights", Read(Flag))];

const VERA: &[(&str, Fate)] = &[
    ("bias", Refused("biases are trained beside the vectors")),
    ("d_initial", Read(Number)),
    ("init_weights", Kept),
    ("projection_prng_key", Read(Count)),
    ("r", Read(Count)),
    ("save_projection", Read(Flag)),
    ("vera_dropout", Read(Dropout)),
];

/// All settings of a kind of adapter, with what becomes of each.
pub(super) fn fields(kind: Kind) -> impl Iterator<Item = &'static (&'static str, Fate)> {
    let (targets, own): (&[_], &[_]) = match kind {
        Kind::Lora => (TARGETS, LORA),
        Kind::Ia3 => (TARGETS, IA3),
        Kind::Vera => (TARGETS, VERA),
        Kind::BitFit => (&[], &[]),
    };
    COMMON.iter().chain(targets).chain(own)
}
