//! Requests to the hub.

use super::files::Listing;
use super::id::HubId;
use super::settings::Settings;
use peft_core::Result;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest listing that is read, in bytes.
const LISTING_BYTES: u64 = 64 << 20;
/// How many redirections lead to an answer.
const REDIRECTIONS: usize = 10;
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
            // Redirections are followed here, since the token is for the hub alone.
            .max_redirects(0)
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
    ///
    /// Redirections are followed: the hub redirects to where large files are. The token goes to the hub's own scheme, host and port
    /// alone, and not again once a redirection has left them.
    pub fn get(&self, url: &str, start: u64) -> Result<Response<Body>, ureq::Error> {
        let mut url: Uri = url.parse().map_err(ureq::http::Error::from)?;
        let hub = origin(&self.endpoint.parse().map_err(ureq::http::Error::from)?);
        let mut token = self.token.as_ref();
        for _ in 0..REDIRECTIONS {
            token = token.filter(|_| origin(&url) == hub);
            let mut request = self.agent.get(&url);
            if let Some(token) = token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if start > 0 {
                request = request.header("Range", format!("bytes={start}-"));
            }
            let response = request.call()?;
            match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => url = redirected(&url, response.headers())?,
                _ => return Ok(response),
            }
        }
        Err(ureq::Error::TooManyRedirects)
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

/// Scheme, host and port of an address.
fn origin(url: &Uri) -> (String, String, Option<u16>) {
    let scheme = url.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let usual = if scheme == "https" { Some(443) } else { Some(80) };
    (scheme, url.host().unwrap_or_default().to_ascii_lowercase(), url.port_u16().or(usual))
}

/// Where an answer leads: an address, or a path from `url` on.
fn redirected(url: &Uri, headers: &HeaderMap) -> Result<Uri, ureq::Error> {
    let location = headers.get("location").and_then(|location| location.to_str().ok()).unwrap_or_default();
    let wrong = || ureq::Error::BadUri(format!("the server redirects to `{location}`, which is no address"));
    let (scheme, authority) = (url.scheme_str().unwrap_or_default(), url.authority().map_or("", |authority| authority.as_str()));
    let absolute = match location {
        "" => return Err(wrong()),
        location if location.contains("://") => location.to_owned(),
        location if location.starts_with("//") => format!("{scheme}:{location}"),
        location if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        location => {
            let directory = url.path().rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{scheme}://{authority}{directory}/{location}")
        }
    };
    let target: Uri = absolute.parse().map_err(|_| wrong())?;
    if !["http", "https"].contains(&target.scheme_str().unwrap_or_default()) {
        return Err(wrong());
    }
    if scheme == "https" && target.scheme_str() == Some("http") {
        return Err(ureq::Error::BadUri(format!("the server redirects from https to `{location}`, which is not encrypted")));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(from: &str, location: &str) -> Result<String, String> {
        let headers = HeaderMap::from_iter([(ureq::http::header::LOCATION, location.parse().unwrap())]);
        redirected(&from.parse().unwrap(), &headers).map(|url| url.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn redirections_lead_to_addresses_and_to_paths() {
        let from = "https://hub.example/org/name/resolve/main/a.json";
        for (location, to) in [
            ("https://cdn.example:8443/x?key=1", "https://cdn.example:8443/x?key=1"),
            ("/api/x", "https://hub.example/api/x"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("b.json", "https://hub.example/org/name/resolve/main/b.json"),
        ] {
            assert_eq!(lead(from, location).as_deref(), Ok(to), "{location}");
        }
        assert!(lead(from, "http://hub.example/x").unwrap_err().contains("not encrypted"));
        assert!(lead(from, "ftp://hub.example/x").unwrap_err().contains("no address"));
        assert!(lead(from, "").unwrap_err().contains("no address"));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |url: &str| origin(&url.parse().unwrap());
        assert_eq!(origin("https://Hub.example/x"), origin("https://hub.example:443/y"));
        assert_eq!(origin("http://user@hub.example/x"), origin("http://hub.example:80"));
        for other in ["http://hub.example/x", "https://hub.example:8443/x", "https://cdn.hub.example/x"] {
            assert_ne!(origin("https://hub.example"), origin(other), "{other}");
        }
    }
}
