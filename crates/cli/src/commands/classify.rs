//! Fine-tuning and measuring encoders that label texts.

use super::finetune::{Outcome, Start, adapter_config};
use crate::data::Padding;
use crate::loaded::{LABELS_FILE, text_classifier};
use crate::loading::{ADAPTER, ModelArgs};
use crate::output;
use crate::run::{MethodName, Run};
use burn::module::Module;
use burn::tensor::DType;
use peft_adapters::PeftConfig;
use peft_core::files::{Checkpoint, OutputFile, TextFiles, copy_checkpoint_files, write_atomic};
use peft_core::{Error, Result, Summary, save_adapter};
use peft_models::encoder::{EncoderConfig, SequenceClassifier};
use peft_train::data::{Classified, Label, Labelled, Labels, TextTokenizer, read_labelled, split};
use peft_train::evaluate::DataOptions;
use peft_train::{Scores, TextClassification, Trained, classify};
use serde_json::{Map, Value, json};
use std::path::Path;

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
pub fn evaluate(args: &ModelArgs, data: &Path, options: &DataOptions, predictions: Option<&OutputFile>, json: bool) -> Result<()> {
    let DataOptions { batch_size, limit, max_length, .. } = *options;
    let tokenizer = TextTokenizer::load_from(TextFiles::of(&args.model, args.adapter.as_deref()))?;
    let device = peft_core::device::parse(&args.device)?;
    let model = text_classifier(&args.model, args.adapter.as_deref(), &device, Some(args.dtype.dtype()))?;
    let mut examples = read_labelled(data)?;
    examples.truncate(limit.unwrap_or(usize::MAX));
    let labels = known_labels(&model, &examples);
    let max_tokens = max_length.unwrap_or(usize::MAX).min(model.config().max_tokens());
    let (rows, _) = Classified::all(&examples, &tokenizer, &labels, max_tokens)?;
    let bar = output::bar(rows.len(), "evaluating");
    let scores =
        classify(&model, &rows, model.labels().len(), batch_size, model.config().pad_token_id, |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    if let Some(file) = predictions {
        write_predictions(file.path(), &examples, &rows, &scores.logits, model.labels())?;
    }
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
    let files: Vec<&Path> = predictions.into_iter().map(OutputFile::path).collect();
    output::print_beside(&files, json, &scores, text)
}

/// Write one JSON object for each example: what was asked, what was predicted with which probabilities, and what is right.
fn write_predictions(file: &Path, examples: &[Labelled], rows: &[Classified], logits: &[f32], labels: &[String]) -> Result<()> {
    let mut lines = String::new();
    for ((example, row), logits) in examples.iter().zip(rows).zip(logits.chunks(labels.len())) {
        let mut line = json!({ "line": example.line, "text": example.text });
        if let Some(pair) = &example.pair {
            line["text_pair"] = pair.as_str().into();
        }
        match row.label {
            Label::Class(class) => {
                let probabilities = probabilities(logits);
                let scores: Map<String, Value> = labels.iter().cloned().zip(probabilities.into_iter().map(Value::from)).collect();
                let predicted = peft_train::argmax(logits);
                line["label"] = labels[class].as_str().into();
                line["predicted"] = labels[predicted].as_str().into();
                line["scores"] = scores.into();
                line["right"] = (predicted == class).into();
            }
            Label::Number(number) => {
                line["label"] = number.into();
                line["predicted"] = logits[0].into();
            }
        }
        lines += &format!("{line}\n");
    }
    write_atomic(file, lines.as_bytes())
}

/// The softmax of one example's logits.
fn probabilities(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = logits.iter().map(|logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|exponential| exponential / sum).collect()
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
