//! Bringing embeddings of different vocabularies to one.

use crate::models::Model;
use crate::recipe::{ModelRef, Recipe, TokenSource, TokenizerRecipe, Vocabulary};
use crate::source::{Row, Rows, Stored};
use crate::tokenizer::Tokenizer;
use peft_core::files::{TensorInfo, nearest};
use peft_core::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The vocabulary of the result, and where each model has its tokens.
#[derive(Debug)]
pub struct Alignment {
    /// The tokenizer of the result.
    pub tokenizer: Tokenizer,
    /// The number of rows that embeddings of the result have.
    pub rows: usize,
    /// The directory that the tokenizer comes from, to which tokens may have been added.
    pub donor: PathBuf,
    recipe: TokenizerRecipe,
    /// Per model and token of the result, the number that the token has in the model.
    places: Vec<Vec<Option<usize>>>,
}

impl Alignment {
    /// What a recipe asks for; `None` if it asks for nothing.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if a model has no `tokenizer.json`, or tokens without rows.
    pub fn new(recipe: &Recipe, models: &[Model], extra: Option<(Tokenizer, PathBuf)>) -> Result<Option<Self>> {
        let Some(tokens) = recipe.tokenizer.clone() else { return Ok(None) };
        let tokenizers: Vec<&Tokenizer> = models.iter().map(tokenizer_of).collect::<Result<_>>()?;
        let rows: Vec<usize> = models.iter().map(embedding_rows).collect();
        check_tokens(&tokens, models)?;
        let (mut tokenizer, donor) = match (&tokens.source, extra) {
            (Vocabulary::Of(model), extra) => match models.iter().position(|m| m.name == *model) {
                Some(i) => (tokenizers[i].clone(), models[i].dir.clone()),
                None => extra.ok_or_else(|| Error::InvalidConfig(format!("{model} has no tokenizer.json")))?,
            },
            _ => {
                let mut base = tokenizers[0].clone();
                base.strip(rows[0]).map_err(|reason| Error::InvalidConfig(format!("the tokenizer of {}: {reason}", models[0].name)))?;
                (base, models[0].dir.clone())
            }
        };
        if tokens.source == Vocabulary::Union {
            for (other, rows) in tokenizers.iter().zip(&rows) {
                let within = other.in_order().into_iter().filter(|(_, id)| id < rows);
                within.for_each(|(token, _)| tokenizer.add(token, other.added(token)));
            }
        }
        tokens.tokens.keys().for_each(|token| tokenizer.add(token, None));
        let mut count = tokenizer.rows();
        if let Some(multiple) = tokens.pad_to_multiple_of.filter(|multiple| *multiple > 0) {
            count = count.next_multiple_of(multiple);
        }
        let order = tokenizer.in_order();
        let places = tokenizers.iter().zip(&rows).map(|(theirs, rows)| {
            let mut places = vec![None; tokenizer.rows()];
            for (token, id) in &order {
                places[*id] = theirs.ids.get(*token).copied().filter(|place| place < rows);
            }
            places
        });
        let places = places.collect();
        Ok(Some(Self { tokenizer, rows: count, donor, recipe: tokens, places }))
    }

    /// The embedding of each of the models that take part, by the vocabulary of the result.
    ///
    /// A token that a model lacks has the row that the recipe says, or that of the only model that has it, or the base's, or the mean of
    /// all that have it; a token of no model has zeros. Rows beyond the vocabulary are the mean of all before them.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if the recipe takes a token from a model that lacks it.
    pub fn rows<'a>(&self, inputs: &[Table<'a>], base: Option<usize>) -> Result<Vec<Arc<Rows<'a>>>> {
        let width = inputs.first().map_or(1, Table::width);
        let said = self.said(inputs)?;
        let order = self.tokenizer.in_order();
        let mut tables: Vec<Vec<Row>> = vec![vec![Row::Zero; self.rows]; inputs.len()];
        for (token, id) in order {
            let own: Vec<Option<Row>> =
                inputs.iter().map(|table| self.places[table.index][id].map(|row| Row::Of(table.stored, row))).collect();
            let force = self.recipe.tokens.get(token).is_some_and(|token| token.force);
            let fallback = match said.get(token) {
                Some(row) => row.clone(),
                None if self.recipe.tokens.contains_key(token) && (force || own.iter().any(Option::is_none)) => {
                    return Err(Error::InvalidConfig(format!("tokenizer.tokens: `{token}` needs a source, as a model lacks it")));
                }
                None => fallback(&own, base.and_then(|base| inputs.iter().position(|table| table.index == base)), width),
            };
            for (table, own) in tables.iter_mut().zip(own) {
                table[id] = own.filter(|_| !force).unwrap_or_else(|| fallback.clone());
            }
        }
        let tokens = self.tokenizer.rows();
        for table in &mut tables {
            if tokens < self.rows {
                let mean = mean(&table[..tokens], width);
                table[tokens..].fill(mean);
            }
        }
        Ok(tables.into_iter().map(|rows| Arc::new(Rows { width, rows })).collect())
    }

    /// The rows that the recipe names.
    fn said<'a>(&self, inputs: &[Table<'a>]) -> Result<BTreeMap<&str, Row<'a>>> {
        let mut said = BTreeMap::new();
        for (token, entry) in &self.recipe.tokens {
            let Some(source) = &entry.source else { continue };
            said.insert(token.as_str(), self.row_of(token, source, inputs)?);
        }
        Ok(said)
    }

    fn row_of<'a>(&self, token: &str, source: &TokenSource, inputs: &[Table<'a>]) -> Result<Row<'a>> {
        let models: Vec<&Model> = inputs.iter().map(|table| table.model).collect();
        Ok(match place_of(token, source, &models)? {
            None => Row::Zero,
            Some((model, row)) if row < inputs[model].rows() => Row::Of(inputs[model].stored, row),
            Some((model, row)) => return Err(no_row(token, models[model], inputs[model].rows(), row)),
        })
    }
}

/// What is wrong with the rows that the recipe names is told before anything is computed.
fn check_tokens(recipe: &TokenizerRecipe, models: &[Model]) -> Result<()> {
    let all: Vec<&Model> = models.iter().collect();
    for (token, entry) in &recipe.tokens {
        let Some(source) = &entry.source else { continue };
        if let Some((model, row)) = place_of(token, source, &all)?
            && row >= embedding_rows(all[model])
        {
            return Err(no_row(token, all[model], embedding_rows(all[model]), row));
        }
        let known = |model: &&Model| model.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.ids.contains_key(token));
        if !entry.force && all.iter().all(known) {
            tracing::warn!("tokenizer.tokens: every model has `{token}`; its source is not used without `force: true`");
        }
    }
    Ok(())
}

/// The model and the row that the recipe names for a token; `None` for zeros.
fn place_of(token: &str, source: &TokenSource, models: &[&Model]) -> Result<Option<(usize, usize)>> {
    let lacks = |what: String| Error::InvalidConfig(format!("tokenizer.tokens: `{token}`: {what}"));
    let place = |name: &ModelRef| {
        models.iter().position(|model| model.name == *name).ok_or_else(|| lacks(format!("{name} is not among the models")))
    };
    let find = |model: usize, text: &str, what: &str| {
        let ids = models[model].tokenizer.as_ref().map(|tokenizer| &tokenizer.ids);
        ids.and_then(|ids| ids.get(text).copied()).ok_or_else(|| {
            let known = ids.into_iter().flatten().map(|(known, _)| known.as_str());
            lacks(format!("{} has no {what}; the nearest is `{}`", models[model].name, nearest(text, known, 1).join("")))
        })
    };
    Ok(match source {
        TokenSource::Zero => None,
        TokenSource::Model(name) => {
            let model = place(name)?;
            Some((model, find(model, token, "such token")?))
        }
        TokenSource::Text(name, text) => {
            let model = place(name)?;
            Some((model, find(model, text, &format!("token `{text}`"))?))
        }
        TokenSource::Id(name, id) => Some((place(name)?, *id)),
    })
}

fn no_row(token: &str, model: &Model, rows: usize, row: usize) -> Error {
    Error::InvalidConfig(format!("tokenizer.tokens: `{token}`: {} has {rows} rows, no row {row}", model.name))
}

/// The embedding of one model.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The model's number.
    pub index: usize,
    /// The model.
    pub model: &'a Model,
    /// Its shape.
    pub info: &'a TensorInfo,
    /// Its numbers.
    pub stored: Stored<'a>,
}

impl Table<'_> {
    fn width(&self) -> usize {
        self.info.shape.iter().skip(1).product::<usize>().max(1)
    }

    fn rows(&self) -> usize {
        self.info.shape.first().copied().unwrap_or(0)
    }
}

/// The row of a token in models that lack it.
fn fallback<'a>(own: &[Option<Row<'a>>], base: Option<usize>, width: usize) -> Row<'a> {
    let present: Vec<Row> = own.iter().flatten().cloned().collect();
    match (present.as_slice(), base.and_then(|base| own[base].clone())) {
        ([], _) => Row::Zero,
        ([only], _) => only.clone(),
        (_, Some(base)) => base,
        // All models have it, so that no row is missing.
        (present, None) if present.len() == own.len() => Row::Zero,
        (present, None) => mean(present, width),
    }
}

fn mean<'a>(rows: &[Row<'_>], width: usize) -> Row<'a> {
    let (mut sum, mut row) = (vec![0f32; width], vec![0f32; width]);
    for source in rows {
        source.read(width, 0, &mut row);
        sum.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
    }
    let count = rows.len().max(1) as f32;
    Row::Given(sum.into_iter().map(|sum| sum / count).collect())
}

fn tokenizer_of(model: &Model) -> Result<&Tokenizer> {
    let file = model.dir.join(crate::tokenizer::TOKENIZER_FILE);
    model.tokenizer.as_ref().ok_or_else(|| Error::file(file, "not found; vocabularies are merged by this file"))
}

/// The number of tokens that a model has rows for.
pub fn embedding_rows(model: &Model) -> usize {
    let keys = model.checkpoint.keys().filter(|key| crate::models::is_by_token(key));
    let rows = keys.filter_map(|key| model.checkpoint.info(key)?.shape.first().copied());
    rows.min().unwrap_or(usize::MAX)
}
