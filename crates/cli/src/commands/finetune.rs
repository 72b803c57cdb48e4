//! `peft finetune`.

use super::report::PAGE_FILE;
use crate::data::{Data, Padding};
use crate::hub::{self, Kind, Local};
use crate::interrupt::Interrupt;
use crate::loaded::LABELS_FILE;
use crate::loading::{ADAPTER, Text};
use crate::output;
use crate::progress::Show;
use crate::run::{MethodName, Run};
use crate::run_checks;
use crate::run_files;
use crate::run_state::{self, RunState, STATE_FILE, write_json};
use burn::module::Module;
use burn::tensor::{DType, Device};
use clap::Args;
use peft_adapters::PeftConfig;
use peft_core::files::{Inputs, RunDir, copy_checkpoint_files};
use peft_core::{CONFIG_FILE, Context, Error, Result, Summary, TENSOR_FILE, adapt, save_adapter};
use peft_models::CausalLm;
use peft_train::report::{METRICS_FILE, PARAMETERS_FILE, SAMPLES_FILE, SETTINGS_FILE, SUMMARY_FILE};
use peft_train::{LanguageModelling, Report, Task, TrainConfig, Trained, Trainer};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

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
    #[serde(serialize_with = "output::path")]
    adapter_dir: PathBuf,
    /// The page about the run.
    #[serde(rename = "report", skip_serializing_if = "Option::is_none", serialize_with = "output::some_path")]
    pub page: Option<PathBuf>,
}

/// How a call of `finetune` ends.
pub enum Ended {
    /// It has trained, to the end or to an interrupt.
    Trained(Box<Outcome>),
    /// An earlier call had trained to the end and saved everything but had not put it into place: its outcome.
    Before(Value),
}

impl Finetune {
    pub fn run(self, json: bool) -> Result<()> {
        if let Some((name, value)) = self.run.not_finite() {
            return Err(Error::InvalidConfig(format!("`{name}` is {value}; it must be a finite number")));
        }
        let run = match &self.config {
            Some(file) => self.run.or(Run::read(file)?)?,
            None => self.run,
        };
        let base = hub::resolve(run.required("model", &run.model)?, Kind::Model)?;
        let run = run.effective(&base.dir);
        let interrupt = Interrupt::listen()?;
        let place = prepare(&run, &base, self.config.as_deref(), &self.out, self.overwrite, self.resume)?;
        let outcome = match finetune(&run, base, &self.out, place, self.resume, &self.show, interrupt.stop.clone())? {
            Ended::Trained(outcome) => *outcome,
            Ended::Before(outcome) => {
                let text = format!("this run was over already; what it has learned is in {} now", self.out.display());
                return output::print(json, &outcome, text);
            }
        };
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

/// Fine-tune as `run` says and save into `out`, which is free.
pub fn finetune_new(run: &Run, base: Local, out: &Path, show: &Show) -> Result<Outcome> {
    let place = prepare(run, &base, None, out, false, false)?;
    match finetune(run, base, out, place, false, show, Arc::default())? {
        Ended::Trained(outcome) => Ok(*outcome),
        Ended::Before(_) => Err(Error::OutputExists(out.into())),
    }
}

/// Fine-tune as `run` says and save into `out`, of which `place` is the right to.
fn finetune(run: &Run, base: Local, out: &Path, place: RunDir, resume: bool, show: &Show, stop: Arc<AtomicBool>) -> Result<Ended> {
    run.required("data", &run.data)?;
    let encoder = peft_models::is_encoder(&base.dir);
    run_checks::check(run, encoder)?;
    let config = run.peft_config();
    let train = run.train_config();
    train.validate()?;
    if let Some(config) = &config {
        config.method().validate()?;
    }
    let devices = run.devices()?;
    if let Some(outcome) = if resume { run_state::complete(out)? } else { None } {
        place.finish()?;
        return Ok(Ended::Before(outcome));
    }
    let earlier = if resume { RunState::read(out)? } else { None };
    let goes_on = resume && earlier.as_ref().is_none_or(RunState::has_begun);
    if goes_on {
        run_state::check_unfinished(earlier.as_ref(), out)?;
        run_state::check_continues(run, &out.join(SETTINGS_FILE))?;
    }
    let state = earlier.unwrap_or_else(RunState::now);
    let start = Start { run, base, config, train, devices, out, place: &place, resume: goes_on, show, stop, state };
    let outcome = match encoder {
        true => super::classify::finetune(start),
        false => finetune_decoder(start),
    }?;
    place.finish()?;
    Ok(Ended::Trained(Box::new(outcome)))
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
    place: &'a RunDir,
    resume: bool,
    show: &'a Show,
    stop: Arc<AtomicBool>,
    state: RunState,
}

impl Start<'_> {
    /// When the run began, at its first call: the date that chat templates write.
    pub fn began(&self) -> SystemTime {
        self.state.began()
    }

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
    pub fn begin(&mut self, summary: &Summary) -> Result<()> {
        output::note(summary);
        self.place.begin(&FILES)?;
        let settings = self.run.to_yaml()?;
        self.state = self.state.clone().on(&self.base.dir, self.run.save_total_limit.is_some())?;
        match self.resume {
            true => self.state.go_on(self.out, &settings)?,
            false => self.state.begin(self.out, &settings)?,
        }
        write_json(&self.out.join(PARAMETERS_FILE), summary)
    }

    /// Train, and say how it went.
    pub fn train<M: Module + Sync + 'static, T: Task<M>>(&self, model: M, task: T) -> Result<Trained<M>> {
        let trainer = Trainer::new(self.train.clone(), task, self.out).devices(self.devices.clone());
        trainer.resume(self.resume).stop(self.stop.clone()).on_step(self.show.consumer(self.out)?).run(model)
    }

    /// Say how a run went; of one that is over, `save` writes what it has learned into the directory that it gets.
    pub fn end(&self, outcome: Outcome, save: impl FnOnce(&Path) -> Result<()>) -> Result<Outcome> {
        let page = match outcome.report.interrupted {
            Some(_) => run_files::interrupted(self.out, &outcome)?,
            None => self.state.finish(self.place, self.out, &outcome, save)?,
        };
        Ok(Outcome { page: Some(page), ..outcome })
    }
}

fn finetune_decoder(mut start: Start) -> Result<Outcome> {
    let Start { run, out, .. } = start;
    let base = start.base.clone();
    if run.method() == MethodName::Head {
        return Err(Error::InvalidConfig("head trains the classifier of an encoder, and this model is a decoder".into()));
    }
    let mut text = Text::load(&base.dir)?;
    text.template = text.template.map(|template| template.with_now(start.began()));
    let Data { train, eval, stats } = Data::read(&text, run)?;
    let padding = Padding::of(&start.train, train.lengths(), true)?;
    output::note(format_args!("{stats}\n{padding}"));
    let eval_examples = eval.len();
    if run.eval_split.is_some() {
        output::note(format_args!("{eval_examples} of the examples are set aside for evaluation"));
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
    }
    let outcome = Outcome::new(report, &summary, &stats, eval_examples, padding, out)?;
    start.end(outcome, |dir| match &config {
        Some(config) => save_adapter(&model, ADAPTER, &adapter_config(config, &base, "CAUSAL_LM"), dir),
        None => {
            copy_checkpoint_files(&base.dir, dir)?;
            model.save(dir, &base.dir, Some(DType::F32), crate::commands::merge_adapter::SHARD_BYTES).map(drop)
        }
    })
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
    /// How a run went.
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
        Ok(Self {
            report,
            trainable_params: trainable,
            total_params: total,
            examples,
            eval_examples,
            padding,
            adapter_dir: out.into(),
            page: None,
        })
    }
}

/// What a run writes before it trains; of these `metrics.jsonl` is empty until then.
const PREPARATION: [&str; 4] = [STATE_FILE, SETTINGS_FILE, PARAMETERS_FILE, SAMPLES_FILE];
/// What a run may leave in its directory, beside the weights.
const FILES: [&str; 12] = [
    STATE_FILE,
    SETTINGS_FILE,
    PARAMETERS_FILE,
    SAMPLES_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    PAGE_FILE,
    CONFIG_FILE,
    TENSOR_FILE,
    LABELS_FILE,
    DIRECTORIES[0],
    DIRECTORIES[1],
];
/// Those of them that are directories, and removed as a whole.
const DIRECTORIES: [&str; 2] = ["checkpoints/", "finished/"];

/// Whether a file lies in a directory, however both are named.
fn is_in(file: &Path, dir: &Path) -> bool {
    let parent = file.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let place = |path: &Path| path.canonicalize().ok();
    parent.and_then(place).is_some_and(|parent| place(dir) == Some(parent))
}

/// The output directory: refused with content, unless it may be written over or continued, and where it would harm an input.
fn prepare(run: &Run, base: &Local, config: Option<&Path>, out: &Path, overwrite: bool, resume: bool) -> Result<RunDir> {
    let inputs = Inputs::none().and("the model", &base.dir).and_maybe("the data", run.data.as_ref());
    let inputs = inputs.and_maybe("the evaluation data", run.eval.as_ref());
    // A run may be given the settings that it, or the run that it replaces, has written: it writes them again.
    let own = |file: &&Path| is_in(file, out) && (resume || file.file_name() == Some(SETTINGS_FILE.as_ref()));
    let config = config.filter(|file| !own(file));
    let place = RunDir::open(out, overwrite || resume, &PREPARATION, &inputs.and_maybe("the settings", config))?;
    // A run of an earlier version has no list of its files.
    let is_run = [SETTINGS_FILE, METRICS_FILE].iter().all(|name| out.join(name).is_file());
    if !is_run {
        place.check_own(&DIRECTORIES)?;
    }
    if run.method().trains_base() {
        place.check_weights()?;
    }
    Ok(place)
}
