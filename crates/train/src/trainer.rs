//! The trainer: burn-train's learner over token batches, with the steps counted, logged, evaluated and saved in the optimise step.

use crate::data::{Batcher, Encoded, Examples, Plan, Position};
use crate::evaluate;
use crate::hooks::{ClipGlobalNorm, Hook, Retie, global_norm};
use crate::loader::{BatchSource, Loader, Nothing, Share};
use crate::memory::peak_memory_bytes;
use crate::optimizer::OptimizerConfig;
use crate::quiet::Quiet;
use crate::resume::{CheckpointDir, State};
use burn::module::{Module, ModuleDisplay};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use burn_train::logger::InMemoryMetricLogger;
use burn_train::{InferenceStep, Interrupter, Learner, SupervisedTraining, TrainOutput, TrainStep};
use peft_core::{Error, LanguageModel, Result, has_shared, penalty};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::fmt::Debug;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Settings of a run.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct TrainConfig {
    /// Passes over the data.
    pub epochs: usize,
    /// Optimizer steps in all, in place of `epochs`.
    pub max_steps: Option<usize>,
    /// Examples in one batch.
    pub batch_size: usize,
    /// Batches to one optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Put several examples into each row of up to this many tokens. A batch then has `batch_size` such rows.
    pub packing: Option<usize>,
    /// Put examples of similar length into a batch.
    pub group_by_length: bool,
    /// Evaluate every so many steps, besides the end.
    pub eval_steps: Option<usize>,
    /// Write a checkpoint to resume from every so many steps.
    pub save_steps: Option<usize>,
    /// Determines the order of the data and every random number.
    pub seed: u64,
    /// The optimizer.
    #[serde(flatten)]
    pub optimizer: OptimizerConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            max_steps: None,
            batch_size: 8,
            gradient_accumulation_steps: 1,
            packing: None,
            group_by_length: false,
            eval_steps: None,
            save_steps: None,
            seed: 0,
            optimizer: OptimizerConfig::default(),
        }
    }
}

impl TrainConfig {
    /// Check the ranges.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("epochs", Some(self.epochs)),
            ("max_steps", self.max_steps),
            ("batch_size", Some(self.batch_size)),
            ("gradient_accumulation_steps", Some(self.gradient_accumulation_steps)),
            ("eval_steps", self.eval_steps),
            ("save_steps", self.save_steps),
            ("packing", self.packing),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == Some(0)) {
            return Err(Error::InvalidConfig(format!("{name} must be at least 1")));
        }
        if self.packing.is_some() && self.group_by_length {
            return Err(Error::InvalidConfig("packing leaves nothing to group by length; choose one of them".into()));
        }
        self.optimizer.validate()
    }

    /// The batches that a run makes of examples of these lengths.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without examples, or if one does not fit in a packed row.
    pub fn plan(&self, lengths: &[u32]) -> Result<Plan> {
        match self.packing {
            Some(capacity) => Plan::packed(lengths, capacity, self.batch_size, self.seed),
            None if self.group_by_length => Plan::grouped(lengths, self.batch_size, self.seed),
            None => Plan::shuffled(lengths.len(), self.batch_size, self.seed),
        }
    }
}

/// What a run reports at each step.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// Optimizer steps taken.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Mean cross-entropy of the step's tokens, in nats.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of all gradients together before clipping.
    pub grad_norm: f64,
    /// Tokens of the step, without padding.
    pub tokens: usize,
    /// Tokens per second since the run began.
    pub tokens_per_second: f64,
    /// Loss on the evaluation data, where it was measured at this step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
}

/// The outcome of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Optimizer steps of the whole run, earlier parts of a resumed one included.
    pub steps: usize,
    /// Loss of the first step.
    pub train_loss_first: f64,
    /// Loss of the last step.
    pub train_loss_last: f64,
    /// Loss on the evaluation data after the last step.
    pub eval_loss: Option<f64>,
    /// Tokens trained on, without padding.
    pub tokens: usize,
    /// Seconds of training, without evaluation.
    pub seconds: f64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Largest resident memory of the process, where the system tells it.
    pub peak_memory_bytes: Option<u64>,
}

/// A trained model, in validation mode, and its report.
pub struct Trained<M> {
    /// The model.
    pub model: M,
    /// The report.
    pub report: Report,
}

/// A run about to begin.
pub struct Trainer<M> {
    config: TrainConfig,
    train: Examples,
    eval: Vec<Encoded>,
    directory: PathBuf,
    pad_id: u32,
    resume: bool,
    hooks: Vec<Box<dyn Hook<M>>>,
    on_step: Box<dyn FnMut(&Progress) + Send>,
}

impl<M: LanguageModel + ModuleDisplay + 'static> Trainer<M> {
    /// Train on these examples; `metrics.jsonl` and checkpoints go into `directory`, which must exist.
    pub fn new(config: TrainConfig, train: impl Into<Examples>, directory: impl Into<PathBuf>, pad_id: u32) -> Self {
        let hooks: Vec<Box<dyn Hook<M>>> = Vec::new();
        Self {
            config,
            train: train.into(),
            eval: Vec::new(),
            directory: directory.into(),
            pad_id,
            resume: false,
            hooks,
            on_step: Box::new(|_| {}),
        }
    }

    /// Evaluate on these sequences.
    pub fn eval(mut self, eval: Vec<Encoded>) -> Self {
        self.eval = eval;
        self
    }

    /// Continue from the newest checkpoint in the directory, if there is one.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Take part in the optimise step, after the hooks added before.
    pub fn hook(mut self, hook: impl Hook<M> + 'static) -> Self {
        self.hooks.push(Box::new(hook));
        self
    }

    /// Be told of each step.
    pub fn on_step(mut self, on_step: impl FnMut(&Progress) + Send + 'static) -> Self {
        self.on_step = Box::new(on_step);
        self
    }

    /// Train what the model says requires gradients.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for settings out of range, a model on a device without autodiff or without anything to train;
    /// [`Error::NonFinite`] at the first loss that is not a number; [`Error::Io`].
    pub fn run(self, model: M) -> Result<Trained<M>> {
        self.config.validate()?;
        let device = model.devices().into_iter().next().unwrap_or_default();
        if !device.is_autodiff() {
            return Err(Error::InvalidConfig("the model is on a device without autodiff; load it on `device.autodiff()`".into()));
        }
        device.seed(self.config.seed);
        let plan = self.config.plan(self.train.lengths())?;
        let steps_per_epoch = plan.batches_per_epoch().div_ceil(self.config.gradient_accumulation_steps);
        let total_steps = self.config.max_steps.unwrap_or(self.config.epochs * steps_per_epoch);

        let checkpoints = CheckpointDir::new(self.directory.join("checkpoints"));
        let fingerprint = fingerprint(&self.config, &self.train);
        let interrupter = Interrupter::new();
        let run = Handle::new(Run::<M> {
            metrics: None,
            batcher: Batcher::new(device.clone(), self.pad_id),
            hooks: self.hooks,
            on_step: self.on_step,
            eval: self.eval,
            checkpoints: checkpoints.clone(),
            fingerprint: fingerprint.clone(),
            interrupter: interrupter.clone(),
            losses: Vec::new(),
            report: Report { train_loss_first: f64::NAN, ..Report::default() },
            total_steps,
            steps_per_epoch,
            began: Instant::now(),
            aside: Duration::ZERO,
            error: None,
            config: self.config.clone(),
        });
        let mut tuned = Tuned { model, run: run.clone() };
        let mut optimizer = self.config.optimizer.optimizer(&tuned);
        let mut state = None;
        if self.resume {
            (tuned, optimizer, state) = checkpoints.load(tuned, optimizer, &fingerprint)?;
        }
        let step = state.as_ref().map_or(0, |state| state.step);
        let start = state.as_ref().map_or(Position::default(), |state| state.position);
        let scheduler = self.config.optimizer.scheduler(&tuned, total_steps, step);
        let metrics = open_metrics(&self.directory.join("metrics.jsonl"), step)?;
        let shared = has_shared(&tuned.model);
        let clip = self.config.optimizer.max_grad_norm;
        run.with(|run: &mut Run<M>| {
            run.metrics = Some(metrics);
            run.report.steps = step;
            if let Some(state) = state {
                run.report.train_loss_first = state.first_loss;
            }
            if clip > 0.0 {
                run.hooks.push(Box::new(ClipGlobalNorm { max: clip }));
            }
            if shared {
                run.hooks.insert(0, Box::new(Retie));
            }
        });
        let failure = Arc::<Mutex<Option<Error>>>::default();
        let model = if step < total_steps {
            let source = BatchSource {
                examples: Arc::new(self.train),
                plan: Arc::new(plan),
                pad_id: self.pad_id,
                accumulation: self.config.gradient_accumulation_steps,
            };
            let loader = Loader { source, device, start, epochs: AtomicU64::new(0), failure: failure.clone() };
            // One epoch more than needed where a run starts within one; the step count ends it.
            let epochs = total_steps.div_ceil(steps_per_epoch) - step / steps_per_epoch;
            SupervisedTraining::new(&self.directory, Arc::new(loader), Arc::new(Nothing))
                .num_epochs(epochs)
                .grads_accumulation(self.config.gradient_accumulation_steps)
                .renderer(Box::new(Quiet))
                .with_application_logger(None)
                .with_metric_logger(InMemoryMetricLogger::new())
                .with_interrupter(interrupter)
                .launch(Learner::new(tuned, optimizer, scheduler))
                .model
                .model
        } else {
            tuned.model.valid()
        };
        let run: Run<M> = run.take().expect("the run is put there above");
        let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = run.error.or(failure) {
            return Err(error);
        }
        checkpoints.clear()?;
        Ok(Trained { report: run.report.finished(run.began.elapsed() - run.aside), model })
    }
}

impl Report {
    fn finished(mut self, training: Duration) -> Self {
        self.seconds = training.as_secs_f64();
        self.tokens_per_second = self.tokens as f64 / self.seconds.max(1e-9);
        self.peak_memory_bytes = peak_memory_bytes();
        self
    }
}

/// What identifies a run whose checkpoint may be continued.
fn fingerprint(config: &TrainConfig, train: &Examples) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    let settings = TrainConfig { eval_steps: None, save_steps: None, ..config.clone() };
    format!("{settings:?}").hash(&mut hasher);
    train.fingerprint().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The metrics file, without lines of steps that a resumed run takes again.
fn open_metrics(path: &std::path::Path, step: usize) -> Result<File> {
    let text = if step > 0 { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
    let is_past = |line: &&str| {
        let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
        value.and_then(|v| v["step"].as_u64()).is_some_and(|s| s as usize <= step)
    };
    let mut file = File::create(path).map_err(|e| Error::io(path, e))?;
    for line in text.lines().filter(is_past) {
        writeln!(file, "{line}").map_err(|e| Error::io(path, e))?;
    }
    Ok(file)
}

/// The model as burn-train's learner sees it.
#[derive(Module, Debug)]
struct Tuned<M: Module> {
    model: M,
    #[module(skip)]
    run: Handle,
}

/// The state of a run, shared by the learner's clones of the model.
///
/// Type-erased, since Burn's derive does not take a skipped field that depends on a module's type parameter.
#[derive(Clone)]
struct Handle(Arc<Mutex<Option<Box<dyn Any + Send>>>>);

impl Handle {
    fn new<M: Send + 'static>(run: Run<M>) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(run)))))
    }

    /// Use the run, if it has not been taken.
    fn with<M: 'static, T>(&self, use_it: impl FnOnce(&mut Run<M>) -> T) -> Option<T> {
        let mut run = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        run.as_mut()?.downcast_mut().map(use_it)
    }

    fn take<M: 'static>(&self) -> Option<Run<M>> {
        let run = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        run.downcast().ok().map(|run| *run)
    }
}

impl Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Run")
    }
}

struct Run<M> {
    config: TrainConfig,
    metrics: Option<File>,
    batcher: Batcher,
    hooks: Vec<Box<dyn Hook<M>>>,
    on_step: Box<dyn FnMut(&Progress) + Send>,
    eval: Vec<Encoded>,
    checkpoints: CheckpointDir,
    fingerprint: String,
    interrupter: Interrupter,
    /// Loss, share and tokens of each batch since the last step.
    losses: Vec<(Tensor<1>, f64, usize)>,
    report: Report,
    total_steps: usize,
    steps_per_epoch: usize,
    began: Instant,
    /// Time spent on evaluation and checkpoints, which is not training.
    aside: Duration,
    error: Option<Error>,
}

impl<M: LanguageModel + ModuleDisplay + 'static> TrainStep for Tuned<M> {
    type Input = Share;
    type Output = ();

    fn step(&self, Share { batch, share }: Share) -> TrainOutput<()> {
        let tokens = batch.tokens;
        let loss = evaluate::loss(&self.model, batch);
        self.run.with(|run: &mut Run<M>| run.losses.push((loss.clone().without_autodiff(), share, tokens)));
        let objective = match penalty(&self.model) {
            Some(penalty) => loss + penalty,
            None => loss,
        };
        TrainOutput::new(self, (objective * share).backward(), ())
    }

    fn optimize(self, optimizer: &mut ModuleOptimizer, rate: ModuleLearningRate, gradients: GradientsParams) -> Self {
        let handle = self.run.clone();
        let mut tuned = Some(self);
        handle.with(|run: &mut Run<M>| {
            if run.error.is_some() || run.report.steps >= run.total_steps {
                return;
            }
            let taken = tuned.take().expect("put there above");
            let (back, result) = run.take_step(taken, optimizer, rate, gradients);
            tuned = Some(back);
            run.error = result.err();
            if run.error.is_some() || run.report.steps >= run.total_steps {
                run.interrupter.stop(None);
            }
        });
        tuned.expect("a step gives the model back")
    }
}

impl<M: LanguageModel + ModuleDisplay + 'static> InferenceStep for Tuned<M> {
    type Input = Share;
    type Output = ();

    fn step(&self, _: Share) {}
}

impl<M: LanguageModel + ModuleDisplay + 'static> Run<M> {
    fn take_step(
        &mut self,
        tuned: Tuned<M>,
        optimizer: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        mut gradients: GradientsParams,
    ) -> (Tuned<M>, Result<()>) {
        let step = self.report.steps + 1;
        let losses = std::mem::take(&mut self.losses);
        let tokens = losses.iter().map(|(_, _, tokens)| tokens).sum();
        let loss: f64 = losses.into_iter().map(|(loss, share, _)| f64::from(loss.into_scalar::<f32>()) * share).sum();
        let grad_norm = global_norm(&tuned.model, &gradients).map_or(0.0, |norm| f64::from(norm.into_scalar::<f32>()));
        if !loss.is_finite() || !grad_norm.is_finite() {
            return (tuned, Err(Error::NonFinite { what: format!("loss or gradient of step {step}") }));
        }
        for hook in &mut self.hooks {
            gradients = hook.gradients(&tuned.model, gradients, step);
        }
        let lr = rate.base();
        let Tuned { model, run } = optimizer.step(rate, tuned, gradients);
        let model = self.hooks.iter_mut().fold(model, |model, hook| hook.after_step(model, step));
        let tuned = Tuned { model, run };
        let result = self.record(&tuned, optimizer, step, loss, lr, grad_norm, tokens);
        (tuned, result)
    }

    #[allow(clippy::too_many_arguments)]
    fn record(
        &mut self,
        tuned: &Tuned<M>,
        optimizer: &ModuleOptimizer,
        step: usize,
        loss: f64,
        lr: f64,
        grad_norm: f64,
        tokens: usize,
    ) -> Result<()> {
        let report = &mut self.report;
        report.steps = step;
        report.tokens += tokens;
        report.train_loss_last = loss;
        if report.train_loss_first.is_nan() || step == 1 {
            report.train_loss_first = loss;
        }
        let training = self.began.elapsed() - self.aside;
        let tokens_per_second = report.tokens as f64 / training.as_secs_f64().max(1e-9);
        let aside = Instant::now();
        let is_due = |every: Option<usize>| every.is_some_and(|every| step.is_multiple_of(every));
        let mut eval_loss = None;
        if !self.eval.is_empty() && (step == self.total_steps || is_due(self.config.eval_steps)) {
            eval_loss = Some(evaluate::perplexity(&tuned.model, &self.eval, self.config.batch_size, &self.batcher, |_, _| {})?.loss);
            self.report.eval_loss = eval_loss;
        }
        let epoch = step as f64 / self.steps_per_epoch as f64;
        let progress = Progress { step, total_steps: self.total_steps, epoch, loss, lr, grad_norm, tokens, tokens_per_second, eval_loss };
        let line = serde_json::to_string(&progress).expect("progress is plain data");
        if let Some(metrics) = &mut self.metrics {
            writeln!(metrics, "{line}").map_err(|e| Error::io("metrics.jsonl", e))?;
        }
        (self.on_step)(&progress);
        if is_due(self.config.save_steps) && step < self.total_steps {
            let batch = (step % self.steps_per_epoch) * self.config.gradient_accumulation_steps;
            let position = Position { epoch: (step / self.steps_per_epoch) as u64, batch };
            let state = State { step, position, fingerprint: self.fingerprint.clone(), first_loss: self.report.train_loss_first };
            self.checkpoints.save(tuned, optimizer, &state)?;
        }
        self.aside += aside.elapsed();
        Ok(())
    }
}
