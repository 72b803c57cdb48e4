//! Models and adapters by their names on the Hugging Face hub, in the cache that Python's `huggingface_hub` keeps.
//!
//! A revision that the cache holds is used as it is: only what is missing is looked up and downloaded, so that a second call needs no
//! network and a model does not change under a run.

mod cache;
mod client;
mod download;
mod files;
mod id;
mod settings;

use cache::RepoCache;
use client::Client;
use download::RemoteFile;
use files::Listing;
use id::HubId;
use peft_core::files::{INDEX_FILE, MODEL_FILE, read_json};
use peft_core::{CONFIG_FILE, Error, Result};
use serde_json::Value;
use settings::Settings;
use std::path::{Path, PathBuf};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A checkpoint.
    Model,
    /// An adapter.
    Adapter,
    /// An adapter where there is one, otherwise a checkpoint.
    Any,
}

impl Kind {
    /// What a directory of this kind holds.
    fn content(self) -> &'static str {
        match self {
            Self::Model => "config.json, *.safetensors and tokenizer.json",
            Self::Adapter => "adapter_config.json and adapter_model.safetensors",
            Self::Any => "a checkpoint or an adapter",
        }
    }
}

/// A model or an adapter that lies on this machine.
#[derive(Clone, Debug)]
pub struct Local {
    /// The directory with its files.
    pub dir: PathBuf,
    /// How files refer to it: the path as it was given, or the hub id without its revision.
    pub name: String,
    /// The revision of a hub id, if one was named.
    pub revision: Option<String>,
}

/// The directory that `name` stands for: an existing path itself, otherwise a hub id's files, downloaded where the cache lacks them.
///
/// # Errors
/// If `name` is neither; if the hub cannot be reached, has no such repository or revision, asks for a token, or sends what it did not
/// announce; if the repository has no files of this kind.
pub fn resolve(name: &Path, kind: Kind) -> Result<Local> {
    if name.exists() {
        if kind == Kind::Model {
            refuse_adapter(name)?;
        }
        return Ok(Local { dir: name.into(), name: name.to_string_lossy().into_owned(), revision: None });
    }
    let Some(id) = name.to_str().and_then(HubId::parse) else {
        let reason = format!(
            "no such directory; give one with {}, or a Hugging Face hub id such as `org/name` or `org/name@revision`",
            kind.content()
        );
        return Err(Error::file(name, reason));
    };
    let dir = snapshot(&id, kind, &Settings::from_env()?)?;
    Ok(Local { dir, name: id.repo, revision: id.revision })
}

/// An adapter is nothing without its base.
fn refuse_adapter(dir: &Path) -> Result<()> {
    let has = |file: &str| dir.join(file).exists();
    if !has(CONFIG_FILE) || ["config.json", MODEL_FILE, INDEX_FILE].into_iter().any(has) {
        return Ok(());
    }
    let written = read_json::<Value>(&dir.join(CONFIG_FILE)).ok();
    let base = written.as_ref().and_then(|config| config["base_model_name_or_path"].as_str()).unwrap_or("its base");
    let name = dir.display();
    let reason = format!(
        "an adapter ({CONFIG_FILE}, no config.json), where a model is asked for: give its base, as in `--model {base} --adapter {name}`, or \
         `{base}+{name}` in a recipe; `peft merge-adapter` makes one model of both"
    );
    Err(Error::file(dir, reason))
}

/// The cache's directory of the files of `id`, complete.
fn snapshot(id: &HubId, kind: Kind, settings: &Settings) -> Result<PathBuf> {
    let cache = RepoCache::new(&settings.cache, &id.repo);
    let commit = cache.commit(id.revision());
    let missing = commit.as_deref().map(|commit| files::missing(&cache, commit, kind)).transpose()?;
    match (commit, missing) {
        (Some(commit), Some(missing)) if missing.needed.is_empty() && (missing.unknown.is_empty() || settings.offline) => {
            Ok(cache.snapshot(&commit))
        }
        (_, missing) if settings.offline => {
            let lacking = missing.map_or_else(|| "this revision".into(), |missing| missing.needed.join(", "));
            let dir = cache.dir().display();
            Err(id.error(format!("no such directory, and {dir} lacks {lacking}; nothing is downloaded since HF_HUB_OFFLINE is set")))
        }
        _ => download(id, kind, &cache, settings),
    }
}

/// Bring what the cache lacks of the newest commit of the revision.
fn download(id: &HubId, kind: Kind, cache: &RepoCache, settings: &Settings) -> Result<PathBuf> {
    let client = Client::new(settings);
    let listing = client.listing(id)?;
    let commit = &listing.commit;
    let kind = files::kind_of(&listing, kind).map_err(|reason| id.error(reason))?;
    let mut wanted = files::wanted(&listing, kind).map_err(|reason| id.error(reason))?;
    if let Some(index) = wanted.index {
        fetch(&client, id, cache, &listing, &[index.into()])?;
        wanted.files.extend(files::shards(&cache.snapshot(commit).join(index), &listing)?);
    }
    fetch(&client, id, cache, &listing, &wanted.files)?;
    for name in wanted.absent {
        cache.mark_absent(commit, name)?;
    }
    // Last, so that a revision never names a commit of which files are missing.
    cache.set_commit(id.revision(), commit)?;
    Ok(cache.snapshot(commit))
}

/// Bring those of `names` that the cache lacks.
fn fetch(client: &Client, id: &HubId, cache: &RepoCache, listing: &Listing, names: &[String]) -> Result<()> {
    let lacking: Vec<_> = names.iter().filter(|name| !cache.has(&listing.commit, name)).collect();
    let blobs = lacking.iter().map(|name| listing.blob(name)).collect::<Result<Vec<_>, _>>().map_err(|reason| id.error(reason))?;
    let bytes: u64 = blobs.iter().filter(|blob| !cache.blob(&blob.hash).exists()).map(|blob| blob.size).sum();
    if bytes > 0 {
        crate::output::note(format_args!(
            "downloading {id}: {} files, {} into {}",
            lacking.len(),
            indicatif::HumanBytes(bytes),
            cache.dir().display()
        ));
    }
    for (name, blob) in lacking.into_iter().zip(&blobs) {
        let _lock = cache.lock(blob)?;
        if !cache.blob(&blob.hash).exists() {
            RemoteFile { client, id, commit: &listing.commit, name, blob }.download(&cache.blob(&blob.hash))?;
        }
        cache.link(&listing.commit, name, &blob.hash)?;
    }
    Ok(())
}
