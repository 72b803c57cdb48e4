//! Which architecture a `config.json` describes, and what its absent keys mean.

use crate::Architecture;

/// What `config.json` calls the supported architectures.
pub(crate) const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "BertModel", model_type: "bert", models: "BERT, MiniLM, BGE, E5, GTE" },
    Architecture { name: "BertForSequenceClassification", model_type: "bert", models: "BERT with a classifier of texts" },
    Architecture { name: "BertForTokenClassification", model_type: "bert", models: "BERT with a classifier of tokens" },
    Architecture { name: "RobertaModel", model_type: "roberta", models: "RoBERTa, DistilRoBERTa" },
    Architecture { name: "RobertaForSequenceClassification", model_type: "roberta", models: "RoBERTa with a classifier of texts" },
    Architecture { name: "RobertaForTokenClassification", model_type: "roberta", models: "RoBERTa with a classifier of tokens" },
    Architecture { name: "XLMRobertaModel", model_type: "xlm-roberta", models: "XLM-R, multilingual E5" },
    Architecture { name: "XLMRobertaForSequenceClassification", model_type: "xlm-roberta", models: "XLM-R with a classifier of texts" },
    Architecture { name: "XLMRobertaForTokenClassification", model_type: "xlm-roberta", models: "XLM-R with a classifier of tokens" },
    Architecture { name: "CamembertModel", model_type: "camembert", models: "CamemBERT" },
    Architecture { name: "CamembertForSequenceClassification", model_type: "camembert", models: "CamemBERT with a classifier of texts" },
    Architecture { name: "CamembertForTokenClassification", model_type: "camembert", models: "CamemBERT with a classifier of tokens" },
];

/// The architectures that share BERT's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// BERT: positions from 0, two types of tokens, classifiers read the pooled first token.
    Bert,
    /// RoBERTa: positions begin behind the padding token's id, one type of tokens, classifiers have a hidden layer of their own.
    Roberta,
    /// XLM-R: as RoBERTa.
    XlmRoberta,
    /// CamemBERT: as RoBERTa.
    Camembert,
}

impl Family {
    const ALL: [Self; 4] = [Self::Bert, Self::Roberta, Self::XlmRoberta, Self::Camembert];

    /// Its name in `model_type` of `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::XlmRoberta => "xlm-roberta",
            Self::Camembert => "camembert",
        }
    }

    /// What the names of its architectures begin with.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Bert => "Bert",
            Self::Roberta => "Roberta",
            Self::XlmRoberta => "XLMRoberta",
            Self::Camembert => "Camembert",
        }
    }

    /// Under which name a model with a head holds its encoder.
    pub(super) fn prefix(self) -> &'static str {
        if self == Self::Bert { "bert" } else { "roberta" }
    }

    /// The family that a `config.json` names in `model_type`, else in `architectures`.
    pub(super) fn detect(architectures: &[String], model_type: Option<&str>) -> Result<Self, String> {
        let found = match (model_type, architectures.first()) {
            (Some(name), _) => Self::ALL.into_iter().find(|family| family.model_type() == name).ok_or(("model_type", name)),
            (None, Some(name)) => {
                Self::ALL.into_iter().find(|family| is_class(name, family.class())).ok_or(("architecture", name.as_str()))
            }
            (None, None) => return Err(format!("names neither `model_type` nor `architectures`; supported: {}", names())),
        };
        found.map_err(|(kind, name)| format!("{kind} `{name}` is not a supported encoder; supported model types: {}", names()))
    }
}

/// Whether `name` is `class` with a head or none: `BertForMaskedLM`, `BertModel`.
fn is_class(name: &str, class: &str) -> bool {
    name.strip_prefix(class).is_some_and(|rest| rest == "Model" || rest.starts_with("For"))
}

fn names() -> String {
    Family::ALL.map(|family| format!("`{}`", family.model_type())).join(", ")
}
