//! `peft methods`.

use crate::output;
use clap::Args;
use peft_core::Result;
use serde::Serialize;

/// List the methods and their settings.
#[derive(Args)]
#[command(after_help = "Example:\n  peft methods --json")]
pub struct Methods {}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    what: &'static str,
    trained_per_layer: &'static str,
    settings: &'static str,
    hf_peft: &'static str,
    paper: &'static str,
}

const METHODS: &[Row] = &[
    Row {
        name: "lora",
        what: "low-rank change, scaled by alpha/r",
        trained_per_layer: "r (d_in + d_out)",
        settings: "r, lora_alpha, lora_dropout, bias, init_lora_weights, rank_pattern, alpha_pattern, loraplus_lr_ratio",
        hf_peft: "LORA",
        paper: "Hu et al. 2022; LoRA+ Hayou et al. 2024",
    },
    Row {
        name: "rslora",
        what: "low-rank change, scaled by alpha/sqrt(r)",
        trained_per_layer: "r (d_in + d_out)",
        settings: "as lora",
        hf_peft: "LORA, use_rslora",
        paper: "Kalajdzievski 2023",
    },
    Row {
        name: "dora",
        what: "low-rank change of the direction, trained magnitude",
        trained_per_layer: "r (d_in + d_out) + d_out",
        settings: "as lora",
        hf_peft: "LORA, use_dora",
        paper: "Liu et al. 2024",
    },
    Row {
        name: "pissa",
        what: "low-rank change from the principal components",
        trained_per_layer: "r (d_in + d_out)",
        settings: "as lora",
        hf_peft: "LORA, saved as rank 2r on the original base",
        paper: "Meng et al. 2024",
    },
    Row {
        name: "ia3",
        what: "scales of outputs, or of feed-forward inputs",
        trained_per_layer: "d_out, or d_in",
        settings: "",
        hf_peft: "IA3",
        paper: "Liu et al. 2022",
    },
    Row {
        name: "vera",
        what: "scales between shared random matrices",
        trained_per_layer: "r + d_out",
        settings: "r, lora_dropout",
        hf_peft: "VERA",
        paper: "Kopiczko et al. 2024",
    },
    Row {
        name: "bitfit",
        what: "the biases",
        trained_per_layer: "d_out where there is a bias",
        settings: "",
        hf_peft: "no",
        paper: "Ben Zaken et al. 2022",
    },
    Row {
        name: "head",
        what: "the classifier of an encoder (linear probing); writes a checkpoint",
        trained_per_layer: "none",
        settings: "",
        hf_peft: "a plain checkpoint",
        paper: "",
    },
    Row {
        name: "full",
        what: "everything; writes a checkpoint",
        trained_per_layer: "d_in d_out",
        settings: "",
        hf_peft: "a plain checkpoint",
        paper: "",
    },
];

impl Methods {
    pub fn run(self, json: bool) -> Result<()> {
        let header = ["method", "what is trained", "parameters per matrix", "HF PEFT type", "paper"];
        let mut rows = vec![header.map(String::from).to_vec()];
        rows.extend(METHODS.iter().map(|m| [m.name, m.what, m.trained_per_layer, m.hf_peft, m.paper].map(String::from).to_vec()));
        let settings = METHODS.iter().filter(|m| !m.settings.is_empty()).map(|m| vec![m.name.to_string(), m.settings.to_string()]);
        let text = format!(
            "{}\n\nSettings (all but bitfit, head and full also have target_modules, exclude_modules and layers_to_transform; all but head and full modules_to_save):\n{}",
            output::table(&rows),
            output::table(&settings.collect::<Vec<_>>())
        );
        output::print(json, &METHODS, text)
    }
}
