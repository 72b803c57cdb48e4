//! Encoders that label texts: the trunk is merged, and each task keeps the head of its own checkpoint.

use super::recipe::{Data, Recipe};
use super::{Accuracies, Planned, Session, learned};
use burn::tensor::{DType, Device};
use peft_core::files::{Checkpoint, copy_checkpoint_files, disk};
use peft_core::{Error, Result, Site, TextClassifier, Texts, for_each_parameter, with_parameters};
use peft_merge::atlas::Objective;
use peft_merge::{Loss, Stream, TaskVectors};
use peft_models::encoder::{EncoderConfig, SequenceClassifier};
use peft_models::stored_dtype;
use peft_objectives::entropy;
use peft_train::data::{Classified, Labels, TextTokenizer, read_labelled, read_texts};
use peft_train::{Scores, Task, TextClassification, classify};
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// The head of a task and its examples.
struct Head<'a> {
    data: &'a Data,
    dir: &'a Path,
    model: SequenceClassifier,
    rows: Rows,
}

enum Rows {
    Labelled(Vec<Classified>),
    /// Ids of tokens, and the text of a pair that each belongs to.
    Plain(Vec<(Vec<u32>, Vec<u32>)>),
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Self::Labelled(rows) => rows.len(),
            Self::Plain(rows) => rows.len(),
        }
    }
}

/// What would be done.
pub fn plan(recipe: &Recipe, device: &Device) -> Result<Planned> {
    let heads = heads(recipe, device)?;
    let examples: Vec<usize> = heads.iter().map(|head| head.rows.len()).collect();
    Planned::of(recipe, &vectors(recipe, device)?, &examples)
}

/// Merge, and write a complete classifier for each task; their names and bytes.
pub fn merge(session: &mut Session, device: &Device) -> Result<Vec<(String, u64)>> {
    let recipe = session.recipe;
    let heads = heads(recipe, device)?;
    let shared = has_pooler(recipe)?;
    // The merged trunk under the head of a task.
    let under = |trunk: &SequenceClassifier, head: &SequenceClassifier| {
        let mut model = trunk.clone();
        model.classifier = head.classifier.clone();
        if !shared {
            model.encoder.pooler = head.encoder.pooler.clone();
        }
        model
    };
    let stream = |(index, head): (usize, &Head)| {
        let make = move |indices: &[usize]| (index, indices.to_vec());
        Stream::shuffled(head.data.task.clone(), head.rows.len(), recipe.batch(), recipe.seed(), make)
    };
    let mut streams = heads.iter().enumerate().map(stream).collect::<Result<Vec<_>>>()?;
    let objective = |trunk: &SequenceClassifier, (task, indices): &(usize, Vec<usize>)| -> Loss {
        let head = &heads[*task];
        head.loss(&under(trunk, &head.model), indices, device)
    };
    let accuracies = |trunk: &SequenceClassifier| -> Result<[f64; 2]> {
        let [target, control] = [0, 1].map(|task| heads[task].accuracy(&under(trunk, &heads[task].model)));
        Ok([target?, control?])
    };
    let negation = recipe.objective == Objective::Negation;
    if negation && heads.len() != 2 {
        let reason =
            format!("objective: negation needs two data: the target to unlearn, then the control to keep; there are {}", heads.len());
        return Err(Error::InvalidConfig(reason));
    }
    let accuracies: Option<&Accuracies<'_, _>> = if negation { Some(&accuracies) } else { None };
    let merged = session.learn(vectors(recipe, device)?, &mut streams, &objective, accuracies)?;

    let mut values = BTreeMap::new();
    for_each_parameter(&merged, |site, value| {
        if is_trunk(site, shared) {
            values.insert(site.path(), value);
        }
    });
    heads.iter().map(|head| head.write(&values, session)).collect()
}

impl Head<'_> {
    fn loss(&self, model: &SequenceClassifier, indices: &[usize], device: &Device) -> Loss {
        let config = model.config();
        match &self.rows {
            Rows::Labelled(rows) => {
                let batch: Vec<Classified> = indices.iter().map(|index| rows[*index].clone()).collect();
                TextClassification::new(Vec::new(), self.model.labels().len(), config.pad_token_id).loss(model, batch, device).into()
            }
            Rows::Plain(rows) => {
                let rows = indices.iter().map(|index| (rows[*index].0.as_slice(), rows[*index].1.as_slice()));
                let logits = model.logits(&Texts::new(rows, config.pad_token_id, device));
                let predicted = logits.clone().argmax(1).reshape([indices.len()]);
                Loss { value: entropy(logits), predicted: Some(predicted) }
            }
        }
    }

    fn accuracy(&self, model: &SequenceClassifier) -> Result<f64> {
        let Rows::Labelled(rows) = &self.rows else { return Err(Error::file(&self.data.file, "accuracy needs labels")) };
        let scores = classify(model, rows, self.model.labels().len(), 32, model.config().pad_token_id, |_, _| {})?;
        match scores.scores {
            Scores::Classes(found) => Ok(found.accuracy.value),
            Scores::Numbers(_) => Err(Error::file(&self.data.file, "holds numbers, of which there is no accuracy")),
        }
    }

    /// Write the merged trunk under this head; the name of the directory and the bytes of the weights.
    fn write(&self, trunk: &BTreeMap<String, burn::tensor::Tensor<1>>, session: &Session) -> Result<(String, u64)> {
        let name = &self.data.task;
        let is_plain = Path::new(name).components().map(|part| matches!(part, Component::Normal(_))).eq([true]);
        if !is_plain {
            return Err(Error::InvalidConfig(format!("data: task `{name}` is to be the name of a directory, and is none")));
        }
        let out = session.out.join(name);
        disk::create_dir_all(&out)?;
        let model = with_parameters(self.model.clone(), |site, value| Some(trunk.get(&site.path()).cloned().unwrap_or(value)));
        let checkpoint = Checkpoint::open(self.dir)?;
        copy_checkpoint_files(self.dir, &out)?;
        let bytes = peft_models::write_weights(&model, &out, |key| stored_dtype(checkpoint.info(key)), session.shard_size)?;
        Ok((name.clone(), bytes))
    }
}

/// Whether a parameter is merged; the pooler is if the base has one.
fn is_trunk(site: &Site, shared_pooler: bool) -> bool {
    let mut names = site.module.split('.');
    !names.clone().any(|name| name == "classifier") && (shared_pooler || !names.any(|name| name == "pooler"))
}

fn has_pooler(recipe: &Recipe) -> Result<bool> {
    let checkpoint = Checkpoint::open(&recipe.base.1)?;
    Ok(checkpoint.keys().any(|key| key.ends_with("pooler.dense.weight")))
}

fn vectors(recipe: &Recipe, device: &Device) -> Result<TaskVectors<SequenceClassifier>> {
    let shared = has_pooler(recipe)?;
    let base = &recipe.base.1;
    // Any head will do: it is exchanged for that of each task.
    let config = EncoderConfig::read(base)?.without_dropout().with_labels(["first", "second"]);
    let base = SequenceClassifier::from_checkpoint(config, &Checkpoint::open(base)?, Some(0), device, Some(DType::F32))?;
    let host = device.clone().without_autodiff();
    let model = |(name, dir): &(String, std::path::PathBuf)| {
        let config = EncoderConfig::read(dir)?.without_dropout();
        let checkpoint = Checkpoint::open(dir)?;
        let new_head = (!SequenceClassifier::is_in(&checkpoint)).then_some(0);
        Ok((name.clone(), SequenceClassifier::from_checkpoint(config, &checkpoint, new_head, &host, None)?))
    };
    TaskVectors::new(base, recipe.models.iter().map(model).collect::<Result<_>>()?, |site| is_trunk(site, shared))
}

fn heads<'a>(recipe: &'a Recipe, device: &Device) -> Result<Vec<Head<'a>>> {
    let head = |data: &'a Data| {
        let no_head = || Error::InvalidConfig(format!("data: task `{}` has no `model`, whose head it would have", data.task));
        let dir = data.model.as_deref().ok_or_else(no_head)?;
        let config = EncoderConfig::read(dir)?.without_dropout();
        let model = SequenceClassifier::from_checkpoint(config, &Checkpoint::open(dir)?, None, device, Some(DType::F32))?;
        let rows = rows(recipe, data, dir, &model)?;
        if data.task.contains(['/', '\\']) || data.task.starts_with('.') {
            return Err(Error::InvalidConfig(format!("data: task `{}` cannot be the name of a directory", data.task)));
        }
        Ok(Head { data, dir, model, rows })
    };
    recipe.data.iter().map(head).collect()
}

fn rows(recipe: &Recipe, data: &Data, dir: &Path, model: &SequenceClassifier) -> Result<Rows> {
    let tokenizer = TextTokenizer::load(dir)?;
    let max_tokens = recipe.max_length.min(model.config().max_tokens());
    if recipe.objective != Objective::Entropy {
        let examples = read_labelled(&data.file)?;
        let labels = match model.labels() {
            [_] => Labels::Numbers,
            known => Labels::Classes { names: known.to_vec(), keys: known.to_vec() },
        };
        let chosen: Vec<_> = learned(examples.len(), data, recipe.seed())?.into_iter().map(|index| examples[index].clone()).collect();
        return Ok(Rows::Labelled(Classified::all(&chosen, &tokenizer, &labels, max_tokens)?.0));
    }
    if model.labels().len() < 2 {
        return Err(Error::InvalidConfig(format!(
            "task `{}` predicts a number, of which there is no entropy; set objective: ce",
            data.task
        )));
    }
    let texts = read_texts(&data.file)?;
    let encode = |index: usize| {
        let (text, pair) = &texts[index];
        tokenizer.encode_texts(text, pair.as_deref(), max_tokens).map(|tokens| (tokens.ids, tokens.type_ids))
    };
    Ok(Rows::Plain(learned(texts.len(), data, recipe.seed())?.into_iter().map(encode).collect::<Result<_>>()?))
}
