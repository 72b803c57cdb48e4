//! Recipes of several documents, as mergekit-multi reads them: a named one is a model for those that say its name.

use super::{Recipe, reason, wrong};
use peft_core::files::parse_yaml;
use peft_core::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::Path;

/// What a document calls its result.
#[derive(Deserialize)]
struct Named {
    name: Option<String>,
}

impl Recipe {
    /// Reads a recipe file of one document or several between lines of `---`, in an order in which each comes after those whose results
    /// it merges. The last is the result: the only one without a `name`, or else the only one that no other merges.
    ///
    /// # Errors
    /// As [`read`](Self::read) for each document, and [`Error::File`] for names that are given twice, that lead nowhere but to each
    /// other, or that no document merges, and for several results.
    pub fn read_all(file: &Path) -> Result<Vec<Self>> {
        let text = super::text(file)?;
        Self::parse_all(&text).map_err(|e| Error::file(file, reason(e)))
    }

    /// Understands the documents of a recipe, as [`read_all`](Self::read_all).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    pub fn parse_all(text: &str) -> Result<Vec<Self>> {
        let documents = documents(text);
        if let [] | [_] = documents.as_slice() {
            let recipe = Self::parse(documents.first().map_or(text, String::as_str))?;
            if recipe.name.is_some() {
                tracing::warn!("name: has no effect in a recipe of one document");
            }
            return Ok(vec![Self { text: text.into(), ..recipe }]);
        }
        // What is wrong with a document is told below.
        let names: Vec<String> = documents.iter().filter_map(|text| parse_yaml::<Named>(text).ok()?.name).collect();
        let numbered =
            |(i, text): (usize, &String)| Self::parse_beside(text, &names).map_err(|e| wrong(format!("document {}: {}", i + 1, reason(e))));
        let mut recipes = documents.iter().enumerate().map(numbered).collect::<Result<Vec<_>>>()?;
        recipes.iter_mut().for_each(|recipe| recipe.text = recipe.text.trim_start_matches('\n').into());
        check_names(&recipes)?;
        let result = result_of(&recipes)?;
        let mut last = recipes.remove(result);
        // The card of the result shows all documents.
        last.text = text.into();
        let mut ordered: Vec<Self> = Vec::new();
        while !recipes.is_empty() {
            let done = |recipe: &Self| !recipes.iter().any(|other| recipe.merges(other));
            let Some(next) = recipes.iter().position(done) else {
                let names: Vec<_> = recipes.iter().filter_map(|recipe| recipe.name.as_deref()).collect();
                return Err(wrong(format!("the documents {} are made from each other; none can be the first", names.join(", "))));
            };
            ordered.push(recipes.remove(next));
        }
        if let Some(other) = ordered.iter().find(|other| last.name.is_some() && other.merges(&last)) {
            let (name, last) = (other.name.as_deref().unwrap_or_default(), last.name.as_deref().unwrap_or_default());
            return Err(wrong(format!("the documents {name} and {last} are made from each other; none can be the first")));
        }
        let merged = |recipe: &&Self| ordered.iter().chain([&last]).any(|other| other.merges(recipe));
        if let Some(name) = ordered.iter().find(|recipe| !merged(recipe)).and_then(|recipe| recipe.name.as_deref()) {
            return Err(wrong(format!("no other document merges the result of `{name}`, which would be thrown away")));
        }
        ordered.push(last);
        Ok(ordered)
    }

    /// Whether the result of `other` is one of its models.
    fn merges(&self, other: &Self) -> bool {
        other.name.as_ref().is_some_and(|name| self.directories().iter().any(|model| model.model == *name))
    }
}

/// The documents, each a text of its own with as many empty lines before it as there are lines in the file, so that errors name its
/// lines. Those that say nothing are left out.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for (number, line) in text.split_inclusive('\n').enumerate() {
        // A marker stands at the beginning of a line, alone or before content.
        match line.strip_prefix("---").filter(|rest| rest.trim().is_empty() || rest.starts_with([' ', '\t'])) {
            Some(rest) => documents.push("\n".repeat(number) + rest),
            None if line.trim_end() == "..." => documents.push("\n".repeat(number + 1)),
            None => documents.last_mut().expect("never empty").push_str(line),
        }
    }
    let says = |document: &String| document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with(['#', '%']));
    documents.into_iter().filter(says).collect()
}

fn check_names(recipes: &[Recipe]) -> Result<()> {
    let mut names = BTreeSet::new();
    for name in recipes.iter().filter_map(|recipe| recipe.name.as_deref()) {
        if name.trim().is_empty() || name.starts_with('.') || name.contains(['/', '\\', '+', '@']) {
            return Err(wrong(format!("name: `{name}` cannot be the name of a result: letters, digits, `-` and `_`")));
        }
        if !names.insert(name) {
            return Err(wrong(format!("two documents have the name `{name}`")));
        }
    }
    Ok(())
}

/// The place of the document that is the result.
fn result_of(recipes: &[Recipe]) -> Result<usize> {
    let unnamed: Vec<usize> = (0..recipes.len()).filter(|i| recipes[*i].name.is_none()).collect();
    let unused = |i: &usize| !recipes.iter().any(|other| other.merges(&recipes[*i]));
    let candidates = if unnamed.is_empty() { (0..recipes.len()).filter(unused).collect() } else { unnamed };
    match candidates[..] {
        [result] => Ok(result),
        [] => Err(wrong("every document is made from another; one of them must be the result")),
        _ => Err(wrong(format!(
            "{} documents could be the result; give each a `name` but the last, which merges the others",
            candidates.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        Recipe::parse_all(text).unwrap().into_iter().map(|recipe| recipe.name.unwrap_or_else(|| "the result".into())).collect()
    }

    fn document(name: &str, models: &str) -> String {
        let name = if name.is_empty() { String::new() } else { format!("name: {name}\n") };
        format!("{name}merge_method: linear\nparameters: {{weight: 1}}\nmodels: {models}\n")
    }

    #[test]
    fn documents_come_after_those_whose_results_they_merge() {
        let text = [
            document("", "[{model: second}, {model: c}]"),
            document("second", "[{model: first+adapter}, {model: b}]"),
            document("first", "[{model: a}, {model: b}]"),
        ];
        assert_eq!(names(&text.join("---\n")), ["first", "second", "the result"]);
        assert_eq!(names(&format!("---\n{}\n--- # the end\n", text[2])), ["first"], "one document between markers");
        let named = [document("last", "[{model: first}, {model: c}]"), document("first", "[{model: a}, {model: b}]")];
        assert_eq!(names(&named.join("---\n")), ["first", "last"], "what no other merges is the result");
    }

    /// The tests run where `src` is a directory.
    #[test]
    fn a_directory_of_several_names_is_one_model_and_no_document() {
        let duplicate = |models: &str| Recipe::parse(&document("", models)).unwrap_err().to_string();
        for other in ["src/", "./src", "src/../src"] {
            let said = duplicate(&format!("[{{model: src}}, {{model: {other}}}]"));
            assert!(said.ends_with(&format!("{other} is listed twice: src is the same directory")), "{said}");
        }
        assert!(duplicate("[{model: a+src}, {model: a+./src}]").contains("a+src is the same directory"));
        let base = document("", "[{model: src}, {model: tests}]") + "base_model: ./src\ntokenizer_source: tests/\n";
        let recipe = Recipe::parse(&base).unwrap();
        assert_eq!(recipe.slices[0].sources.len(), 2, "the base is among them");
        assert_eq!(recipe.directories().len(), 2);
        let documents = [document("src", "[{model: a}, {model: b}]"), document("", "[{model: src}, {model: ./src}]")];
        assert_eq!(names(&documents.join("---\n")), ["src", "the result"]);
    }

    #[test]
    fn documents_without_one_result_are_refused() {
        let error = |texts: &[String]| Recipe::parse_all(&texts.join("---\n")).unwrap_err().to_string();
        let (a, b) = (document("a", "[{model: x}]"), document("b", "[{model: z}]"));
        assert!(error(&[a.clone(), b]).contains("2 documents could be the result"));
        assert!(error(&[a.clone(), a.clone(), document("", "[{model: a}]")]).contains("two documents have the name `a`"));
        let circle = [document("a", "[{model: b}]"), document("b", "[{model: a}]"), document("", "[{model: a}]")];
        assert!(error(&circle).contains("a, b are made from each other"), "{}", error(&circle));
        let unused = [document("mean", "[{model: x}]"), document("", "[{model: maen}]")];
        assert!(error(&unused).contains("no other document merges the result of `mean`"));
        assert!(error(&[a, "merge_method: linear\nmodles: []\n".into()]).contains("document 2: line 7 column 1: unknown field"));
    }
}
