//! Which modules a method adapts, in HF PEFT's terms.

use crate::site::Site;
use crate::{Error, Result};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Module names: a list, or one string that is a regular expression or `all-linear`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(untagged)]
pub enum Names {
    /// A regular expression that must match the whole path, or the word `all-linear`.
    Pattern(String),
    /// Entries that equal the path or its last components.
    List(Vec<String>),
}

impl Names {
    /// A list of names.
    pub fn list<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::List(names.into_iter().map(Into::into).collect())
    }

    /// Whether the names say `all-linear`.
    pub fn is_all_linear(&self) -> bool {
        matches!(self, Self::Pattern(p) if p.eq_ignore_ascii_case("all-linear"))
    }

    fn patterns(&self) -> Vec<String> {
        match self {
            Self::Pattern(p) => vec![p.clone()],
            Self::List(list) => list.clone(),
        }
    }

    fn matcher(&self, field: &str) -> Result<Matcher> {
        match self {
            Self::Pattern(p) => Ok(Matcher::Whole(whole(p, field)?)),
            Self::List(list) => Ok(Matcher::Suffix(list.clone())),
        }
    }
}

enum Matcher {
    Whole(Regex),
    Suffix(Vec<String>),
}

impl Matcher {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Whole(regex) => regex.is_match(path),
            Self::Suffix(list) => list.iter().any(|entry| ends_with_component(path, entry)),
        }
    }
}

/// Whether `path` equals `entry` or ends with `.entry`.
pub fn ends_with_component(path: &str, entry: &str) -> bool {
    path.strip_suffix(entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn whole(pattern: &str, field: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|e| Error::InvalidConfig(format!("{field}: `{pattern}` is not a regular expression: {e}")))
}

/// The selection of modules to adapt; field names and meaning as in HF PEFT.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct Targets {
    /// Modules to adapt.
    pub target_modules: Option<Names>,
    /// Modules to leave out even if they match.
    #[serde(default)]
    pub exclude_modules: Option<Names>,
    /// Layers to adapt, by the first number in the path. Only beside a list of target modules, as in HF PEFT.
    #[serde(default)]
    pub layers_to_transform: Option<Layers>,
}

/// One layer index or several.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(untagged)]
pub enum Layers {
    /// One layer.
    One(usize),
    /// Several layers.
    Several(Vec<usize>),
}

impl Layers {
    fn includes(&self, layer: usize) -> bool {
        match self {
            Self::One(one) => *one == layer,
            // An empty list narrows nothing, as in HF PEFT.
            Self::Several(several) => several.is_empty() || several.contains(&layer),
        }
    }
}

impl Targets {
    /// Adapt these modules.
    pub fn new(names: Names) -> Self {
        Self { target_modules: Some(names), ..Self::default() }
    }

    /// The weights that match, among those that `accepts` says the method can adapt.
    ///
    /// # Errors
    /// [`Error::NoTargetFound`] with the nearest names if none matches; [`Error::InvalidConfig`] for a bad pattern, absent targets, or
    /// `layers_to_transform` beside a pattern.
    pub fn select<'a>(&self, sites: &'a [Site], accepts: impl Fn(&Site) -> bool) -> Result<Vec<&'a Site>> {
        let names = self.target_modules.as_ref().ok_or_else(|| Error::InvalidConfig("target_modules is not set".into()))?;
        if let (Names::Pattern(pattern), Some(_)) = (names, &self.layers_to_transform) {
            let message = format!("layers_to_transform needs a list of target_modules; the pattern `{pattern}` can name the layers itself");
            return Err(Error::InvalidConfig(message));
        }
        let wanted = names.matcher("target_modules")?;
        let excluded = self.exclude_modules.as_ref().map(|names| names.matcher("exclude_modules")).transpose()?;
        let candidates: Vec<&Site> = sites.iter().filter(|site| site.is_weight() && accepts(site)).collect();
        let selected: Vec<&Site> = candidates
            .iter()
            .copied()
            .filter(|site| if names.is_all_linear() { site.is_linear() && !site.is_output_head() } else { wanted.matches(&site.module) })
            .filter(|site| !excluded.as_ref().is_some_and(|e| e.matches(&site.module)))
            .filter(|site| self.layers_to_transform.as_ref().is_none_or(|l| layer(&site.module).is_some_and(|i| l.includes(i))))
            .collect();
        if selected.is_empty() {
            let patterns = names.patterns();
            let nearest = nearest(&patterns, candidates.iter().map(|site| site.module.as_str()));
            return Err(Error::NoTargetFound { patterns, nearest });
        }
        Ok(selected)
    }
}

/// The first number among the components of a path.
fn layer(path: &str) -> Option<usize> {
    path.split('.').find_map(|component| component.parse().ok())
}

/// The value of the first pattern that matches the path: key `k` matches when the regular expression `(.*\.)?(k)$` does.
///
/// The keys are tried in alphabetical order, which is the order in which HF PEFT writes them to a file and tries them when it reads it.
///
/// # Errors
/// [`Error::InvalidConfig`] if a key is not a regular expression.
pub fn pattern_value<'a, T>(patterns: &'a BTreeMap<String, T>, path: &str) -> Result<Option<&'a T>> {
    for (key, value) in patterns {
        if whole(&format!(r"(.*\.)?({key})"), "rank_pattern or alpha_pattern")?.is_match(path) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Up to five distinct names nearest to any of the patterns, by edit distance of their last components.
pub(crate) fn nearest<'a>(patterns: &[String], paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
    let mut names: Vec<String> = Vec::new();
    for path in paths {
        let name = last(path);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort_by_key(|name| patterns.iter().map(|pattern| distance(&last(pattern), name)).min());
    names.truncate(5);
    names
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::ParamId;

    fn site(module: &str, kind: &str) -> Site {
        Site { module: module.into(), field: "weight".into(), kind: kind.into(), shape: vec![4, 4], id: ParamId::new() }
    }

    fn model() -> Vec<Site> {
        let mut sites = vec![site("model.embed_tokens", "Embedding")];
        for layer in 0..3 {
            for name in ["q_proj", "k_proj", "v_proj"] {
                sites.push(site(&format!("model.layers.{layer}.self_attn.{name}"), "Linear"));
            }
        }
        sites.push(site("lm_head", "Linear"));
        sites
    }

    fn selected(targets: &Targets) -> Result<Vec<String>> {
        let sites = model();
        Ok(targets.select(&sites, |_| true)?.into_iter().map(|s| s.module.clone()).collect())
    }

    #[test]
    fn a_list_entry_matches_whole_components_only() {
        assert_eq!(selected(&Targets::new(Names::list(["q_proj"]))).unwrap().len(), 3);
        assert!(selected(&Targets::new(Names::list(["proj"]))).is_err());
        assert_eq!(selected(&Targets::new(Names::list(["layers.1.self_attn.v_proj"]))).unwrap().len(), 1);
    }

    #[test]
    fn a_string_is_a_regular_expression_for_the_whole_path() {
        let targets = Targets::new(Names::Pattern(r".*\.[01]\..*\.(q|k)_proj".into()));
        assert_eq!(selected(&targets).unwrap().len(), 4);
        assert!(selected(&Targets::new(Names::Pattern("q_proj".into()))).is_err());
    }

    #[test]
    fn all_linear_leaves_out_embeddings_and_the_output_head() {
        let names = selected(&Targets::new(Names::Pattern("all-linear".into()))).unwrap();
        assert_eq!(names.len(), 9);
        assert!(!names.contains(&"lm_head".to_string()));
    }

    #[test]
    fn exclusions_and_layers_narrow_the_selection() {
        let mut targets = Targets::new(Names::list(["q_proj", "v_proj"]));
        targets.exclude_modules = Some(Names::list(["v_proj"]));
        targets.layers_to_transform = Some(Layers::Several(vec![0, 2]));
        let expected = ["model.layers.0.self_attn.q_proj", "model.layers.2.self_attn.q_proj"];
        assert_eq!(selected(&targets).unwrap(), expected);
    }

    #[test]
    fn layers_narrow_lists_only() {
        let mut targets = Targets::new(Names::Pattern("all-linear".into()));
        targets.layers_to_transform = Some(Layers::One(1));
        assert!(matches!(selected(&targets), Err(Error::InvalidConfig(message)) if message.contains("layers_to_transform")));
        targets.target_modules = Some(Names::list(["q_proj"]));
        assert_eq!(selected(&targets).unwrap(), ["model.layers.1.self_attn.q_proj"]);
        targets.layers_to_transform = Some(Layers::Several(Vec::new()));
        assert_eq!(selected(&targets).unwrap().len(), 3);
    }

    #[test]
    fn a_target_that_matches_nothing_lists_the_nearest_names() {
        let error = selected(&Targets::new(Names::list(["q_prj"]))).unwrap_err();
        let expected = "no module matches `q_prj`; the nearest names are `q_proj`, `k_proj`, `v_proj`, `lm_head`, `embed_tokens`";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_pattern_key_matches_the_end_of_a_path() {
        let patterns = BTreeMap::from([("q_proj".to_string(), 1), (r"layers\.1\..*v_proj".to_string(), 2)]);
        let value = |path| pattern_value(&patterns, path).unwrap().copied();
        assert_eq!(value("model.layers.0.self_attn.q_proj"), Some(1));
        assert_eq!(value("model.layers.1.self_attn.v_proj"), Some(2));
        assert_eq!(value("model.layers.0.self_attn.v_proj"), None);
        assert_eq!(value("model.layers.0.self_attn.eq_proj"), None);
    }
}
