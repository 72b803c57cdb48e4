//! Which of a repository's files a model or an adapter needs.

use super::Kind;
use super::cache::{RepoCache, is_commit};
use peft_core::files::{INDEX_FILE, MODEL_FILE, read_json};
use peft_core::{CONFIG_FILE, Error, Result, TENSOR_FILE};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// A checkpoint's configuration.
const MODEL_CONFIG: &str = "config.json";

/// What is taken beside a checkpoint's configuration and weights, where a repository has it.
const BESIDE_MODEL: [&str; 12] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "modules.json",
    "1_Pooling/config.json",
];
/// The same for an adapter, which may come with a tokenizer and a template of its own.
const BESIDE_ADAPTER: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// What the hub says about a revision.
#[derive(Debug)]
pub struct Listing {
    /// The commit that the revision is at.
    pub commit: String,
    files: BTreeMap<String, Sibling>,
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// SHA-256 of the content (64 digits), or the SHA-1 by which git names it (40 digits).
    pub hash: String,
    /// Its length in bytes.
    pub size: u64,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Debug, Deserialize)]
struct LargeFile {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Read what the hub's interface for models answers.
    ///
    /// # Errors
    /// The reason, if that is not a listing, or names a file outside the repository.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let Info { sha: commit, siblings } =
            serde_json::from_slice(json).map_err(|e| format!("the hub's answer is not a list of files: {e}"))?;
        if !is_commit(&commit) {
            return Err(format!("the hub's answer names the commit `{commit}`, which is not a commit's hash"));
        }
        if let Some(file) = siblings.iter().find(|file| !is_inside(&file.rfilename)) {
            return Err(format!("the hub's answer names the file `{}`, which is not inside the repository", file.rfilename));
        }
        Ok(Self { commit, files: siblings.into_iter().map(|file| (file.rfilename.clone(), file)).collect() })
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Hash and size of a file.
    ///
    /// # Errors
    /// The reason, if the hub did not say them.
    pub fn blob(&self, name: &str) -> Result<Blob, String> {
        let file = self.files.get(name).ok_or_else(|| format!("the repository has no file `{name}`"))?;
        let known = match (&file.lfs, &file.blob_id, file.size) {
            (Some(large), _, _) => Some((&large.sha256, large.size, 64)),
            (None, Some(hash), Some(size)) => Some((hash, size, 40)),
            _ => None,
        };
        let known = known.filter(|(hash, _, digits)| hash.len() == *digits && hash.bytes().all(|b| b.is_ascii_hexdigit()));
        let (hash, size, _) = known.ok_or_else(|| format!("the hub's answer has no hash and size for the file `{name}`"))?;
        Ok(Blob { hash: hash.to_lowercase(), size })
    }
}

fn is_inside(name: &str) -> bool {
    !name.is_empty() && !name.contains(['\\', '\0']) && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// What kind of repository this is, if it is of the kind asked for.
pub fn kind_of(listing: &Listing, asked: Kind) -> Result<Kind, String> {
    match (asked, listing.has(CONFIG_FILE), listing.has(MODEL_CONFIG)) {
        (Kind::Adapter | Kind::Any, true, _) => Ok(Kind::Adapter),
        (Kind::Model | Kind::Any, _, true) => Ok(Kind::Model),
        (Kind::Model, true, false) => Err("is an adapter, not a model: it has adapter_config.json but no config.json".into()),
        (Kind::Adapter, false, true) => Err("is a model, not an adapter: it has config.json but no adapter_config.json".into()),
        (Kind::Model, false, false) => Err("the repository has no config.json, so that it is not a model".into()),
        (Kind::Adapter, false, false) => Err("the repository has no adapter_config.json, so that it is not an adapter".into()),
        (Kind::Any, false, false) => Err("the repository has neither config.json nor adapter_config.json".into()),
    }
}

/// What to take of a repository.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The files, without those that `index` names.
    pub files: Vec<String>,
    /// The index of weights in several files.
    pub index: Option<&'static str>,
    /// Files that would be taken if the repository had them.
    pub absent: Vec<&'static str>,
}

/// What to take of a repository of this kind.
///
/// # Errors
/// The reason, if it has no weights that can be read.
pub fn wanted(listing: &Listing, kind: Kind) -> Result<Wanted, String> {
    let (config, beside, weights, index) = match kind {
        Kind::Adapter => (CONFIG_FILE, BESIDE_ADAPTER.as_slice(), TENSOR_FILE, None),
        Kind::Model | Kind::Any => (MODEL_CONFIG, BESIDE_MODEL.as_slice(), MODEL_FILE, Some(INDEX_FILE)),
    };
    let (present, absent): (Vec<_>, _) = beside.iter().copied().partition(|name| listing.has(name));
    let mut files: Vec<String> = std::iter::once(config).chain(present).map(String::from).collect();
    let index = index.filter(|index| !listing.has(weights) && listing.has(index));
    if listing.has(weights) {
        files.push(weights.into());
    } else if index.is_none() {
        return Err(no_weights(listing, weights));
    }
    Ok(Wanted { files, index, absent })
}

fn no_weights(listing: &Listing, expected: &str) -> String {
    let others = [".bin", ".pt", ".pth", ".gguf", ".safetensors", ".h5", ".msgpack"];
    let found: Vec<_> = listing.files.keys().filter(|name| others.iter().any(|end| name.ends_with(end))).take(3).cloned().collect();
    let found = if found.is_empty() { "no weights at all".into() } else { format!("only {}", found.join(", ")) };
    format!(
        "has no {expected}, {found}; only safetensors in this layout are read: convert it with transformers, or look for a revision that has them"
    )
}

/// The files that an index names.
///
/// # Errors
/// If it cannot be read or names a file that the repository does not have.
pub fn shards(index: &Path, listing: &Listing) -> Result<Vec<String>> {
    let names = indexed(index)?;
    match names.iter().find(|name| !listing.has(name)) {
        Some(name) => Err(Error::file(index, format!("names the file `{name}`, which the repository does not have"))),
        None => Ok(names.into_iter().collect()),
    }
}

fn indexed(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    Ok(read_json::<Index>(index)?.weight_map.into_values().collect())
}

/// What the cache lacks.
#[derive(Debug, Default)]
pub struct Missing {
    /// Files without which there is no model or adapter.
    pub needed: Vec<String>,
    /// Files of which it is not known whether the repository has them.
    pub unknown: Vec<String>,
}

/// What the cache lacks of a commit.
///
/// # Errors
/// If an index in the cache cannot be read.
pub fn missing(cache: &RepoCache, commit: &str, kind: Kind) -> Result<Missing> {
    let has = |name: &str| cache.has(commit, name);
    if kind == Kind::Adapter || (kind == Kind::Any && has(CONFIG_FILE)) {
        let needed = [CONFIG_FILE, TENSOR_FILE].into_iter().filter(|name| !has(name)).map(String::from).collect();
        return Ok(Missing { needed, unknown: unknown(cache, commit, &BESIDE_ADAPTER) });
    }
    let weights = match has(INDEX_FILE) && !has(MODEL_FILE) {
        true => indexed(&cache.snapshot(commit).join(INDEX_FILE))?.into_iter().collect(),
        false => vec![MODEL_FILE.to_string()],
    };
    let needed = std::iter::once(MODEL_CONFIG.to_string()).chain(weights).filter(|name| !has(name)).collect();
    Ok(Missing { needed, unknown: unknown(cache, commit, &BESIDE_MODEL) })
}

/// The files of which it is not known whether the commit has them.
fn unknown(cache: &RepoCache, commit: &str, beside: &[&str]) -> Vec<String> {
    let is_known = |name: &str| cache.has(commit, name) || cache.is_absent(commit, name);
    beside.iter().filter(|name| !is_known(name)).map(|name| name.to_string()).collect()
}
