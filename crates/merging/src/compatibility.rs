//! Whether models compute alike, so that a weight of one means the same in another.

mod computation;

use crate::models::Model;
use crate::vocabularies::compare;
use computation::{Computation, Difference};
use peft_core::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// What of the models is compared.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The labels of classifiers, whose rows are merged: off where each model keeps its own head.
    pub heads: bool,
    /// What is said layer by layer: off where the result has other layers than its models.
    pub layers: bool,
    /// The tokens that rows of embeddings stand for: off where they are brought to one vocabulary.
    pub vocabularies: bool,
}

/// Compares each model with the first by its configuration and vocabulary. What does not matter for certain, or cannot be known, is
/// given back as warnings; with `allow` all of it is.
///
/// # Errors
/// [`Error::InvalidConfig`] naming each setting by which the models compute in different ways with its values, labels that differ, and
/// vocabularies that differ or cannot be compared.
pub fn check_compatible(models: &[Model], scope: Scope, allow: bool) -> Result<Vec<String>> {
    let Some((first, others)) = models.split_first() else { return Ok(Vec::new()) };
    let (mut wrong, mut warnings) = (Vec::new(), Vec::new());
    let ours = Computation::of(&first.config, scope);
    for model in others {
        if model.config.is_null() || first.config.is_null() {
            let without = if first.config.is_null() { first } else { model };
            warnings.push(format!("{} has no config.json: whether it computes as the others do is not checked", without.name));
        } else {
            let theirs = Computation::of(&model.config, scope);
            wrong.extend(refused(first, model, ours.differences(&theirs)));
            if let Some(unknown) = told(first, model, &ours.unknown_differences(&theirs)) {
                warnings.push(format!("{unknown}; the result has those of {}", first.name));
            }
        }
        if scope.heads {
            wrong.extend(labels(first, model));
        }
        if scope.vocabularies {
            match compare(first, model)? {
                Compared::Same => {}
                Compared::Unknown(reason) => warnings.push(reason),
                Compared::Differ(reason) => wrong.push(reason),
            }
        }
    }
    if wrong.is_empty() || allow {
        warnings.extend(wrong);
        return Ok(warnings);
    }
    Err(Error::InvalidConfig(format!("{}; or pass --allow-incompatible to merge them all the same", wrong.join("; "))))
}

/// What comes of comparing vocabularies.
pub(crate) enum Compared {
    /// They are the same as far as there are rows.
    Same,
    /// There is nothing to compare.
    Unknown(String),
    /// They differ, or cannot be shown to be the same.
    Differ(String),
}

fn refused(first: &Model, model: &Model, differences: Vec<Difference>) -> Option<String> {
    let listed = listed(first, model, &differences)?;
    Some(format!("{} and {} compute in different ways, so that their weights cannot be mixed: {listed}", first.name, model.name))
}

fn told(first: &Model, model: &Model, differences: &[Difference]) -> Option<String> {
    Some(format!("the configurations of {} and {} differ: {}", first.name, model.name, listed(first, model, differences)?))
}

fn listed(first: &Model, model: &Model, differences: &[Difference]) -> Option<String> {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "not set".into(), short);
    let one = |difference: &Difference| {
        let Difference { name, ours, theirs } = difference;
        format!("{name} is {} in {} and {} in {}", value(ours), first.name, value(theirs), model.name)
    };
    let listed: Vec<String> = differences.iter().map(one).collect();
    (!listed.is_empty()).then(|| listed.join(", "))
}

/// A value as people read it, cut where it is long.
fn short(value: &Value) -> String {
    let whole = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e15).map(|number| (number as i64).to_string());
    let text = whole.unwrap_or_else(|| value.as_str().map_or_else(|| value.to_string(), String::from));
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Whether the classes of two classifiers stand in another order. Names that transformers gives where there are none say nothing.
fn labels(first: &Model, model: &Model) -> Option<String> {
    let of = |model: &Model| -> Option<BTreeMap<String, String>> {
        let labels = model.config.get("id2label")?.as_object()?;
        let labels: BTreeMap<String, String> = labels.iter().map(|(id, name)| (id.clone(), short(name))).collect();
        (!labels.iter().all(|(id, name)| *name == format!("LABEL_{id}"))).then_some(labels)
    };
    let (ours, theirs) = (of(first)?, of(model)?);
    let (id, name) = ours.iter().find(|(id, name)| theirs.get(*id).is_some_and(|other| other != *name))?;
    Some(format!(
        "the labels of {} and {} differ: class {id} is `{name}` in one and `{}` in the other, so that rows of the head cannot be mixed",
        first.name, model.name, theirs[id]
    ))
}
