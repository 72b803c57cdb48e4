//! `peft quickstart`.

use crate::commands::finetune::finetune_new;
use crate::hub::{self, Kind};
use crate::loading::{Text, load_adapted};
use crate::output;
use crate::progress::Show;
use crate::run::Run;
use clap::Args;
use peft_core::files::{Inputs, OutputDir, disk, write_atomic};
use peft_core::{Names, Result, device};
use peft_train::data::read_examples;
use peft_train::evaluate::exact_match;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Fine-tune an embedded model on an embedded task, to see that everything works.
#[derive(Args)]
#[command(after_help = "Example:\n  peft quickstart --out quickstart\n\n\
    A Llama-architecture model of 0.7 million parameters, pre-trained by this project on twelve small text tasks, learns one it\n\
    has not seen: `mirror: badu = ` -> `UDAB`. The output directory gets the model, the data and the adapter.")]
pub struct Quickstart {
    /// Directory for model, data and adapter.
    #[arg(long, value_name = "DIR", default_value = "peft-quickstart")]
    out: PathBuf,
    /// Replace the output directory if peft has written it.
    #[arg(long)]
    overwrite: bool,
}

#[derive(Serialize)]
struct Outcome {
    accuracy_before: f64,
    accuracy_after: f64,
    trainable_params: usize,
    total_params: usize,
    seconds: f64,
    #[serde(serialize_with = "output::path")]
    adapter_dir: PathBuf,
    #[serde(serialize_with = "output::some_path")]
    report: Option<PathBuf>,
}

const MODEL: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../assets/tiny/config.json")),
    ("generation_config.json", include_bytes!("../../assets/tiny/generation_config.json")),
    ("model.safetensors", include_bytes!("../../assets/tiny/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../assets/tiny/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../assets/tiny/tokenizer_config.json")),
];
const DATA: &[(&str, &[u8])] = &[
    ("train.jsonl", include_bytes!("../../assets/quickstart/train.jsonl")),
    ("eval.jsonl", include_bytes!("../../assets/quickstart/eval.jsonl")),
];

impl Quickstart {
    pub fn run(self, json: bool) -> Result<()> {
        let began = Instant::now();
        let out = OutputDir::create(&self.out, self.overwrite, &Inputs::none())?;
        // Until the adapter is there too.
        let _lock = out.lock();
        unpack(&out.path().join("model"), MODEL)?;
        unpack(out.path(), DATA)?;
        let out = out.commit()?;
        let (model, eval, adapter) = (out.join("model"), out.join("eval.jsonl"), out.join("adapter"));

        let before = accuracy(&model, None, &eval)?;
        let run = Run {
            model: Some(model.clone()),
            data: Some(out.join("train.jsonl")),
            eval: Some(eval.clone()),
            eval_steps: Some(25),
            target_modules: Some(Names::Pattern("all-linear".into())),
            r: Some(8),
            lora_alpha: Some(16.0),
            lr: Some(3e-3),
            warmup_steps: Some(20),
            lr_scheduler: Some(crate::run::SchedulerName::Cosine),
            max_steps: Some(150),
            batch_size: Some(16),
            ..Run::default()
        };
        let base = hub::resolve(&model, Kind::Model)?;
        let trained = finetune_new(&run.effective(&model), base, &adapter, &Show::default())?;
        let after = accuracy(&model, Some(&adapter), &eval)?;
        let outcome = Outcome {
            accuracy_before: before,
            accuracy_after: after,
            trainable_params: trained.trainable_params,
            total_params: trained.total_params,
            seconds: began.elapsed().as_secs_f64(),
            adapter_dir: adapter.clone(),
            report: trained.page,
        };
        let page = outcome.report.iter().map(|page| format!("\nreport: {}", page.display())).collect::<String>();
        let text = format!(
            "accuracy on the new task: {:.1} % -> {:.1} % in {:.1} s\nadapter: {}{page}\ntry:\n  \
            peft generate --model {} --adapter {} --prompt 'mirror: solina = '",
            100.0 * before,
            100.0 * after,
            outcome.seconds,
            adapter.display(),
            model.display(),
            adapter.display()
        );
        output::print(json, &outcome, text)
    }
}

fn unpack(dir: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    disk::create_dir_all(dir)?;
    files.iter().try_for_each(|(name, bytes)| write_atomic(&dir.join(name), bytes))
}

fn accuracy(model: &Path, adapter: Option<&Path>, data: &Path) -> Result<f64> {
    let text = Text::load(model)?;
    let examples = read_examples(data)?;
    let model = load_adapted(model, adapter, &device::parse("cpu")?, None)?;
    let bar = output::bar(examples.len(), "evaluating");
    let accuracy = exact_match(&model, &text.tokenizer, None, &examples, 16, 32, |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    Ok(accuracy.value)
}
