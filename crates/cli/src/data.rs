//! The data of a fine-tuning run.

use crate::loading::Text;
use crate::output;
use crate::run::Run;
use peft_core::{Error, Result};
use peft_train::TrainConfig;
use peft_train::data::{EncodeConfig, EncodeStats, Encoded, Encoder, Examples, read_examples, stream_examples};
use serde::Serialize;
use std::path::Path;

/// What a run trains and evaluates on.
pub struct Data {
    pub train: Examples,
    pub eval: Vec<Encoded>,
    /// What became of the examples of the training file, those set aside for evaluation included.
    pub stats: EncodeStats,
}

impl Data {
    /// Read and encode what `run` names.
    pub fn read(text: &Text, run: &Run) -> Result<Self> {
        let file = run.required("data", &run.data)?;
        if run.eval.is_some() && run.eval_split.is_some() {
            return Err(Error::InvalidConfig("both eval and eval_split are set; choose one of them".into()));
        }
        let (train, stats) = match run.streaming.unwrap_or(false) {
            true => streamed(text, run, file)?,
            false => encoded(text, run, file)?,
        };
        let (train, eval) = match (run.eval_split, &run.eval) {
            (Some(part), _) => train.split(part, run.seed.unwrap_or(0))?,
            (None, Some(file)) => (train, encoded(text, run, file)?.0.into_rows()?),
            (None, None) => (train, Vec::new()),
        };
        Ok(Self { train, eval, stats })
    }
}

fn config(run: &Run) -> EncodeConfig {
    EncodeConfig { max_length: run.max_length.unwrap_or(512), train_on_prompt: run.train_on_prompt.unwrap_or(false) }
}

fn encoded(text: &Text, run: &Run, file: &Path) -> Result<(Examples, EncodeStats)> {
    let examples = read_examples(file)?;
    let mut encoder = Encoder::new(&text.tokenizer, text.template.as_ref(), config(run))?;
    let rows = encoder.encode_all(&examples)?;
    Ok((Examples::from(rows).with_origins(encoder.origins()), encoder.stats()))
}

fn streamed(text: &Text, run: &Run, file: &Path) -> Result<(Examples, EncodeStats)> {
    let bar = output::bar(0, "reading");
    let on_progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let read = stream_examples(file, text.tokenizer.clone(), text.template.clone(), config(run), on_progress);
    bar.finish_and_clear();
    read
}

/// How much of the batches is padding, as a share of their positions.
#[derive(Serialize)]
pub struct Padding {
    /// As the run makes them.
    share: f64,
    /// If examples were shuffled only.
    share_plain: f64,
    /// Whether rows may hold several examples.
    #[serde(skip)]
    packs: bool,
}

impl Padding {
    /// For examples of these lengths; `packs` says whether rows may hold several of them.
    pub fn of(config: &TrainConfig, lengths: &[u32], packs: bool) -> Result<Self> {
        let plain = TrainConfig { packing: None, group_by_length: false, ..config.clone() };
        let share = |config: &TrainConfig| config.plan(lengths).map(|plan| plan.padding(lengths));
        Ok(Self { share: share(config)?, share_plain: share(&plain)?, packs })
    }
}

impl std::fmt::Display for Padding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "padding: {:.1} % of the batches", 100.0 * self.share)?;
        match self.share == self.share_plain {
            true if self.share > 0.2 => {
                let packing = if self.packs { " or --packing" } else { "" };
                write!(f, "; --group-by-length{packing} makes it less")
            }
            true => Ok(()),
            false => write!(f, ", {:.1} % if examples were only shuffled", 100.0 * self.share_plain),
        }
    }
}
