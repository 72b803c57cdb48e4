//! The trainer: steps over the batches of a task, counted, logged, evaluated and saved.
//!
//! Optimizer, learning-rate policy, gradient accumulation and records are Burn's. The loop is not burn-train's, which counts epochs: here
//! runs are counted in optimizer steps, clip by the norm of all gradients, save what is trained, and resume within an epoch.

use crate::config::TrainConfig;
use crate::data::Position;
use crate::feed::{Feed, Source, Step};
use crate::hooks::{Hook, Retie, TrainedParams};
use crate::identity::Identity;
use crate::parallel::{Learned, Replicas};
use crate::parameters::cause_of_non_finite;
use crate::progress::{Metrics, Progress, Report};
use crate::resume::{Best, CheckpointDir, State};
use crate::task::{Evaluation, Task};
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::tensor::Device;
use peft_core::{Error, Result, has_shared, seed};
use rand::Rng;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A trained model, in validation mode, and its report.
pub struct Trained<M> {
    /// The model.
    pub model: M,
    /// The report.
    pub report: Report,
}

/// A run about to begin.
pub struct Trainer<M, T> {
    config: TrainConfig,
    task: T,
    directory: PathBuf,
    devices: Vec<Device>,
    resume: bool,
    stop: Arc<AtomicBool>,
    hooks: Vec<Box<dyn Hook<M>>>,
    on_step: Box<dyn FnMut(&Progress) + Send>,
}

impl<M: Module + Sync + 'static, T: Task<M>> Trainer<M, T> {
    /// Learn a task; `metrics.jsonl` and checkpoints go into `directory`, which must exist.
    pub fn new(config: TrainConfig, task: T, directory: impl Into<PathBuf>) -> Self {
        Self {
            config,
            task,
            directory: directory.into(),
            devices: Vec::new(),
            resume: false,
            stop: Arc::default(),
            hooks: Vec::new(),
            on_step: Box::new(|_| {}),
        }
    }

    /// Compute on these devices together, the first of which is the model's. Each takes batches of its own: `n` devices do in one step
    /// what one does with `n` times as many accumulated batches.
    pub fn devices(mut self, devices: Vec<Device>) -> Self {
        self.devices = devices;
        self
    }

    /// Continue from the newest checkpoint in the directory, if there is one.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Once `stop` is set, finish the step, write a checkpoint and return.
    pub fn stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
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
    /// A run that does not resume removes the checkpoints of an earlier one. Those of this run stay when it is over, since nothing else
    /// holds what it has learned until the caller has saved it: [`CheckpointDir::clear`] removes them then.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for settings out of range, or a model on a device without autodiff;
    /// [`Error::NonFinite`] at the first loss or gradient that is not a number; [`Error::Io`].
    pub fn run(self, model: M) -> Result<Trained<M>> {
        self.config.validate()?;
        let device = model.devices().into_iter().next().unwrap_or_default();
        if !device.is_autodiff() {
            return Err(Error::InvalidConfig("the model is on a device without autodiff; load it on `device.autodiff()`".into()));
        }
        let plan = self.config.plan(self.task.lengths())?;
        let batches_per_step = self.config.gradient_accumulation_steps.saturating_mul(self.devices.len().max(1));
        let steps_per_epoch = plan.batches_per_epoch().div_ceil(batches_per_step);
        let total_steps = self.config.max_steps.unwrap_or(self.config.epochs.saturating_mul(steps_per_epoch));
        self.config.warn_of_idle(total_steps);

        let checkpoints = CheckpointDir::new(self.directory.join("checkpoints"));
        let identity = Identity::new(&self.config, batches_per_step, &model, self.task.fingerprint());
        let optimizer = self.config.optimizer.optimizer(&model);
        let (mut model, optimizer, state) = match self.resume {
            true => checkpoints.load(model, optimizer, &identity)?,
            false => {
                checkpoints.clear()?;
                (model, optimizer, None)
            }
        };
        let report = state.as_ref().map_or_else(
            || Report { train_loss_first: f64::NAN, ..Report::default() },
            |state| Report { steps: state.step, train_loss_first: state.first_loss, train_loss_last: state.last_loss, ..Report::default() },
        );
        let (start, best) = (report.steps, state.and_then(|state| state.best));
        let replicas = Replicas::new(&model, &self.devices);
        let mut hooks = self.hooks;
        if has_shared(&model) {
            hooks.insert(0, Box::new(Retie));
        }
        let mut run = Run {
            task: Arc::new(self.task),
            device,
            replicas,
            scheduler: self.config.optimizer.scheduler(&model, total_steps, start),
            optimizer,
            trained: TrainedParams::of(&model),
            hooks,
            on_step: self.on_step,
            metrics: Metrics::open(&self.directory.join("metrics.jsonl"), start)?,
            checkpoints,
            identity,
            saved_best: best.as_ref().map(|best| best.step),
            best,
            begun_at: start,
            report,
            total_steps,
            steps_per_epoch,
            batches_per_step,
            began: Instant::now(),
            aside: Duration::ZERO,
            config: self.config,
        };
        let source = Source { task: run.task.clone(), plan, batches_per_step };
        let mut feed = Feed::begin(source, run.position());
        while run.report.steps < total_steps && !run.has_stalled() {
            model = run.take_step(model, feed.next()?)?;
            if self.stop.load(Ordering::SeqCst) && run.report.steps < total_steps && !run.has_stalled() {
                run.report.interrupted = Some(run.save(&model)?);
                break;
            }
        }
        run.finish(model)
    }
}

/// A run under way.
struct Run<M, T> {
    config: TrainConfig,
    task: Arc<T>,
    device: Device,
    replicas: Replicas<M>,
    optimizer: ModuleOptimizer,
    scheduler: ModuleLrScheduler,
    trained: TrainedParams,
    hooks: Vec<Box<dyn Hook<M>>>,
    on_step: Box<dyn FnMut(&Progress) + Send>,
    metrics: Metrics,
    checkpoints: CheckpointDir,
    identity: Identity,
    best: Option<Best>,
    /// The best step that the newest checkpoint knows.
    saved_best: Option<usize>,
    /// The step after which this process went on.
    begun_at: usize,
    report: Report,
    total_steps: usize,
    steps_per_epoch: usize,
    batches_per_step: usize,
    began: Instant,
    /// Time spent on evaluation and checkpoints, which is not training.
    aside: Duration,
}

impl<M: Module + Sync + 'static, T: Task<M>> Run<M, T> {
    fn take_step(&mut self, model: M, batches: Step<T::Batch>) -> Result<M> {
        let step = self.report.steps + 1;
        let step_seed = seed::rng(self.config.seed, &format!("step.{step}")).next_u64();
        let Learned { mut gradients, loss, tokens } = self.replicas.learn(&*self.task, &model, &self.device, batches, step_seed);
        for hook in &mut self.hooks {
            gradients = hook.gradients(&model, gradients, step);
        }
        if !self.hooks.is_empty() {
            // A hook may have changed what is trained.
            self.trained = TrainedParams::of(&model);
        }
        let grad_norm = self.trained.norm(&gradients);
        self.check_finite(&model, step, loss, grad_norm)?;
        let max_norm = self.config.optimizer.max_grad_norm;
        if max_norm > 0.0 {
            self.trained.clip(&mut gradients, grad_norm, max_norm);
        }
        let rate = self.scheduler.step();
        let lr = rate.base();
        let model = self.optimizer.step(rate, model, gradients);
        let model = self.hooks.iter_mut().fold(model, |model, hook| hook.after_step(model, step));
        self.replicas.follow(&model);
        self.report.steps = step;
        self.report.tokens += tokens;
        self.report.train_loss_last = loss;
        if self.report.train_loss_first.is_nan() {
            self.report.train_loss_first = loss;
        }
        let tokens_per_second = self.report.tokens as f64 / (self.began.elapsed() - self.aside).as_secs_f64().max(1e-9);
        let aside = Instant::now();
        let evaluation = self.evaluate(&model)?;
        let epoch = step as f64 / self.steps_per_epoch as f64;
        let progress = Progress { step, total_steps: self.total_steps, epoch, loss, lr, grad_norm, tokens, tokens_per_second, evaluation };
        self.metrics.write(&progress)?;
        (self.on_step)(&progress);
        if self.is_due(self.config.save_steps) && step < self.total_steps {
            self.save(&model)?;
        }
        self.aside += aside.elapsed();
        Ok(model)
    }

    fn is_due(&self, every: Option<usize>) -> bool {
        every.is_some_and(|every| self.report.steps.is_multiple_of(every))
    }

    /// The loss and the gradients must be numbers; where they are not, say what is the likeliest cause.
    fn check_finite(&self, model: &M, step: usize, loss: f64, grad_norm: f64) -> Result<()> {
        let (what, value) = if loss.is_finite() { ("norm of the gradients", grad_norm) } else { ("loss", loss) };
        if value.is_finite() {
            return Ok(());
        }
        let back = match self.checkpoints.latest() {
            Some((_, path)) => format!("; the last good checkpoint is {}", path.display()),
            None if step == 1 => String::new(),
            None => "; there is no checkpoint to go back to (see save_steps)".into(),
        };
        // With warm-up, the first step has a rate of 0.
        let unchanged = self.begun_at == 0 && step <= 1 + usize::from(self.config.optimizer.warmup_steps > 0);
        let cause = cause_of_non_finite(model, unchanged);
        Err(Error::NonFinite { what: format!("the {what} of step {step} is {value}; {cause}{back}") })
    }

    /// Evaluate if it is time to, and remember the best.
    fn evaluate(&mut self, model: &M) -> Result<Option<Evaluation>> {
        let step = self.report.steps;
        if step != self.total_steps && !self.is_due(self.config.eval_steps) {
            return Ok(None);
        }
        let Some(evaluation) = self.task.evaluate(model, self.config.batch_size)? else { return Ok(None) };
        self.report.evaluation = Some(evaluation.clone());
        if !self.config.needs_best() {
            return Ok(Some(evaluation));
        }
        let metric = &self.config.metric_for_best_model;
        let score = evaluation.score(metric).ok_or_else(|| {
            let known: Vec<_> = evaluation.metrics.keys().map(|name| format!(", `{name}`")).collect();
            Error::InvalidConfig(format!("metric_for_best_model is `{metric}`; this task has `loss`{}", known.concat()))
        })?;
        match &mut self.best {
            Some(best) if best.score >= score => best.since += 1,
            best => {
                *best = Some(Best { step, score, since: 0 });
                if self.config.load_best_model_at_end {
                    self.checkpoints.save_best(model, step, self.saved_best)?;
                }
            }
        }
        Ok(Some(evaluation))
    }

    /// Whether evaluations have not become better for as long as the run should wait.
    fn has_stalled(&self) -> bool {
        let since = self.best.as_ref().map_or(0, |best| best.since);
        self.config.early_stopping_patience.is_some_and(|patience| since >= patience)
    }

    /// Where the next batch is.
    fn position(&self) -> Position {
        let step = self.report.steps;
        let batch = (step % self.steps_per_epoch) * self.batches_per_step;
        Position { epoch: (step / self.steps_per_epoch) as u64, batch }
    }

    fn save(&mut self, model: &M) -> Result<PathBuf> {
        let state = State {
            step: self.report.steps,
            position: self.position(),
            run: self.identity.clone(),
            first_loss: self.report.train_loss_first,
            last_loss: self.report.train_loss_last,
            best: self.best.clone(),
        };
        self.saved_best = state.best.as_ref().map(|best| best.step);
        self.checkpoints.save(model, &self.optimizer, &state, self.config.save_total_limit.unwrap_or(1))
    }

    fn finish(mut self, mut model: M) -> Result<Trained<M>> {
        let training = self.began.elapsed() - self.aside;
        if self.report.interrupted.is_none() {
            if let Some(best) = self.best.as_ref().filter(|_| self.config.load_best_model_at_end) {
                self.report.best_step = Some(best.step);
                if best.step != self.report.steps {
                    model = self.checkpoints.load_best(model, best.step)?;
                    self.report.evaluation = None;
                }
            }
            if self.report.evaluation.is_none() {
                self.report.evaluation = self.task.evaluate(&model, self.config.batch_size)?;
            }
        }
        Ok(Trained { report: self.report.finished(training), model: model.valid() })
    }
}
