//! The outputs of a classifier: their names, and what they mean.

use serde_json::{Map, Value};

/// What a classifier of texts learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A number: one output.
    Regression,
    /// One label of several: an output for each.
    SingleLabel,
}

impl Problem {
    /// Its name in `problem_type` of `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Regression => "regression",
            Self::SingleLabel => "single_label_classification",
        }
    }

    /// As transformers decides: by `problem_type`, else by the number of outputs.
    pub(super) fn of(problem_type: Option<&str>, outputs: usize) -> Result<Self, String> {
        match (problem_type, outputs) {
            (_, 0) => Err("a classifier needs labels, and there are none".into()),
            (None | Some("regression"), 1) => Ok(Self::Regression),
            (None | Some("single_label_classification"), 2..) => Ok(Self::SingleLabel),
            (Some("single_label_classification"), 1) => Err("single_label_classification needs at least 2 labels, found 1".into()),
            (Some("regression"), n) => {
                Err(format!("regression of several numbers is not supported: problem_type `regression` with {n} labels"))
            }
            (Some(other), _) => {
                Err(format!("problem_type `{other}` is not supported; supported: `single_label_classification`, `regression`"))
            }
        }
    }
}

/// The labels of a `config.json`; without any, transformers assumes two.
pub(super) fn read(id2label: Option<Map<String, Value>>, num_labels: Option<usize>) -> Result<Vec<String>, String> {
    let Some(map) = id2label else {
        return Ok((0..num_labels.unwrap_or(2)).map(|id| format!("LABEL_{id}")).collect());
    };
    let mut labels = vec![None; map.len()];
    for (id, label) in &map {
        let place = id.parse().ok().and_then(|id: usize| labels.get_mut(id));
        let place = place.ok_or_else(|| format!("id2label has {} entries, one of them for `{id}`; ids count from 0", map.len()))?;
        *place = Some(label.as_str().map_or_else(|| label.to_string(), String::from));
    }
    labels.into_iter().enumerate().map(|(id, label)| label.ok_or_else(|| format!("id2label has no entry for {id}"))).collect()
}

/// Say in a `config.json` what the outputs are called.
pub(super) fn write(labels: &[String], json: &mut Map<String, Value>) {
    let ids = labels.iter().enumerate();
    json.insert("id2label".into(), Value::Object(ids.clone().map(|(id, label)| (id.to_string(), label.clone().into())).collect()));
    json.insert("label2id".into(), Value::Object(ids.map(|(id, label)| (label.clone(), id.into())).collect()));
    json.insert("num_labels".into(), labels.len().into());
}
