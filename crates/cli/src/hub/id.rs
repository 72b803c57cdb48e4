//! Names on the hub: `org/name` or `org/name@revision`.

use peft_core::Error;
use std::fmt;

/// A repository and, if one was named, its revision: a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    /// `org/name`.
    pub repo: String,
    /// What stands behind `@`.
    pub revision: Option<String>,
}

impl HubId {
    /// Read a name, by the hub's own rules; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        let (org, name) = repo.split_once('/')?;
        let valid = [org, name].into_iter().all(is_name) && !repo.contains("--") && !repo.contains("..") && !repo.ends_with(".git");
        (valid && revision.is_none_or(is_revision)).then(|| Self { repo: repo.into(), revision: revision.map(String::from) })
    }

    /// The revision; the main branch if none was named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// An error about this repository.
    pub fn error(&self, reason: impl ToString) -> Error {
        Error::file(self.to_string(), reason)
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.repo),
            None => f.write_str(&self.repo),
        }
    }
}

fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let edge = |c: char| "-.".contains(c);
    (1..=96).contains(&text.len()) && text.chars().all(inner) && !text.starts_with(edge) && !text.ends_with(edge)
}

/// Git's names, without what would leave the cache's directory of revisions.
fn is_revision(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    text.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && part.chars().all(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organisation_and_name_make_an_id_and_a_revision_may_follow() {
        let parse = |text| HubId::parse(text).map(|id| (id.repo, id.revision));
        assert_eq!(parse("HuggingFaceTB/SmolLM2-135M"), Some(("HuggingFaceTB/SmolLM2-135M".into(), None)));
        assert_eq!(parse("a/b@v1.0"), Some(("a/b".into(), Some("v1.0".into()))));
        assert_eq!(parse("a/b@refs/pr/1"), Some(("a/b".into(), Some("refs/pr/1".into()))));
    }

    #[test]
    fn paths_are_no_ids() {
        let texts = [
            "model",
            "/a/b",
            "./b",
            "../b",
            "a/b/c",
            "a/",
            "/b",
            "a//b",
            "~/b",
            "a/b.git",
            "a/..",
            "a/b--c",
            "a/b c",
            "a\\b/c",
            "a/b@",
            "a/b@..",
            "a/b@../../c",
            "a/b@/c",
            "a/b@c/",
            "",
            "-a/b",
        ];
        for text in texts {
            assert_eq!(HubId::parse(text), None, "{text}");
        }
    }
}
