//! Which modules a method adapts, in HF PEFT's terms.

use crate::expression::Expression;
use crate::site::Site;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Module names: a list, or one string that is a regular expression or `all-linear`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(untagged, expecting = "a list of names or one text is asked for here")]
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

    /// Whether nothing is named: an empty list or text.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Pattern(pattern) => pattern.is_empty(),
            Self::List(list) => list.is_empty(),
        }
    }

    /// The entries; of a pattern the pattern.
    pub fn entries(&self) -> &[String] {
        match self {
            Self::Pattern(pattern) => std::slice::from_ref(pattern),
            Self::List(list) => list,
        }
    }

    fn matcher(&self, setting: &str) -> Result<Matcher<'_>> {
        match self {
            Self::Pattern(_) if self.is_all_linear() => Ok(Matcher::AllLinear),
            Self::Pattern(pattern) => Ok(Matcher::Whole(Expression::whole(pattern, setting)?)),
            Self::List(list) => Ok(Matcher::Ends(list)),
        }
    }
}

enum Matcher<'a> {
    AllLinear,
    Whole(Expression),
    Ends(&'a [String]),
}

/// Whether `path` equals `entry` or ends with `.entry`.
pub fn ends_with_component(path: &str, entry: &str) -> bool {
    path.strip_suffix(entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The selection of modules to adapt; field names and meaning as in HF PEFT.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct Targets {
    /// Modules to adapt.
    pub target_modules: Option<Names>,
    /// Modules to leave out even if they match.
    #[serde(default)]
    pub exclude_modules: Option<Names>,
    /// Layers to adapt, by their number in the path. Only beside a list of target modules, as in HF PEFT.
    #[serde(default)]
    pub layers_to_transform: Option<Layers>,
    /// What stands before a layer's number in the path, such as `layers`: expressions, of which the first that matches counts.
    /// Without it, any name may.
    #[serde(default)]
    pub layers_pattern: Option<Names>,
}

/// One layer index or several.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(untagged, expecting = "the number of a layer, or a list of such numbers, is asked for here")]
pub enum Layers {
    /// One layer.
    One(usize),
    /// Several layers.
    Several(Vec<usize>),
}

impl Layers {
    fn numbers(&self) -> &[usize] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

/// A setting that matches nothing in a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Miss {
    /// The setting, for example `target_modules`.
    pub setting: &'static str,
    /// The entry that matches nothing.
    pub entry: String,
    /// Up to five names that exist, the nearest first.
    pub nearest: Vec<String>,
}

impl Miss {
    /// An entry that matches none of these names.
    pub fn new<'a>(setting: &'static str, entry: &str, names: impl Iterator<Item = &'a str>) -> Self {
        Self { setting, entry: entry.into(), nearest: nearest(&[entry.into()], names) }
    }
}

impl std::fmt::Display for Miss {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let nearest: Vec<String> = self.nearest.iter().map(|name| format!("`{name}`")).collect();
        write!(f, "{}: `{}` matches nothing in this model; the nearest are {}", self.setting, self.entry, nearest.join(", "))
    }
}

/// [`Targets`] with their expressions compiled.
pub struct Selection<'a> {
    targets: Matcher<'a>,
    excluded: Option<Matcher<'a>>,
    layers: Option<(&'a [usize], Vec<Prefix>)>,
}

/// What may stand before the number of a layer.
enum Prefix {
    Any,
    Named(Expression),
}

impl Matcher<'_> {
    fn matches(&self, module: &str, linear: bool) -> Result<bool> {
        match self {
            Self::AllLinear => Ok(linear && !is_output_head(module)),
            Self::Whole(expression) => expression.matches(module),
            Self::Ends(list) => Ok(list.iter().any(|entry| ends_with_component(module, entry))),
        }
    }
}

/// Whether a module is the projection to the output vocabulary or classes, or lies in it: what `all-linear` leaves out.
pub fn is_output_head(module: &str) -> bool {
    module.split('.').any(|name| matches!(name, "lm_head" | "classifier" | "score"))
}

impl Selection<'_> {
    /// Whether the module with this path is adapted; `linear` says whether it is a linear projection.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for an expression that takes too many steps.
    pub fn includes(&self, module: &str, linear: bool) -> Result<bool> {
        if self.excludes(module)? || !self.targets.matches(module, linear)? {
            return Ok(false);
        }
        let named_in_full = matches!(self.targets, Matcher::Ends(list) if list.iter().any(|entry| entry == module));
        let Some((numbers, prefixes)) = self.layers.as_ref().filter(|_| !named_in_full) else { return Ok(true) };
        Ok(layer(module, prefixes)?.is_some_and(|layer| numbers.contains(&layer)))
    }

    /// Whether `exclude_modules` names the module.
    fn excludes(&self, module: &str) -> Result<bool> {
        self.excluded.as_ref().map_or(Ok(false), |excluded| excluded.matches(module, true))
    }
}

/// The number of the layer that a module lies in: the first component that is one, behind a name that may stand before it.
fn layer(module: &str, prefixes: &[Prefix]) -> Result<Option<usize>> {
    let names: Vec<&str> = module.split('.').collect();
    // As in HF PEFT, a number that is not the last component and has two before it comes first.
    let (inner, outer): (Vec<usize>, Vec<usize>) = (0..names.len()).partition(|i| *i >= 2 && i + 1 < names.len());
    for prefix in prefixes {
        for i in inner.iter().chain(&outer).copied() {
            let Ok(number) = names[i].parse() else { continue };
            let fits = match prefix {
                Prefix::Any => true,
                Prefix::Named(name) => name.matches(&names[..i].join("."))?,
            };
            if fits {
                return Ok(Some(number));
            }
        }
    }
    Ok(None)
}

impl Targets {
    /// Adapt these modules.
    pub fn new(names: Names) -> Self {
        Self { target_modules: Some(names), ..Self::default() }
    }

    /// The selection, checked and compiled.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a bad expression, absent targets, `layers_to_transform` beside an expression, or a `layers_pattern`
    /// without `layers_to_transform`.
    pub fn selection(&self) -> Result<Selection<'_>> {
        let names = self.target_modules.as_ref().ok_or_else(|| Error::InvalidConfig("target_modules is not set".into()))?;
        if let (Names::Pattern(pattern), Some(_)) = (names, &self.layers_to_transform) {
            let message = format!("layers_to_transform needs a list of target_modules; the pattern `{pattern}` can name the layers itself");
            return Err(Error::InvalidConfig(message));
        }
        let pattern = self.layers_pattern.as_ref().filter(|names| !names.is_empty());
        if pattern.is_some() && self.layers_to_transform.is_none() {
            return Err(Error::InvalidConfig("layers_pattern needs layers_to_transform beside it, the numbers of the layers".into()));
        }
        let named = |entry: &String| Expression::whole(&format!(r"(?:.*\.)?(?:{entry})"), "layers_pattern").map(Prefix::Named);
        let prefixes = match pattern {
            Some(names) => names.entries().iter().map(named).collect::<Result<_>>()?,
            None => vec![Prefix::Any],
        };
        // An empty list narrows nothing, as in HF PEFT.
        let numbers = self.layers_to_transform.as_ref().map(Layers::numbers).filter(|numbers| !numbers.is_empty());
        let excluded = self.exclude_modules.as_ref().filter(|names| !names.is_empty());
        Ok(Selection {
            targets: names.matcher("target_modules")?,
            excluded: excluded.map(|names| names.matcher("exclude_modules")).transpose()?,
            layers: numbers.map(|numbers| (numbers, prefixes)),
        })
    }

    /// The weights that match, among those that `accepts` says the method can adapt.
    ///
    /// # Errors
    /// [`Error::NoTargetFound`] with the nearest names if none matches; [`Error::InvalidConfig`] if those that match are all left out;
    /// those of [`selection`](Self::selection).
    pub fn select<'a>(&self, sites: &'a [Site], accepts: impl Fn(&Site) -> bool) -> Result<Vec<&'a Site>> {
        let selection = self.selection()?;
        let candidates: Vec<&Site> = sites.iter().filter(|site| site.is_weight() && accepts(site)).collect();
        let mut selected = Vec::new();
        for site in &candidates {
            if selection.includes(&site.module, site.is_linear())? {
                selected.push(*site);
            }
        }
        if selected.is_empty() {
            let mut named = 0;
            for site in &candidates {
                named += usize::from(selection.targets.matches(&site.module, site.is_linear())?);
            }
            if named > 0 {
                let narrowed = "exclude_modules, layers_to_transform or layers_pattern leave out all of them";
                return Err(Error::InvalidConfig(format!("target_modules matches {named} modules, but {narrowed}")));
            }
            let patterns = self.target_modules.as_ref().map(|names| names.entries().to_vec()).unwrap_or_default();
            let nearest = nearest(&patterns, candidates.iter().map(|site| site.module.as_str()));
            return Err(Error::NoTargetFound { patterns, nearest });
        }
        Ok(selected)
    }

    /// The entries that match none of `modules`, which the method can adapt: names, excluded names and layers.
    ///
    /// # Errors
    /// Those of [`selection`](Self::selection).
    pub fn misses(&self, modules: &[&str]) -> Result<Vec<Miss>> {
        let selection = self.selection()?;
        let mut misses = Vec::new();
        let miss = |setting, entry: &str| Miss::new(setting, entry, modules.iter().copied());
        for (setting, names) in [("target_modules", &self.target_modules), ("exclude_modules", &self.exclude_modules)] {
            let Some(Names::List(list)) = names else { continue };
            let missed = list.iter().filter(|entry| !modules.iter().any(|module| ends_with_component(module, entry)));
            misses.extend(missed.map(|entry| miss(setting, entry)));
        }
        if let Some(names @ Names::Pattern(pattern)) = &self.exclude_modules {
            let mut excludes = names.is_empty();
            for module in modules {
                excludes |= selection.excludes(module)?;
            }
            misses.extend((!excludes).then(|| miss("exclude_modules", pattern)));
        }
        if let Some((numbers, prefixes)) = &selection.layers {
            let mut found = Vec::new();
            for module in modules {
                found.extend(layer(module, prefixes)?.filter(|layer| !found.contains(layer)));
            }
            found.sort_unstable();
            let range = found.first().zip(found.last()).map_or("none".into(), |(first, last)| format!("{first} to {last}"));
            let missed = numbers.iter().filter(|number| !found.contains(number));
            misses.extend(missed.map(|number| Miss {
                setting: "layers_to_transform",
                entry: number.to_string(),
                nearest: vec![range.clone()],
            }));
        }
        Ok(misses)
    }
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
    fn look_ahead_and_back_references_work() {
        // Python: re.fullmatch says the same of each path.
        for (pattern, found) in [
            (r".*\.(?P<a>self)_attn\.q_proj\Z", 3),
            (r"(?P<word>m)odel\.e(?P=word)bed_tokens", 1),
            (r"(?i).*\.Q_PROJ$", 3),
            (r".*\.\d\.[^.]+\.(?<!x)v_proj", 3),
            (r"(m)odel\.e\1bed_tokens|lm_head", 2),
        ] {
            assert_eq!(selected(&Targets::new(Names::Pattern(pattern.into()))).unwrap().len(), found, "{pattern}");
        }
        let targets = Targets::new(Names::Pattern(r"^(?!.*lm_head).*\.(?P<x>q|k)_proj".into()));
        assert_eq!(selected(&targets).unwrap().len(), 6);
        let endless = Targets::new(Names::Pattern(r"((a+)+)+(?=x)b".into()));
        let sites = [site(&"a".repeat(64), "Linear")];
        assert!(endless.select(&sites, |_| true).unwrap_err().to_string().contains("cannot be matched"));
    }

    #[test]
    fn a_name_before_the_layers_can_be_asked_for() {
        let paths = ["encoder.h.0.block.3.w", "encoder.h.1.block.0.w"];
        let sites = paths.map(|path| site(path, "Linear"));
        let with = |layer, pattern: Option<Names>| {
            let targets =
                Targets { layers_to_transform: Some(Layers::One(layer)), layers_pattern: pattern, ..Targets::new(Names::list(["w"])) };
            targets.select(&sites, |_| true).map(|found| found.into_iter().map(|s| s.module.clone()).collect::<Vec<_>>())
        };
        assert_eq!(with(0, None).unwrap(), [paths[0]]);
        assert_eq!(with(0, Some(Names::Pattern("block".into()))).unwrap(), [paths[1]]);
        assert_eq!(with(3, Some(Names::list(["x", "block"]))).unwrap(), [paths[0]]);
        assert!(with(0, Some(Names::list(["layers"]))).is_err());
        let alone = Targets { layers_pattern: Some(Names::list(["h"])), ..Targets::new(Names::list(["w"])) };
        assert!(alone.selection().err().unwrap().to_string().contains("layers_pattern needs layers_to_transform"));
        // A module that is named in full is adapted whatever its layer, as in HF PEFT.
        let full = Targets { layers_to_transform: Some(Layers::One(7)), ..Targets::new(Names::list([paths[0]])) };
        assert_eq!(full.select(&sites, |_| true).unwrap().len(), 1);
    }

    #[test]
    fn entries_that_match_nothing_are_found() {
        let sites = model();
        let modules: Vec<&str> = sites.iter().map(|site| site.module.as_str()).collect();
        let targets = Targets {
            exclude_modules: Some(Names::list(["k_prj", "v_proj"])),
            layers_to_transform: Some(Layers::Several(vec![0, 99])),
            ..Targets::new(Names::list(["q_proj", "v_prj"]))
        };
        let said: Vec<String> = targets.misses(&modules).unwrap().iter().map(Miss::to_string).collect();
        assert!(said[0].starts_with("target_modules: `v_prj` matches nothing in this model; the nearest are `v_proj`"), "{said:?}");
        assert!(said[1].starts_with("exclude_modules: `k_prj`") && said[2].starts_with("layers_to_transform: `99`"), "{said:?}");
        assert!(said[2].ends_with("the nearest are `0 to 2`") && said.len() == 3, "{said:?}");
        let all = Targets { exclude_modules: Some(Names::Pattern(".*x".into())), ..Targets::new(Names::Pattern("all-linear".into())) };
        assert_eq!(all.misses(&modules).unwrap()[0].setting, "exclude_modules");
        assert_eq!(Targets::new(Names::list(["q_proj"])).misses(&modules).unwrap(), []);
    }
}
