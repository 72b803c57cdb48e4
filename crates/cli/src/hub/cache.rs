//! One repository in the cache, laid out as Python's `huggingface_hub` lays it out.
//!
//! ```text
//! models--org--name/blobs/<hash>                  contents
//!                   snapshots/<commit>/<file>     links to them
//!                   refs/<revision>               the commit that a branch or tag was at
//!                   .no_exist/<commit>/<file>     files that the commit is known not to have
//! .locks/models--org--name/<hash>.lock            held while the content is downloaded
//! ```

use super::files::Blob;
use peft_core::files::write_atomic;
use peft_core::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The directory of one repository.
#[derive(Debug)]
pub struct RepoCache {
    dir: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    /// The place of `repo`, `org/name`, in the cache `cache`; it need not exist.
    pub fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self { dir: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The directory of the repository.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The commit that `revision` was at when it was last looked up; a commit is itself.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let commit = fs::read_to_string(self.dir.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_string()).filter(|commit| is_commit(commit))
    }

    /// Remember what commit `revision` is at.
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit(revision).is_some_and(|known| known == commit) {
            return Ok(());
        }
        let file = self.dir.join("refs").join(revision);
        create_parent(&file)?;
        write_atomic(&file, commit.as_bytes())
    }

    /// The directory of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// Whether the commit's file is here.
    pub fn has(&self, commit: &str, name: &str) -> bool {
        self.snapshot(commit).join(name).is_file()
    }

    /// Whether the commit is known not to have the file.
    pub fn is_absent(&self, commit: &str, name: &str) -> bool {
        self.no_exist(commit, name).exists()
    }

    /// Remember that the commit does not have the file.
    pub fn mark_absent(&self, commit: &str, name: &str) -> Result<()> {
        let file = self.no_exist(commit, name);
        create_parent(&file)?;
        File::create(&file).map(drop).map_err(|e| Error::io(file, e))
    }

    fn no_exist(&self, commit: &str, name: &str) -> PathBuf {
        self.dir.join(".no_exist").join(commit).join(name)
    }

    /// Where the content of this hash is, or is to be.
    pub fn blob(&self, hash: &str) -> PathBuf {
        self.dir.join("blobs").join(hash)
    }

    /// Keep other programs from downloading the same content until the returned file is dropped.
    pub fn lock(&self, blob: &Blob) -> Result<File> {
        let path = self.locks.join(format!("{}.lock", blob.hash));
        create_parent(&path)?;
        create_parent(&self.blob(&blob.hash))?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| Error::io(&path, e))?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                crate::output::note("waiting for another program that downloads the same file");
                file.lock()
            }
            Err(TryLockError::Error(e)) => Err(e),
            Ok(()) => Ok(()),
        };
        match locked {
            // Some network file systems have no locks. What is downloaded is verified in any case.
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(file),
            Err(e) => Err(Error::io(path, e)),
            Ok(()) => Ok(file),
        }
    }

    /// Let the commit's file be the content of this hash.
    pub fn link(&self, commit: &str, name: &str, hash: &str) -> Result<()> {
        if self.has(commit, name) {
            return Ok(());
        }
        let link = self.snapshot(commit).join(name);
        create_parent(&link)?;
        if link.is_symlink() {
            // It leads nowhere.
            fs::remove_file(&link).map_err(|e| Error::io(&link, e))?;
        }
        match self.make_link(&link, name, hash) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && link.is_file() => Ok(()),
            result => result.map_err(|e| Error::io(link, e)),
        }
    }

    #[cfg(unix)]
    fn make_link(&self, link: &Path, name: &str, hash: &str) -> std::io::Result<()> {
        // Relative, so that the cache can be moved: out of the file's directories, the commit's and `snapshots`.
        let up = "../".repeat(name.split('/').count() + 1);
        std::os::unix::fs::symlink(format!("{up}blobs/{hash}"), link)
    }

    #[cfg(not(unix))]
    fn make_link(&self, link: &Path, _: &str, hash: &str) -> std::io::Result<()> {
        fs::hard_link(self.blob(hash), link)
    }
}

/// Whether `text` is a full commit hash.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn create_parent(file: &Path) -> Result<()> {
    let parent = file.parent().unwrap_or(file);
    fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))
}
