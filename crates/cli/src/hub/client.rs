//! Requests to the hub.

use super::files::Listing;
use super::id::HubId;
use super::settings::Settings;
use peft_core::Result;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest listing that is read, in bytes.
const LISTING_BYTES: u64 = 64 << 20;
/// What stands in a part of a path as it is.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What stands in a path as it is.
const PATH: &AsciiSet = &PART.remove(b'/');

/// A connection to the hub.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Client {
    /// A client of the server that the settings name.
    pub fn new(settings: &Settings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The hub redirects to where large files are. The token is for the hub alone.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .https_only(settings.endpoint.starts_with("https://"))
            .user_agent(concat!("peft/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build();
        Self { agent: config.into(), endpoint: settings.endpoint.clone(), token: settings.token.clone() }
    }

    /// The commit and the files of a revision.
    ///
    /// # Errors
    /// If the hub cannot be reached, refuses, or answers something else.
    pub fn listing(&self, id: &HubId) -> Result<Listing> {
        let revision = utf8_percent_encode(id.revision(), PART);
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, id.repo);
        let mut response = self.get(&url, 0).map_err(|e| id.error(self.unreachable(&e)))?;
        if !response.status().is_success() {
            return Err(id.error(self.refusal(id, response.status().as_u16(), response.headers())));
        }
        let json = response.body_mut().with_config().limit(LISTING_BYTES).read_to_vec();
        Listing::parse(&json.map_err(|e| id.error(self.unreachable(&e)))?).map_err(|reason| id.error(reason))
    }

    /// Where a file of a commit is.
    pub fn file_url(&self, id: &HubId, commit: &str, name: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, id.repo, utf8_percent_encode(name, PATH))
    }

    /// Ask for what is at `url`, from byte `start` on.
    pub fn get(&self, url: &str, start: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        request.call()
    }

    fn unreachable(&self, error: &ureq::Error) -> String {
        format!(
            "no such directory, and the hub at {} does not answer ({error}); with HF_HUB_OFFLINE=1 the cache alone is used",
            self.endpoint
        )
    }

    /// What an answer other than success means.
    pub fn refusal(&self, id: &HubId, status: u16, headers: &HeaderMap) -> String {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (endpoint, repo, revision) = (&self.endpoint, &id.repo, id.revision());
        let token = match self.token {
            Some(_) => "the token in use has no access to it",
            None => "it needs a token: set HF_TOKEN, or log in with `hf auth login`",
        };
        match (status, header("x-error-code")) {
            (_, "GatedRepo") => format!("access is restricted: accept the terms at {endpoint}/{repo}; {token}"),
            (_, "RevisionNotFound") => format!("the model at {endpoint}/{repo} has no revision `{revision}`"),
            (_, "EntryNotFound") => format!("{endpoint} lists a file that it does not have; try again"),
            (401 | 403, code) if code != "RepoNotFound" && self.token.is_some() => format!("{endpoint} refuses access; {token}"),
            (401 | 403 | 404, _) => {
                format!("no such directory, and {endpoint} has no model `{repo}` with revision `{revision}`; if it is private, {token}")
            }
            (429, _) => format!("{endpoint} got too many requests; wait, or use a token (HF_TOKEN)"),
            _ => format!("{endpoint} answers with status {status} {}", header("x-error-message")).trim_end().into(),
        }
    }
}
