//! How a person sees a training run go.

use crate::dashboard::Course;
use crate::output;
use clap::{Args, ValueEnum};
use console::Term;
use indicatif::{ProgressFinish, ProgressStyle};
use peft_core::Result;
use peft_train::Progress;
use peft_train::report::{EventWriter, run_name};
use std::path::{Path, PathBuf};

/// What is shown of the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// On a terminal the dashboard, or the bar where it has not enough room; lines elsewhere.
    #[default]
    Auto,
    /// The course of the loss as a plot, above the bar.
    Dashboard,
    /// A bar on stderr.
    Bar,
    /// Some ten lines on stderr.
    Plain,
    /// Nothing.
    None,
}

/// Where the steps of a run are told.
#[derive(Args, Debug, Default)]
pub struct Show {
    /// How to show the steps.
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    progress: ProgressMode,
    /// Also write the numbers of each step as TensorBoard events, into a directory of the run's name.
    #[arg(long, value_name = "LOGDIR")]
    tensorboard: Option<PathBuf>,
}

impl Show {
    /// What is to be told of each step of the run that writes into `out`.
    ///
    /// # Errors
    /// [`peft_core::Error::Io`] if events cannot be written.
    pub fn consumer(&self, out: &Path) -> Result<impl FnMut(&Progress) + Send + use<>> {
        let mut events = self.tensorboard.as_ref().map(|logs| EventWriter::create(&logs.join(run_name(out)))).transpose()?;
        let mut shown: Box<dyn FnMut(&Progress) + Send> = match self.progress {
            ProgressMode::Auto if !output::is_interactive() => Box::new(lines),
            ProgressMode::Auto if !has_room() => Box::new(bar()),
            ProgressMode::Auto | ProgressMode::Dashboard => Box::new(dashboard()),
            ProgressMode::Bar => Box::new(bar()),
            ProgressMode::Plain => Box::new(lines),
            ProgressMode::None => Box::new(|_| {}),
        };
        Ok(move |progress: &Progress| {
            shown(progress);
            // A full disk under the logs is no reason to lose the run.
            if let Some(Err(error)) = events.as_mut().map(|events| events.step(progress)) {
                tracing::warn!("{error}; no more TensorBoard events are written");
                events = None;
            }
        })
    }
}

fn bar() -> impl FnMut(&Progress) + Send {
    let bar = output::bar(0, "training").with_finish(ProgressFinish::AndClear);
    move |progress| {
        bar.set_length(progress.total_steps as u64);
        bar.set_position(progress.step as u64);
        bar.set_message(said(progress));
    }
}

/// Whether the terminal is large enough for the dashboard with some lines of text above.
fn has_room() -> bool {
    let (rows, columns) = Term::stderr().size();
    rows >= 20 && columns >= 60
}

fn dashboard() -> impl FnMut(&Progress) + Send {
    let bar = output::bar(0, "training").with_finish(ProgressFinish::AndClear);
    let style = ProgressStyle::with_template("{msg}\n{prefix} [{bar:30}] {pos}/{len} ({eta} left)").expect("a valid template");
    bar.set_style(style.progress_chars("=> "));
    let mut course = Course::default();
    move |progress| {
        course.add(progress);
        bar.set_length(progress.total_steps as u64);
        bar.set_position(progress.step as u64);
        bar.set_message(course.text(usize::from(Term::stderr().size().1)));
    }
}

/// About ten lines for a whole run, and one for each evaluation.
fn lines(progress: &Progress) {
    let Progress { step, total_steps, evaluation, .. } = progress;
    let every = total_steps.div_ceil(10).max(1);
    if *step == 1 || step == total_steps || step.is_multiple_of(every) || evaluation.is_some() {
        output::note(format_args!("step {step}/{total_steps}: {}", said(progress)));
    }
}

fn said(progress: &Progress) -> String {
    let eval = progress.evaluation.as_ref().map(|evaluation| format!(", evaluation: {evaluation}")).unwrap_or_default();
    format!("loss {:.4}{eval}, {:.0} tokens/s", progress.loss, progress.tokens_per_second)
}
