//! The kinds of adapters that both sides have, and how `peft` trains one.

use clap::ValueEnum;
use serde_json::json;

/// A kind of adapter; peer.py knows it under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Low-rank adaptation.
    Lora,
    /// LoRA scaled by α / √r.
    #[value(name = "rslora")]
    RsLora,
    /// Direction and magnitude apart.
    Dora,
    /// LoRA from the principal components; the base changes too.
    Pissa,
    /// Scales of activations.
    Ia3,
    /// Scales between shared random matrices.
    Vera,
    /// LoRA with full copies of the embedding and the head.
    ModulesToSave,
    /// LoRA with ranks and alphas of single modules.
    RankPattern,
}

impl Kind {
    /// The flags of `peft finetune` that train such an adapter: few steps at a high rate, so that it has an effect.
    pub fn finetune_args(self) -> Vec<&'static str> {
        let lora = ["--r", "4", "--lora-alpha", "8"];
        let method = match self {
            Self::Lora | Self::ModulesToSave | Self::RankPattern => "lora",
            Self::RsLora => "rslora",
            Self::Dora => "dora",
            Self::Pissa => "pissa",
            Self::Ia3 => "ia3",
            Self::Vera => "vera",
        };
        let mut args = vec!["--method", method, "--max-steps", "3", "--batch-size", "4", "--lr", "0.1", "--seed", "11"];
        match self {
            Self::Ia3 => args.extend(["--target-modules", "k_proj,v_proj,down_proj"]),
            Self::Vera => args.extend(["--target-modules", "q_proj,v_proj", "--r", "16"]),
            Self::Dora => args.extend(lora.iter().chain(&["--target-modules", "q_proj,v_proj,down_proj"])),
            _ => args.extend(lora.iter().chain(&["--target-modules", "q_proj,v_proj"])),
        }
        if self == Self::ModulesToSave {
            args.extend(["--modules-to-save", "lm_head,embed_tokens"]);
        }
        args
    }

    /// What has no flag: the contents of a run file.
    pub fn run_file(self) -> Option<&'static str> {
        (self == Self::RankPattern)
            .then_some("rank_pattern:\n  '.*\\.1\\..*v_proj': 6\n  q_proj: 8\nalpha_pattern:\n  'layers\\.0\\.self_attn\\.[qv]_proj': 24\n")
    }
}

/// Something to train on, as JSON lines.
pub fn training_data() -> String {
    let example = |i: usize| json!({ "prompt": format!("{i} and {}: ", i + 1), "completion": format!("the sum is {}.", 2 * i + 1) });
    (0..12).map(|i| format!("{}\n", example(i))).collect()
}
