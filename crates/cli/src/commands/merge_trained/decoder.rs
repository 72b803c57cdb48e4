//! Decoders: all their parameters are merged, and the data are what `peft finetune` reads.

use super::recipe::Recipe;
use super::{Planned, Session, learned};
use crate::loading::Text;
use burn::tensor::{DType, Device, Tensor};
use peft_core::files::copy_checkpoint_files;
use peft_core::{Error, LanguageModel, Result};
use peft_merge::atlas::Objective;
use peft_merge::{Loss, Stream, TaskVectors};
use peft_models::CausalLm;
use peft_objectives::entropy;
use peft_train::data::{EncodeConfig, Encoded, Encoder, HostBatch, read_examples};
use peft_train::{LanguageModelling, Task};

/// What would be done.
pub fn plan(recipe: &Recipe, device: &Device) -> Result<Planned> {
    let (_, rows) = rows(recipe)?;
    let examples: Vec<usize> = rows.iter().map(Vec::len).collect();
    Planned::of(recipe, &vectors(recipe, device)?, &examples)
}

/// Merge into the directory of the session, which becomes a checkpoint; its name in there and its bytes.
pub fn merge(session: &mut Session, device: &Device) -> Result<Vec<(String, u64)>> {
    let recipe = session.recipe;
    if recipe.objective == Objective::Negation {
        let reason = "objective: negation is for classifiers, whose accuracy says when to stop; use the library for decoders";
        return Err(Error::InvalidConfig(reason.into()));
    }
    if recipe.objective == Objective::Entropy {
        tracing::warn!(
            "objective: entropy lets a language model settle for the task whose tokens are easiest; data with good answers are better \
             learned by objective: ce"
        );
    }
    let (text, rows) = rows(recipe)?;
    let pad_id = text.tokenizer.pad_id();
    let stream = |(data, rows): (&super::recipe::Data, &Vec<Encoded>)| {
        let (count, rows, device) = (rows.len(), rows.clone(), device.clone());
        let make = move |indices: &[usize]| {
            let rows: Vec<[&Encoded; 1]> = indices.iter().map(|index| [&rows[*index]]).collect();
            (HostBatch::new(&rows, pad_id), device.clone())
        };
        Stream::shuffled(data.task.clone(), count, recipe.batch(), recipe.seed(), make)
    };
    let mut streams = recipe.data.iter().zip(&rows).map(stream).collect::<Result<Vec<_>>>()?;
    let supervised = LanguageModelling::new(Vec::<Encoded>::new(), pad_id);
    let objective = |model: &CausalLm, (batch, device): &(HostBatch, Device)| -> Loss {
        match recipe.objective {
            Objective::Entropy => unsureness(model, batch, device).into(),
            _ => supervised.loss(model, batch.clone(), device).into(),
        }
    };
    // Before files of this merge, which may have the names of those of a base that was merged itself.
    copy_checkpoint_files(&recipe.base.1, session.out)?;
    let model = session.learn(vectors(recipe, device)?, &mut streams, &objective, None)?;
    let bytes = model.save(session.out, &recipe.base.1, None, session.shard_size)?;
    Ok(vec![(String::new(), bytes)])
}

/// The mean entropy of the distributions of the tokens that are learned.
fn unsureness(model: &CausalLm, batch: &HostBatch, device: &Device) -> Tensor<1> {
    let batch = batch.to_device(device);
    let hidden = model.hidden(batch.ids);
    let [rows, length, d] = hidden.dims();
    entropy(model.head(hidden.reshape([rows * length, d]).select(0, batch.positions)))
}

fn vectors(recipe: &Recipe, device: &Device) -> Result<TaskVectors<CausalLm>> {
    let base = CausalLm::load(&recipe.base.1, device, Some(DType::F32))?;
    let host = device.clone().without_autodiff();
    let models = recipe.models.iter().map(|(name, dir)| Ok((name.clone(), CausalLm::load(dir, &host, None)?)));
    let models: Vec<(String, CausalLm)> = models.collect::<Result<_>>()?;
    // Where one of them has a head of its own, all have.
    if base.is_tied() && models.iter().all(|(_, model)| model.is_tied()) {
        return TaskVectors::new(base, models, |_| true);
    }
    TaskVectors::new(base.untie(), models.into_iter().map(|(name, model)| (name, model.untie())).collect(), |_| true)
}

/// The examples of each task as tokens of the base.
fn rows(recipe: &Recipe) -> Result<(Text, Vec<Vec<Encoded>>)> {
    let text = Text::load(&recipe.base.1)?;
    let config = EncodeConfig { max_length: recipe.max_length, train_on_prompt: false };
    let mut all = Vec::new();
    for data in &recipe.data {
        let examples = read_examples(&data.file)?;
        let chosen: Vec<_> = learned(examples.len(), data, recipe.seed())?.into_iter().map(|index| examples[index].clone()).collect();
        let mut encoder = Encoder::new(&text.tokenizer, text.template.as_ref(), config.clone())?;
        let rows = encoder.encode_all(&chosen)?;
        if rows.is_empty() {
            return Err(Error::file(
                &data.file,
                format!("none of {} examples has a token to learn within {} tokens", chosen.len(), recipe.max_length),
            ));
        }
        all.push(rows);
    }
    Ok((text, all))
}
