//! `peft inspect`.

use crate::hub::{self, Kind};
use crate::output;
use clap::Args;
use peft_adapters::PeftConfig;
use peft_core::files::Checkpoint;
use peft_core::hf::{self, AdapterFiles};
use peft_core::{CONFIG_FILE, Error, Result, grouped};
use peft_merge::compeft::{self, EXTENSION, Entry, Expert, Settings};
use peft_models::{DecoderConfig, EncoderConfig};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Say what a checkpoint or an adapter is.
#[derive(Args)]
#[command(after_help = "Examples:\n  peft inspect SmolLM2-135M\n  peft inspect my-adapter --sites\n  \
    peft inspect HuggingFaceTB/SmolLM2-135M")]
pub struct Inspect {
    /// A checkpoint or an adapter: a directory or a hub id, org/name[@revision], which is downloaded; or a file of peft compress.
    #[arg(value_name = "DIR|ID")]
    dir: PathBuf,
    /// List every tensor.
    #[arg(long)]
    sites: bool,
}

#[derive(Serialize)]
struct Description {
    kind: &'static str,
    name: String,
    parameters: usize,
    bytes: usize,
    types: BTreeMap<String, usize>,
    settings: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorRow>>,
}

#[derive(Serialize)]
struct TensorRow {
    key: String,
    dtype: String,
    shape: Vec<usize>,
}

impl Inspect {
    pub fn run(self, json: bool) -> Result<()> {
        let dir = hub::resolve(&self.dir, Kind::Any)?.dir;
        let is_adapter = dir.join(CONFIG_FILE).exists();
        let is_compressed = dir.is_file() && dir.extension().is_some_and(|extension| extension == EXTENSION);
        let mut description = match (is_compressed, is_adapter) {
            (true, _) => compressed(&dir)?,
            (false, true) => adapter(&dir)?,
            (false, false) if peft_models::is_encoder(&dir) => encoder(&dir)?,
            (false, false) => decoder(&dir)?,
        };
        if !self.sites {
            description.tensors = None;
        }
        let text = description.text();
        output::print(json, &description, text)
    }
}

fn encoder(dir: &Path) -> Result<Description> {
    let (config, file) = (EncoderConfig::read(dir)?, Checkpoint::open(dir)?);
    let mut settings = BTreeMap::from([
        ("hidden size", config.hidden_size.to_string()),
        ("layers", config.num_hidden_layers.to_string()),
        ("heads", format!("{} of {}", config.num_attention_heads, config.hidden_size / config.num_attention_heads)),
        ("feed-forward size", config.intermediate_size.to_string()),
        ("vocabulary", config.vocab_size.to_string()),
        ("longest text", format!("{} tokens", config.max_tokens())),
    ]);
    if file.keys().any(|key| key.starts_with("classifier.")) {
        settings.insert("labels", config.labels.join(", "));
    }
    Ok(describe("checkpoint", config.architecture(), &file, settings))
}

fn decoder(dir: &Path) -> Result<Description> {
    let file = Checkpoint::open(dir)?;
    let config = DecoderConfig::read(dir)?.as_stored(&file)?;
    let rope = format!("theta {}, scaling {:?}", config.rope.theta, config.rope.scaling);
    let settings = BTreeMap::from([
        ("hidden size", config.hidden_size.to_string()),
        ("layers", config.num_hidden_layers.to_string()),
        ("heads", format!("{} of {}, {} for keys and values", config.num_attention_heads, config.head_dim, config.num_key_value_heads)),
        ("feed-forward size", config.intermediate_size.to_string()),
        ("vocabulary", config.vocab_size.to_string()),
        ("positions", config.max_position_embeddings.to_string()),
        ("tied head", config.tie_word_embeddings.to_string()),
        ("rotary embedding", rope),
    ]);
    Ok(describe("checkpoint", config.family.architecture().name.into(), &file, settings))
}

fn adapter(dir: &Path) -> Result<Description> {
    let mut config = PeftConfig::read(dir)?;
    let file = AdapterFiles::open(dir)?.tensors;
    let mut settings = BTreeMap::from([
        ("base model", config.common_mut().base_model_name_or_path.clone().unwrap_or_else(|| "not named".into())),
        ("trained modules", modules(&file).join(", ")),
    ]);
    if let PeftConfig::Lora(lora) = &config {
        settings.insert("rank", lora.r.to_string());
        settings.insert("alpha", lora.lora_alpha.to_string());
        settings.insert("variant", format!("{}{}", if lora.use_rslora { "rsLoRA " } else { "" }, if lora.use_dora { "DoRA" } else { "" }));
    }
    settings.retain(|_, value| !value.trim().is_empty());
    Ok(describe("adapter", config.method().name().into(), &file, settings))
}

fn compressed(file: &Path) -> Result<Description> {
    let expert = Expert::read(file)?;
    let bytes = std::fs::metadata(file).map_err(|e| Error::io(file, e))?.len();
    let Settings { density, alpha, mode, scope } = expert.settings;
    let settings = BTreeMap::from([
        ("compressed", format!("density {density}, alpha {alpha}, {mode:?}, {scope:?}")),
        (
            "kept",
            format!("{} signs, {:.1} times smaller than bf16", grouped(expert.kept() as usize), expert.bf16_bytes() as f64 / bytes as f64),
        ),
        ("files", expert.files.keys().cloned().collect::<Vec<_>>().join(", ")),
    ]);
    let row =
        |entry: &Entry| TensorRow { key: entry.name.clone(), dtype: format!("{:?}", entry.info.dtype), shape: entry.info.shape.clone() };
    let kind = match expert.kind {
        compeft::Kind::Adapter => "compressed adapter",
        compeft::Kind::Checkpoint => "compressed checkpoint",
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(described(kind, name, expert.entries.iter().map(row).collect(), bytes as usize, settings))
}

/// The last components of the modules that have tensors in the adapter's file.
fn modules(file: &Checkpoint) -> Vec<String> {
    let named = |key: hf::Key| key.module.rsplit('.').next().map(String::from).filter(|name| !name.is_empty());
    let mut names: Vec<String> = file.keys().filter_map(hf::Key::parse).filter_map(named).collect();
    names.sort();
    names.dedup();
    names
}

fn describe(kind: &'static str, name: String, file: &Checkpoint, settings: BTreeMap<&'static str, String>) -> Description {
    let rows: Vec<TensorRow> = file
        .keys()
        .filter_map(|key| {
            file.info(key).map(|info| TensorRow { key: key.into(), dtype: format!("{:?}", info.dtype), shape: info.shape.clone() })
        })
        .collect();
    let bytes = file.keys().filter_map(|key| file.info(key)?.num_bytes()).sum();
    described(kind, name, rows, bytes, settings)
}

fn described(
    kind: &'static str,
    name: String,
    rows: Vec<TensorRow>,
    bytes: usize,
    settings: BTreeMap<&'static str, String>,
) -> Description {
    let count = |row: &TensorRow| row.shape.iter().product::<usize>();
    let mut types = BTreeMap::new();
    for row in &rows {
        *types.entry(row.dtype.clone()).or_default() += count(row);
    }
    Description { kind, name, parameters: rows.iter().map(count).sum(), bytes, types, settings, tensors: Some(rows) }
}

impl Description {
    fn text(&self) -> String {
        let types: Vec<_> = self.types.iter().map(|(dtype, count)| format!("{} in {dtype}", grouped(*count))).collect();
        let mut rows = vec![
            vec![self.kind.to_string(), self.name.clone()],
            vec!["parameters".into(), format!("{} ({}), {} bytes", grouped(self.parameters), types.join(", "), grouped(self.bytes))],
        ];
        rows.extend(self.settings.iter().map(|(name, value)| vec![name.to_string(), value.clone()]));
        let tensors = self.tensors.iter().flatten().map(|row| vec![row.key.clone(), format!("{} {:?}", row.dtype, row.shape)]);
        rows.extend(tensors);
        output::table(&rows)
    }
}
