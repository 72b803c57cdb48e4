//! `peft finetune`.

use crate::data::{Data, Padding};
use crate::loading::{ADAPTER, Text};
use crate::output;
use crate::run::{MethodName, Run};
use burn::module::Module;
use burn::tensor::DType;
use clap::Args;
use indicatif::ProgressBar;
use peft_adapters::PeftConfig;
use peft_core::files::{read_text, write_atomic};
use peft_core::{Context, Error, Result, Summary, adapt, device, save_adapter};
use peft_models::CausalLm;
use peft_train::data::EncodeStats;
use peft_train::{Progress, Report, Trainer};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Fine-tune a model on a JSONL file.
#[derive(Args)]
#[command(after_help = "Example:\n  peft finetune --model SmolLM2-135M --data train.jsonl --eval valid.jsonl \\\n    \
    --target-modules q_proj,v_proj --r 8 --lora-alpha 16 --epochs 2 --out my-adapter\n\n\
    The same settings can stand in a YAML file, with underscores for dashes (--config run.yaml); flags win over it.\n\
    The output directory gets adapter_config.json and adapter_model.safetensors (which HF PEFT loads), run.yaml with all\n\
    settings that were used, and metrics.jsonl with one line per step.")]
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
    /// Examples that were evaluated on.
    eval_examples: usize,
    padding: Padding,
    adapter_dir: PathBuf,
}

impl Finetune {
    pub fn run(self, json: bool) -> Result<()> {
        let run = match &self.config {
            Some(file) => self.run.or(Run::read(file)?)?,
            None => self.run,
        };
        let run = run.effective();
        let outcome = finetune(&run, &self.out, self.overwrite, self.resume)?;
        let Outcome { report, adapter_dir, .. } = &outcome;
        let eval = report.eval_loss.map(|loss| format!(", evaluation loss {loss:.4}")).unwrap_or_default();
        let text = format!(
            "{} steps in {:.1} s ({:.0} tokens/s): loss {:.4} -> {:.4}{eval}\nsaved to {}",
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
pub fn finetune(run: &Run, out: &Path, overwrite: bool, resume: bool) -> Result<Outcome> {
    let model_dir = run.required("model", &run.model)?;
    run.required("data", &run.data)?;
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
    let Data { train, eval, stats } = Data::read(&text, run)?;
    let padding = Padding::of(&train_config, &train)?;
    eprintln!("{stats}\n{padding}");
    let eval_examples = eval.len();
    if run.eval_split.is_some() {
        eprintln!("{eval_examples} of the examples are set aside for evaluation");
    }

    let device = device::parse(run.device.as_deref().unwrap_or("cpu"))?.autodiff();
    device.seed(run.seed.unwrap_or(0));
    let dtype = run.dtype.unwrap_or_default().dtype();
    let dtype = if method == MethodName::Full { DType::F32 } else { dtype };
    let model = CausalLm::load(model_dir, &device, Some(dtype))?;
    let (model, summary) = prepared(model, config.as_ref(), run.seed.unwrap_or(0))?;
    eprintln!("{summary}");

    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    write_atomic(&out.join(RUN_FILE), run.to_yaml()?.as_bytes())?;
    let bar = output::bar(0, "training");
    let trainer = Trainer::new(train_config, train, out, text.tokenizer.pad_id()).eval(eval).resume(resume).on_step(show(bar.clone()));
    let trained = trainer.run(model)?;
    bar.finish_and_clear();
    save(&trained.model, config.as_ref(), model_dir, out)?;
    Ok(Outcome {
        report: trained.report,
        trainable_params: summary.trainable,
        total_params: summary.total,
        examples: stats,
        eval_examples,
        padding,
        adapter_dir: out.into(),
    })
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
    let settings = |run: Run| Run { eval: None, eval_steps: None, save_steps: None, device: None, ..run }.to_yaml();
    match settings(Run::read(file)?)? == settings(run.clone())? {
        true => Ok(()),
        false => Err(Error::file(file, "--resume needs the settings of the run that it continues, which this file holds")),
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

/// Progress as a bar on a terminal, as a line now and then elsewhere.
fn show(bar: ProgressBar) -> impl FnMut(&Progress) + Send {
    let interactive = output::is_interactive();
    move |progress| {
        let eval = progress.eval_loss.map(|loss| format!(", evaluation {loss:.4}")).unwrap_or_default();
        let text = format!("loss {:.4}{eval}, {:.0} tokens/s", progress.loss, progress.tokens_per_second);
        if interactive {
            bar.set_length(progress.total_steps as u64);
            bar.set_position(progress.step as u64);
            bar.set_message(text);
        } else if progress.step == 1 || progress.step == progress.total_steps || progress.step.is_multiple_of(every(progress.total_steps)) {
            eprintln!("step {}/{}: {text}", progress.step, progress.total_steps);
        }
    }
}

/// About ten lines for a whole run.
fn every(total: usize) -> usize {
    total.div_ceil(10).max(1)
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
