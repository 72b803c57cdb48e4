//! What the environment says about the hub, in the variables of Python's `huggingface_hub`.

use peft_core::{Error, Result};
use std::env;
use std::path::PathBuf;

/// Where the hub is, where its files go, and who asks.
#[derive(Debug)]
pub struct Settings {
    /// The cache: `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: PathBuf,
    /// The server, without a slash at the end: `HF_ENDPOINT`.
    pub endpoint: String,
    /// The token: `HF_TOKEN`, or the content of `HF_TOKEN_PATH` or of `token` in `HF_HOME`.
    pub token: Option<String>,
    /// Whether only the cache may be used: `HF_HUB_OFFLINE`.
    pub offline: bool,
}

impl Settings {
    /// Read the environment.
    ///
    /// # Errors
    /// If it does not say where the cache is, or a token file cannot be read.
    pub fn from_env() -> Result<Self> {
        let cache = [path("HF_HUB_CACHE"), path("HUGGINGFACE_HUB_CACHE")].into_iter().flatten().next();
        let cache = cache.map_or_else(|| Ok(home()?.join("hub")), Ok)?;
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let is_true = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str());
        Ok(Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').into(),
            token: token()?,
            offline: text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE")).is_some_and(is_true),
        })
    }
}

/// `HF_HOME`, or its place in the user's cache directory.
fn home() -> Result<PathBuf> {
    let found = path("HF_HOME")
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| env::home_dir().map(|home| home.join(".cache/huggingface")));
    found.ok_or_else(|| Error::InvalidConfig("there is no home directory for the Hugging Face cache; set HF_HOME".into()))
}

fn token() -> Result<Option<String>> {
    if let Some(token) = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")) {
        return Ok(Some(token));
    }
    let file = path("HF_TOKEN_PATH").map_or_else(|| home().map(|home| home.join("token")), Ok)?;
    match std::fs::read_to_string(&file) {
        Ok(token) => Ok(Some(token.trim().to_string()).filter(|token| !token.is_empty())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(file, e)),
    }
}

/// A variable's text; an empty one is as good as none.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().map(|text| text.trim().to_string()).filter(|text| !text.is_empty())
}

/// A variable's path, with `~` as Python expands it.
fn path(name: &str) -> Option<PathBuf> {
    let text = text(name)?;
    match text.strip_prefix("~/") {
        Some(rest) => env::home_dir().map(|home| home.join(rest)),
        None => Some(text.into()),
    }
}
