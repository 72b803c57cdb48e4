//! One file's content, continued where an earlier attempt ended, and verified.

use super::client::Client;
use super::files::Blob;
use super::id::HubId;
use crate::output;
use indicatif::ProgressBar;
use peft_core::{Error, Result};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;
use ureq::Body;
use ureq::http::{HeaderMap, Response};

/// Attempts in a row that bring nothing.
const ATTEMPTS: u32 = 3;
/// The pause after the first of them; it grows with each.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes read at a time.
const BUFFER: usize = 1 << 16;

/// A file of a commit on the hub.
#[derive(Debug)]
pub struct RemoteFile<'a> {
    /// How to reach it.
    pub client: &'a Client,
    /// The repository.
    pub id: &'a HubId,
    /// The commit's hash.
    pub commit: &'a str,
    /// Its path in the repository.
    pub name: &'a str,
    /// Its content.
    pub blob: &'a Blob,
}

/// Why a download failed.
enum Failure {
    /// On this machine.
    Disk(io::Error),
    /// The connection; what has arrived is kept.
    Broken(String),
    /// The server refused.
    Refused(String),
    /// The server sent something else than it had announced; nothing of it is kept.
    Wrong(String),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Disk(e)
    }
}

impl RemoteFile<'_> {
    /// Download to the file `to`, which appears when it is complete and has the hash that its blob names.
    ///
    /// What arrives is in `to` with `.incomplete` until then; a file of that name is continued. The caller holds the blob's lock.
    ///
    /// # Errors
    /// If the server refuses, breaks off several times in a row, or sends something else than it announced; if the disk is full.
    pub fn download(&self, to: &Path) -> Result<()> {
        let partial = to.with_added_extension("incomplete");
        let bar = output::byte_bar(self.blob.size, self.name);
        let result = self.receive_all(&partial, &bar).and_then(|()| Ok(fs::rename(&partial, to)?));
        bar.finish_and_clear();
        result.map_err(|failure| match failure {
            Failure::Disk(e) => Error::io(&partial, e),
            Failure::Broken(reason) => self.error(format!("{reason}; the same command continues the download")),
            Failure::Refused(reason) => self.error(reason),
            Failure::Wrong(reason) => match fs::remove_file(&partial) {
                Ok(()) => self.error(format!("{reason}; what came was removed, try again")),
                Err(e) => Error::io(&partial, e),
            },
        })
    }

    fn error(&self, reason: String) -> Error {
        self.id.error(format!("{}: {reason}", self.name))
    }

    /// Complete the file at `path` and verify it.
    fn receive_all(&self, path: &Path, bar: &ProgressBar) -> Result<(), Failure> {
        let url = self.client.file_url(self.id, self.commit, self.name);
        let mut partial = Partial::open(path, self.blob, bar)?;
        let mut failed = 0;
        while partial.length < self.blob.size {
            let before = partial.length;
            match partial.receive(self, &url) {
                Err(Failure::Broken(reason)) => {
                    failed = if partial.length > before { 1 } else { failed + 1 };
                    if failed >= ATTEMPTS {
                        return Err(Failure::Broken(reason));
                    }
                    std::thread::sleep(PAUSE * failed);
                }
                result => result?,
            }
        }
        partial.verify()
    }
}

/// A file on its way.
struct Partial<'a> {
    file: File,
    blob: &'a Blob,
    /// Bytes in the file.
    length: u64,
    /// Of those bytes.
    digest: Context,
    bar: &'a ProgressBar,
}

impl<'a> Partial<'a> {
    /// The file at `path` with what an earlier attempt left there.
    fn open(path: &Path, blob: &'a Blob, bar: &'a ProgressBar) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut partial = Self { file, blob, length: 0, digest: digest(blob), bar };
        let mut buffer = vec![0; BUFFER];
        loop {
            match partial.file.read(&mut buffer)? {
                0 => break,
                count => partial.count(&buffer[..count]),
            }
        }
        if partial.length > blob.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.digest.update(bytes);
        self.bar.set_position(self.length);
    }

    fn restart(&mut self) -> io::Result<()> {
        (self.length, self.digest) = (0, digest(self.blob));
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// Take what one request brings.
    fn receive(&mut self, remote: &RemoteFile, url: &str) -> Result<(), Failure> {
        use ureq::Error::{BadUri, Http, TooManyRedirects};
        let mut response = remote.client.get(url, self.length).map_err(|e| match e {
            BadUri(_) | Http(_) | TooManyRedirects => Failure::Refused(e.to_string()),
            e => Failure::Broken(e.to_string()),
        })?;
        self.check(remote, &response)?;
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; BUFFER];
        while self.length < self.blob.size {
            let count = match body.read(&mut buffer) {
                Ok(0) => return Err(self.ended("")),
                Ok(count) => count,
                Err(e) => return Err(self.ended(&format!(" ({e})"))),
            };
            if self.length + count as u64 > self.blob.size {
                return Err(Failure::Wrong(format!("the server sends more than the {} bytes that it announced", self.blob.size)));
            }
            self.file.write_all(&buffer[..count])?;
            self.count(&buffer[..count]);
        }
        Ok(())
    }

    fn ended(&self, reason: &str) -> Failure {
        Failure::Broken(format!("the connection ended after {} of {} bytes{reason}", self.length, self.blob.size))
    }

    /// Whether the answer goes on where the file ends; a server that does not know how to begins anew.
    fn check(&mut self, remote: &RemoteFile, response: &Response<Body>) -> Result<(), Failure> {
        match response.status().as_u16() {
            200 if self.length > 0 => self.restart()?,
            200 => {}
            206 if continues(response.headers(), self.length) => {}
            206 => return Err(Failure::Wrong("the server sends another part of the file than was asked for".into())),
            status @ 500..=599 => return Err(Failure::Broken(format!("the server answers with status {status}"))),
            status => return Err(Failure::Refused(remote.client.refusal(remote.id, status, response.headers()))),
        }
        match response.body().content_length() {
            Some(rest) if self.length + rest != self.blob.size => {
                let found = self.length + rest;
                Err(Failure::Wrong(format!("the server has {found} bytes, where it announced {}", self.blob.size)))
            }
            _ => Ok(()),
        }
    }

    /// Compare hashes, and have everything on disk.
    fn verify(self) -> Result<(), Failure> {
        let found: String = self.digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if found != self.blob.hash {
            return Err(Failure::Wrong(format!("the content has the hash {found}, where the server announced {}", self.blob.hash)));
        }
        Ok(self.file.sync_all()?)
    }
}

/// The hash that names the blob, before its first byte.
fn digest(blob: &Blob) -> Context {
    if blob.hash.len() == 64 {
        return Context::new(&SHA256);
    }
    // Git hashes a content behind its kind and length.
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", blob.size).as_bytes());
    context
}

fn continues(headers: &HeaderMap, start: u64) -> bool {
    let range = headers.get("content-range").and_then(|range| range.to_str().ok()).unwrap_or_default();
    range.strip_prefix("bytes ").and_then(|range| range.split_once('-')).is_some_and(|(first, _)| first.parse() == Ok(start))
}
