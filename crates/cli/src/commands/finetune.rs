//! `peft finetune`.

use crate::data::{Data, Padding};
use crate::hub::{self, Kind, Local};
use crate::interrupt::Interrupt;
use crate::loading::{ADAPTER, Text};
use crate::output;
use crate::progress::Show;
use crate::run::{MethodName, Run};
use crate::run_files;
use burn::module::Module;
use burn::tensor::{DType, Device};
use clap::Args;
use peft_adapters::PeftConfig;
use peft_core::files::{INDEX_FILE, write_atomic};
use peft_core::{Context, Error, Result, Summary, adapt, save_adapter};
use peft_models::CausalLm;
use peft_train::{CheckpointDir, LanguageModelling, Report, Task, TrainConfig, Trained, Trainer};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Fine-tune a model on a JSONL file.
#[derive(Args)]
#[command(after_help = "Examples:\n  peft finetune --model SmolLM2-135M --data train.jsonl --eval valid.jsonl \\\n    \
    --target-modules q_proj,v_proj --r 8 --lora-alpha 16 --epochs 2 --out my-adapter\n  \
    peft finetune --model HuggingFaceTB/SmolLM2-135M --data train.jsonl --out my-adapter      # from the Hugging Face hub\n  \
    peft finetune --model bert-base-uncased --data labelled.jsonl --eval-split 0.1 --out my-classifier\n\n\
    A decoder learns to write, an encoder to label: its data are {\"text\",\"label\"} or {\"text\",\"text_pair\",\"label\"} lines.\n\
    The same settings can stand in a YAML file, with underscores for dashes (--config run.yaml); flags win over it.\n\
    The output directory gets adapter_config.json and adapter_model.safetensors (which HF PEFT loads), run.yaml with all\n\
    settings that were used, metrics.jsonl with one line per step, and report.html, a page about the run. Ctrl-C ends the run after its step and saves a\n\
    checkpoint, from which --resume goes on; a second Ctrl-C ends it at once.")]
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
    /// What became of the examples of the data file.
    examples: serde_json::Value,
    /// Examples that were evaluated on.
    eval_examples: usize,
    padding: Padding,
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
        let base = hub::resolve(run.required("model", &run.model)?, Kind::Model)?;
        let run = run.effective(&base.dir);
        let interrupt = Interrupt::listen()?;
        let outcome = finetune(&run, base, &self.out, self.overwrite, self.resume, &self.show, interrupt.stop.clone())?;
        let Outcome { report, adapter_dir, page, .. } = &outcome;
        if let Some(checkpoint) = &report.interrupted {
            let text = format!("stopped after step {}; --resume continues from {}", report.steps, checkpoint.display());
            output::print(json, &outcome, text)?;
            interrupt.exit();
        }
        let text = format!(
            "{} steps in {:.1} s ({:.0} tokens/s): loss {:.4} -> {:.4}{}\nsaved to {}{}",
            report.steps,
            report.seconds,
            report.tokens_per_second,
            report.train_loss_first,
            report.train_loss_last,
            report.evaluation.as_ref().map(|evaluation| format!(", evaluation: {evaluation}")).unwrap_or_default(),
            adapter_dir.display(),
            page.iter().map(|page| format!("\nreport: {}", page.display())).collect::<String>()
        );
        output::print(json, &outcome, text)
    }
}

/// All settings of a run, beside its adapter.
const RUN_FILE: &str = "run.yaml";

/// Fine-tune as `run` says and save into `out`.
pub fn finetune(run: &Run, base: Local, out: &Path, overwrite: bool, resume: bool, show: &Show, stop: Arc<AtomicBool>) -> Result<Outcome> {
    run.required("data", &run.data)?;
    let config = run.peft_config()?;
    let train = run.train_config();
    train.validate()?;
    if let Some(config) = &config {
        config.method().validate()?;
    }
    prepare(out, overwrite, resume)?;
    if resume {
        check_unfinished(out)?;
        check_continues(run, &out.join(RUN_FILE))?;
    }
    let start = Start { run, base, config, train, devices: run.devices()?, out, resume, show, stop };
    match peft_models::is_encoder(&start.base.dir) {
        true => super::classify::finetune(start),
        false => finetune_decoder(start),
    }
}

/// What is known before data and model are read.
pub struct Start<'a> {
    pub run: &'a Run,
    pub base: Local,
    /// The adapter; none where the base is trained itself.
    pub config: Option<PeftConfig>,
    pub train: TrainConfig,
    pub devices: Vec<Device>,
    pub out: &'a Path,
    resume: bool,
    show: &'a Show,
    stop: Arc<AtomicBool>,
}

impl Start<'_> {
    /// The device of the model, its random numbers seeded.
    pub fn device(&self) -> &Device {
        let device = &self.devices[0];
        device.seed(self.seed());
        device
    }

    pub fn seed(&self) -> u64 {
        self.run.seed.unwrap_or(0)
    }

    /// The type of the base's weights in memory: what is trained is f32.
    pub fn dtype(&self) -> DType {
        match self.run.method().trains_base() {
            true => DType::F32,
            false => self.run.dtype.unwrap_or_default().dtype(),
        }
    }

    pub fn recompute(&self) -> bool {
        self.run.gradient_checkpointing.unwrap_or(false)
    }

    /// The model with the adapter attached.
    pub fn adapted<M: Module>(&self, model: M, config: &PeftConfig) -> Result<(M, Summary)> {
        adapt(model, config.method(), &Context { name: ADAPTER.into(), ..Context::seeded(self.seed()) })
    }

    /// Make the output directory and write there what is known before training.
    pub fn begin(&self, summary: &Summary) -> Result<()> {
        eprintln!("{summary}");
        std::fs::create_dir_all(self.out).map_err(|e| Error::io(self.out, e))?;
        write_atomic(&self.out.join(RUN_FILE), self.run.to_yaml()?.as_bytes())?;
        run_files::begin(self.out, summary)
    }

    /// Train, and say how it went.
    pub fn train<M: Module + Sync + 'static, T: Task<M>>(self, model: M, task: T) -> Result<Trained<M>> {
        let trainer = Trainer::new(self.train, task, self.out).devices(self.devices).resume(self.resume).stop(self.stop);
        trainer.on_step(self.show.consumer(self.out)?).run(model)
    }
}

fn finetune_decoder(start: Start) -> Result<Outcome> {
    let Start { run, out, .. } = start;
    let base = start.base.clone();
    if run.method() == MethodName::Head {
        return Err(Error::InvalidConfig("head trains the classifier of an encoder, and this model is a decoder".into()));
    }
    let text = Text::load(&base.dir)?;
    let Data { train, eval, stats } = Data::read(&text, run)?;
    let padding = Padding::of(&start.train, train.lengths(), true)?;
    eprintln!("{stats}\n{padding}");
    let eval_examples = eval.len();
    if run.eval_split.is_some() {
        eprintln!("{eval_examples} of the examples are set aside for evaluation");
    }
    let mut samples = run_files::sample_task(run, &text)?;

    let model = CausalLm::load(&base.dir, start.device(), Some(start.dtype()))?.gradient_checkpointing(start.recompute());
    let config = start.config.clone();
    let (model, summary) = match &config {
        // A head that is trained is one of its own, where it was the embedding before, as in HF PEFT.
        Some(config) if peft_adapters::selects(config, "lm_head")? => start.adapted(model.untie(), config)?,
        Some(config) => start.adapted(model, config)?,
        None => {
            let model = model.set_require_grad(true);
            let summary = Summary::of(&model);
            (model, summary)
        }
    };
    let task = LanguageModelling::new(train, text.tokenizer.pad_id()).eval(eval);
    start.begin(&summary)?;
    samples.before(&model)?;
    run_files::save_samples(out, &samples)?;
    let Trained { model, report } = start.train(model, task)?;
    if report.interrupted.is_none() {
        samples.after(&model)?;
        run_files::save_samples(out, &samples)?;
        match &config {
            Some(config) => save_adapter(&model, ADAPTER, &adapter_config(config, &base, "CAUSAL_LM"), out)?,
            None => {
                copy_checkpoint_files(&base.dir, out)?;
                model.save(out, &base.dir, Some(DType::F32), crate::commands::merge_adapter::SHARD_BYTES)?;
            }
        }
    }
    Outcome::new(report, &summary, &stats, eval_examples, padding, out)
}

/// What an adapter's file says of it and of its base.
pub fn adapter_config(config: &PeftConfig, base: &Local, task_type: &str) -> serde_json::Value {
    let mut config = config.clone();
    if let Some(revision) = &base.revision {
        config.common_mut().unknown.insert("revision".into(), revision.as_str().into());
    }
    config.for_file(&base.name, task_type)
}

impl Outcome {
    /// Say how a run went, in its directory too.
    pub fn new(
        report: Report,
        summary: &Summary,
        stats: &impl Serialize,
        eval_examples: usize,
        padding: Padding,
        out: &Path,
    ) -> Result<Self> {
        let examples = serde_json::to_value(stats).map_err(|e| Error::InvalidConfig(e.to_string()))?;
        let Summary { trainable, total, .. } = *summary;
        let outcome = Self {
            report,
            trainable_params: trainable,
            total_params: total,
            examples,
            eval_examples,
            padding,
            adapter_dir: out.into(),
            page: None,
        };
        let page = run_files::finish(out, &outcome)?;
        Ok(Self { page: Some(page), ..outcome })
    }
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

/// Refuse to continue a run that is over: it has its adapter or weights, and no checkpoint.
fn check_unfinished(out: &Path) -> Result<()> {
    let results = ["adapter_model.safetensors", "model.safetensors", INDEX_FILE];
    let finished = results.iter().any(|name| out.join(name).exists()) && CheckpointDir::new(out.join("checkpoints")).latest().is_none();
    match finished {
        true => Err(Error::file(out, "this run is over, so that there is nothing to resume; --overwrite trains anew")),
        false => Ok(()),
    }
}

/// Refuse to continue a run with settings that would have made another one; what only says where to compute or how often to look may change.
fn check_continues(run: &Run, file: &Path) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let settings = |run: Run| {
        Run { eval: None, eval_steps: None, save_steps: None, save_total_limit: None, samples: None, device: None, ..run }.to_yaml()
    };
    match settings(Run::read(file)?)? == settings(run.clone())? {
        true => Ok(()),
        false => Err(Error::file(file, "--resume needs the settings of the run that it continues, which this file holds")),
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
