//! Fine-tuning and measuring encoders that label texts.

use super::finetune::{Outcome, Start, adapter_config};
use crate::data::Padding;
use crate::loading::{ADAPTER, ModelArgs, attach};
use crate::output;
use crate::run::{MethodName, Run};
use burn::module::Module;
use burn::tensor::{DType, Device};
use peft_adapters::PeftConfig;
use peft_core::files::{Checkpoint, copy_checkpoint_files, read_json, write_atomic};
use peft_core::{Error, Result, Summary, save_adapter};
use peft_merge::compeft::Expert;
use peft_models::encoder::{EncoderConfig, SequenceClassifier};
use peft_train::data::{Classified, Labelled, Labels, TextTokenizer, read_labelled, split};
use peft_train::{Scores, TextClassification, Trained, classify};
use std::path::Path;

/// The names of the labels beside an adapter, whose base knows nothing of them.
pub const LABELS_FILE: &str = "labels.json";

/// Fine-tune an encoder, with a new classifier unless the checkpoint has one for the same labels.
pub fn finetune(mut start: Start) -> Result<Outcome> {
    let Start { run, out, .. } = start;
    let base = start.base.clone();
    let dir = &base.dir;
    let tokenizer = TextTokenizer::load(dir)?;
    let encoder = EncoderConfig::read(dir)?;
    let checkpoint = Checkpoint::open(dir.as_path())?;
    let trained = SequenceClassifier::is_in(&checkpoint);
    let (train, eval, labels) = examples(run, if trained { &encoder.labels } else { &[] })?;
    let max_tokens = run.max_length.unwrap_or(512).min(encoder.max_tokens());
    let (train, stats) = Classified::all(&train, &tokenizer, &labels, max_tokens)?;
    let (eval, _) = Classified::all(&eval, &tokenizer, &labels, max_tokens)?;
    let lengths: Vec<u32> = train.iter().map(|row| row.ids.len() as u32).collect();
    let padding = Padding::of(&start.train, &lengths, false)?;
    let names = labels.names();
    let (examples, cut) = (stats.examples, stats.truncated);
    output::note(format_args!("{examples} examples of {} labels, {cut} of them cut to {max_tokens} tokens\n{padding}", names.len()));

    let new_head = (!trained || encoder.labels != names).then(|| start.seed());
    let config = match labels {
        Labels::Numbers => encoder.for_regression(),
        Labels::Classes { .. } => encoder.with_labels(names.clone()),
    };
    let pad_id = config.pad_token_id;
    let model = SequenceClassifier::from_checkpoint(config, &checkpoint, new_head, start.device(), Some(start.dtype()))?;
    let model = model.gradient_checkpointing(start.recompute());
    if let Some(config) = &mut start.config {
        train_new_parts(config, &model);
    }
    let adapter = start.config.clone();
    let (model, summary) = match (&adapter, run.method()) {
        (Some(config), _) => start.adapted(model, config)?,
        (None, MethodName::Head) => summarised(model.train_classifier_alone()),
        (None, _) => summarised(model.set_require_grad(true)),
    };
    let eval_examples = eval.len();
    let task = TextClassification::new(train, names.len(), pad_id).eval(eval);
    start.begin(&summary)?;
    let Trained { model, report } = start.train(model, task)?;
    let outcome = Outcome::new(report, &summary, &stats, eval_examples, padding, out)?;
    start.end(outcome, |out| match &adapter {
        Some(config) => {
            save_adapter(&model, ADAPTER, &adapter_config(config, &base, "SEQ_CLS"), out)?;
            let text = serde_json::to_string(&names).expect("names are plain data");
            write_atomic(&out.join(LABELS_FILE), text.as_bytes())
        }
        None => {
            copy_checkpoint_files(dir, out)?;
            model.save(out, DType::F32).map(drop)
        }
    })
}

/// Examples to train and to evaluate on, and what their labels mean.
fn examples(run: &Run, known: &[String]) -> Result<(Vec<Labelled>, Vec<Labelled>, Labels)> {
    let all = read_labelled(run.required("data", &run.data)?)?;
    let labels = Labels::collect(&all, known)?;
    let (train, eval) = match (run.eval_split, &run.eval) {
        (Some(_), Some(_)) => return Err(Error::InvalidConfig("both eval and eval_split are set; choose one of them".into())),
        (Some(part), None) => {
            let (train, eval) = split(all.len(), part, run.seed.unwrap_or(0))?;
            let these = |indices: &[usize]| indices.iter().map(|index| all[*index].clone()).collect();
            (these(&train), these(&eval))
        }
        (None, Some(file)) => (all, read_labelled(file)?),
        (None, None) => (all, Vec::new()),
    };
    Ok((train, eval, labels))
}

/// Let the adapter hold the classifier too, and the pooler if the checkpoint had none: nothing else has them.
fn train_new_parts(config: &mut PeftConfig, model: &SequenceClassifier) {
    let saved = match config {
        PeftConfig::Lora(config) => &mut config.modules_to_save,
        PeftConfig::Ia3(config) => &mut config.modules_to_save,
        PeftConfig::Vera(config) => &mut config.modules_to_save,
        PeftConfig::BitFit(config) => &mut config.modules_to_save,
    };
    let saved = saved.get_or_insert_default();
    let new_pooler = model.encoder.pooler.as_ref().is_some_and(|pooler| pooler.dense.weight.is_require_grad());
    for (name, wanted) in [("classifier", true), ("pooler", new_pooler)] {
        if wanted && !saved.iter().any(|module| module == name) {
            saved.push(name.into());
        }
    }
}

fn summarised(model: SequenceClassifier) -> (SequenceClassifier, Summary) {
    let summary = Summary::of(&model);
    (model, summary)
}

/// `peft eval` of an encoder: accuracy, F1 and Matthews' coefficient of labels, correlations of numbers.
pub fn evaluate(args: &ModelArgs, data: &Path, batch_size: usize, max_length: Option<usize>, json: bool) -> Result<()> {
    let tokenizer = TextTokenizer::load(&args.model)?;
    let model = load(args, &peft_core::device::parse(&args.device)?)?;
    let examples = read_labelled(data)?;
    let labels = known_labels(&model, &examples);
    let max_tokens = max_length.unwrap_or(usize::MAX).min(model.config().max_tokens());
    let (rows, _) = Classified::all(&examples, &tokenizer, &labels, max_tokens)?;
    let bar = output::bar(rows.len(), "evaluating");
    let scores =
        classify(&model, &rows, model.labels().len(), batch_size, model.config().pad_token_id, |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let text = match &scores.scores {
        Scores::Classes(found) => {
            let (accuracy, f1, matthews) = (found.accuracy, found.f1, found.matthews);
            format!("accuracy {accuracy}, F1 {f1}, Matthews {matthews} ({} examples)", found.examples)
        }
        Scores::Numbers(found) => {
            let known = [("Pearson", found.pearson), ("Spearman", found.spearman), ("squared error", Some(found.mse))];
            let parts = known.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
            format!("{} ({} examples)", parts.collect::<Vec<_>>().join(", "), found.examples)
        }
    };
    output::print(json, &scores, text)
}

/// What the labels of these examples mean to a trained classifier.
pub fn known_labels(model: &SequenceClassifier, examples: &[Labelled]) -> Labels {
    match model.labels() {
        [_] => Labels::Numbers,
        known => match Labels::collect(examples, known) {
            Ok(labels) if labels.names() == known => labels,
            // Names that the model does not have: say which.
            _ => Labels::Classes { names: known.to_vec(), keys: known.to_vec() },
        },
    }
}

/// The classifier that `args` names, with its adapter active.
fn load(args: &ModelArgs, device: &Device) -> Result<SequenceClassifier> {
    let dtype = Some(args.dtype.dtype());
    let Some(adapter) = &args.adapter else { return SequenceClassifier::load(&args.model, device, dtype) };
    let model = match labels(adapter)? {
        // What is new is replaced by what the adapter holds.
        Some(labels) => SequenceClassifier::load_with_labels(&args.model, labels, 0, device, dtype)?,
        None => SequenceClassifier::load(&args.model, device, dtype)?,
    };
    attach(model, adapter)
}

/// The labels that come with the adapter, a directory or a compressed file.
fn labels(adapter: &Path) -> Result<Option<Vec<String>>> {
    if adapter.is_file() {
        let labels = Expert::read(adapter)?.files.remove(LABELS_FILE);
        return labels.map(|labels| serde_json::from_value(labels).map_err(|e| Error::file(adapter, e))).transpose();
    }
    let file = adapter.join(LABELS_FILE);
    file.exists().then(|| read_json(&file)).transpose()
}
