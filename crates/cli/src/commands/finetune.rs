//! `peft finetune`.

use crate::loading::{ADAPTER, Text};
use crate::output;
use crate::progress::Show;
use crate::run::{MethodName, Run};
use crate::run_files;
use burn::module::Module;
use burn::tensor::DType;
use clap::Args;
use peft_adapters::PeftConfig;
use peft_core::files::{read_text, write_atomic};
use peft_core::{Context, Error, Result, Summary, adapt, device, save_adapter};
use peft_models::CausalLm;
use peft_train::data::{EncodeConfig, EncodeStats, Encoded, Encoder, read_examples};
use peft_train::{Report, Trainer};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Fine-tune a model on a JSONL file.
#[derive(Args)]
#[command(after_help = "Example:\n  peft finetune --model SmolLM2-135M --data train.jsonl --eval valid.jsonl \\\n    \
    --target-modules q_proj,v_proj --r 8 --lora-alpha 16 --epochs 2 --out my-adapter\n\n\
    The same settings can stand in a YAML file, with underscores for dashes (--config run.yaml); flags win over it.\n\
    The output directory gets adapter_config.json and adapter_model.safetensors (which HF PEFT loads), run.yaml with all\n\
    settings that were used, metrics.jsonl with one line per step, and report.html, a page about the run.")]
pub struct Finetune {
    /// A YAML file with settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub run: Run,
    /// Directory for the adapter.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Write into the output directory even if it has content.
    #[arg(long, conflicts_with = "resume")]
    pub overwrite: bool,
    /// Continue from the newest checkpoint in the output directory (see --save-steps).
    #[arg(long)]
    pub resume: bool,
    #[command(flatten)]
    pub show: Show,
}

/// What fine-tuning reports.
#[derive(Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    report: Report,
    /// Parameters that were trained.
    pub trainable_params: usize,
    /// All parameters, adapters included.
    pub total_params: usize,
    examples: EncodeStats,
    adapter_dir: PathBuf,
    /// The page about the run.
    #[serde(rename = "report", skip_serializing_if = "Option::is_none")]
    pub page: Option<PathBuf>,
}

impl Finetune {
    pub fn run(self, json: bool) -> Result<()> {
        let run = match &self.config {
            Some(file) => self.run.or(Run::read(file)?)?,
            None => self.run,
        };
        let run = run.effective();
        let outcome = finetune(&run, &self.out, self.overwrite, self.resume, &self.show)?;
        let Outcome { report, adapter_dir, page, .. } = &outcome;
        let page = page.iter().map(|page| format!("\nreport: {}", page.display())).collect::<String>();
        let eval = report.eval_loss.map(|loss| format!(", evaluation loss {loss:.4}")).unwrap_or_default();
        let text = format!(
            "{} steps in {:.1} s ({:.0} tokens/s): loss {:.4} -> {:.4}{eval}\nsaved to {}{page}",
            report.steps,
            report.seconds,
            report.tokens_per_second,
            report.train_loss_first,
            report.train_loss_last,
            adapter_dir.display()
        );
        output::print(json, &outcome, text)
    }
}

/// All settings of a run, beside its adapter.
const RUN_FILE: &str = "run.yaml";

/// Fine-tune as `run` says and save into `out`.
pub fn finetune(run: &Run, out: &Path, overwrite: bool, resume: bool, show: &Show) -> Result<Outcome> {
    let model_dir = run.required("model", &run.model)?;
    let data = run.required("data", &run.data)?;
    let method = run.method();
    let config = run.peft_config()?;
    let train_config = run.train_config();
    train_config.validate()?;
    if let Some(config) = &config {
        config.method().validate()?;
    }
    prepare(out, overwrite, resume)?;
    if resume {
        check_continues(run, &out.join(RUN_FILE))?;
    }
    let text = Text::load(model_dir)?;
    let (train, stats) = encoded(&text, run, data)?;
    let eval = run.eval.as_deref().map(|file| encoded(&text, run, file)).transpose()?.map_or(Vec::new(), |(rows, _)| rows);
    report_cuts(&stats);
    let mut samples = run_files::sample_task(run, &text)?;

    let device = device::parse(run.device.as_deref().unwrap_or("cpu"))?.autodiff();
    device.seed(run.seed.unwrap_or(0));
    let dtype = run.dtype.unwrap_or_default().dtype();
    let dtype = if method == MethodName::Full { DType::F32 } else { dtype };
    let model = CausalLm::load(model_dir, &device, Some(dtype))?;
    let (model, summary) = prepared(model, config.as_ref(), run.seed.unwrap_or(0))?;
    eprintln!("{summary}");

    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    write_atomic(&out.join(RUN_FILE), run.to_yaml()?.as_bytes())?;
    run_files::begin(out, &summary, &mut samples, &model)?;
    let trainer = Trainer::new(train_config, train, out, text.tokenizer.pad_id()).eval(eval).resume(resume).on_step(show.consumer(out)?);
    let trained = trainer.run(model)?;
    save(&trained.model, config.as_ref(), model_dir, out)?;
    let outcome = Outcome {
        report: trained.report,
        trainable_params: summary.trainable,
        total_params: summary.total,
        examples: stats,
        adapter_dir: out.into(),
        page: None,
    };
    let page = run_files::finish(out, &outcome, &mut samples, &trained.model)?;
    Ok(Outcome { page: Some(page), ..outcome })
}

/// Refuse an output directory with content, unless it may be written over or continued.
fn prepare(out: &Path, overwrite: bool, resume: bool) -> Result<()> {
    let has_content = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Error::io(out, e)),
    };
    if has_content && !overwrite && !resume {
        return Err(Error::OutputExists(out.into()));
    }
    Ok(())
}

/// Refuse to continue a run with settings that would have made another one; what only says where to compute or how often to look may change.
fn check_continues(run: &Run, file: &Path) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let settings = |run: Run| Run { eval: None, eval_steps: None, save_steps: None, samples: None, device: None, ..run }.to_yaml();
    match settings(Run::read(file)?)? == settings(run.clone())? {
        true => Ok(()),
        false => Err(Error::file(file, "--resume needs the settings of the run that it continues, which this file holds")),
    }
}

fn encoded(text: &Text, run: &Run, file: &Path) -> Result<(Vec<Encoded>, EncodeStats)> {
    let config = EncodeConfig { max_length: run.max_length.unwrap_or(512), train_on_prompt: run.train_on_prompt.unwrap_or(false) };
    let examples = read_examples(file)?;
    let mut encoder = Encoder::new(&text.tokenizer, text.template.as_ref(), config)?;
    let rows = encoder.encode_all(&examples)?;
    Ok((rows, encoder.stats()))
}

fn report_cuts(stats: &EncodeStats) {
    if stats.truncated + stats.skipped > 0 {
        eprintln!(
            "{} examples are longer than max_length and lost their end; {} had nothing left to learn and were skipped",
            stats.truncated, stats.skipped
        );
    }
}

/// The model with its adapter attached, or with all parameters trained.
fn prepared(model: CausalLm, config: Option<&PeftConfig>, seed: u64) -> Result<(CausalLm, Summary)> {
    match config {
        Some(config) => adapt(model, config.method(), &Context { name: ADAPTER.into(), ..Context::seeded(seed) }),
        None => {
            let model = model.set_require_grad(true);
            let summary = Summary::of(&model);
            Ok((model, summary))
        }
    }
}

/// Save the adapter, or the whole checkpoint after full fine-tuning.
fn save(model: &CausalLm, config: Option<&PeftConfig>, model_dir: &Path, out: &Path) -> Result<()> {
    match config {
        Some(config) => save_adapter(model, ADAPTER, &config.for_file(&model_dir.to_string_lossy(), "CAUSAL_LM"), out),
        None => {
            copy_checkpoint_files(model_dir, out)?;
            peft_models::write_weights(model, out, |_| DType::F32, crate::commands::merge_adapter::SHARD_BYTES)?;
            set_dtype(out, "float32")
        }
    }
}

/// Copy a checkpoint's small files (configuration, tokenizer), without weights.
pub fn copy_checkpoint_files(from: &Path, to: &Path) -> Result<()> {
    let entries = std::fs::read_dir(from).map_err(|e| Error::io(from, e))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
        let name = path.file_name().unwrap_or_default();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let is_index = name.to_string_lossy().ends_with(".index.json");
        if matches!(extension, "json" | "jinja" | "txt" | "model") && !is_index {
            std::fs::copy(&path, to.join(name)).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

/// Let `config.json` in `dir` name the type of the weights that were written.
fn set_dtype(dir: &Path, dtype: &str) -> Result<()> {
    let path = dir.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&read_text(&path)?).map_err(|e| Error::file(&path, e))?;
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = config.get_mut(key) {
            *value = dtype.into();
        }
    }
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::file(&path, e))?;
    write_atomic(&path, text.as_bytes())
}
