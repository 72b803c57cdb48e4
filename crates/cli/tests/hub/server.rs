//! A hub on this machine, which answers as the real one does, or wrongly.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The commit of all repositories.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// What it gets.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection ends.
    pub cut: usize,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: usize::MAX }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn cut(mut self, bytes: usize) -> Self {
        self.cut = bytes;
        self
    }

    /// A redirection, as the hub sends it for large files and renamed repositories.
    pub fn redirect(to: impl ToString) -> Self {
        Self::new(302, "").header("Location", to)
    }

    fn write(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\nContent-Length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        stream.write_all(&self.body[..self.cut.min(self.body.len())])
    }
}

/// The files of a repository.
#[derive(Clone, Debug, Default)]
pub struct Repo(pub BTreeMap<String, Vec<u8>>);

impl Repo {
    /// The files of a directory, without those of the test fixtures.
    pub fn of(dir: &Path) -> Self {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let named = entries.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()));
        Self(named.filter(|(name, _)| !["expected.safetensors", "base.txt"].contains(&name.as_str())).collect())
    }

    pub fn with(mut self, name: &str, content: &[u8]) -> Self {
        self.0.insert(name.into(), content.into());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name).expect("the repository has the file");
        self
    }

    /// What the hub's interface says about it; weights are large files.
    pub fn listing(&self) -> Value {
        let siblings = self.0.iter().map(|(name, content)| match name.ends_with(".safetensors") {
            true => json!({ "rfilename": name, "blobId": "0", "size": content.len(), "lfs": { "sha256": sha256(content), "size": content.len() } }),
            false => json!({ "rfilename": name, "blobId": git_hash(content), "size": content.len() }),
        });
        json!({ "id": "org/name", "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>() })
    }

    /// What a sound hub answers to a request about `org/name`.
    pub fn answer(&self, request: &Request) -> Reply {
        let (path, files) = (request.path.as_str(), format!("/org/name/resolve/{COMMIT}/"));
        if ["main", "v1", COMMIT].map(|revision| format!("/api/models/org/name/revision/{revision}?blobs=true")).contains(&request.path) {
            return Reply::new(200, self.listing().to_string());
        }
        if path.starts_with("/api/models/org/name/") {
            return Reply::new(404, "").header("X-Error-Code", "RevisionNotFound");
        }
        match path.strip_prefix(&files).map(|name| self.0.get(name)) {
            Some(Some(content)) => part(content, request),
            Some(None) => Reply::new(404, "").header("X-Error-Code", "EntryNotFound"),
            None => Reply::new(404, "").header("X-Error-Code", "RepoNotFound"),
        }
    }
}

/// The content, from the byte on that the request names.
pub fn part(content: &[u8], request: &Request) -> Reply {
    let Some(range) = request.headers.get("range") else { return Reply::new(200, content) };
    let start: usize = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).unwrap().parse().unwrap();
    Reply::new(206, &content[start..]).header("Content-Range", format!("bytes {start}-{}/{}", content.len() - 1, content.len()))
}

pub fn sha256(content: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, content).as_ref())
}

pub fn git_hash(content: &[u8]) -> String {
    let named = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
    hex(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &named).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server that stops when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answer every request; `None` closes the connection without an answer.
    pub fn start(answer: impl Fn(&Request) -> Option<Reply> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Some(request) = read(&mut stream) else { continue };
                seen.lock().unwrap().push(request.clone());
                if let Some(reply) = answer(&request) {
                    // A client that goes away is part of some tests.
                    reply.write(&mut stream).ok();
                }
            }
        });
        Self { address, requests, stop, thread: Some(thread) }
    }

    /// A sound hub with `org/name`.
    pub fn hub(repo: Repo) -> Self {
        Self::start(move |request| Some(repo.answer(request)))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests were about this.
    pub fn count(&self, what: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(what)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The head of a request; requests of these tests have no body.
fn read(stream: &mut TcpStream) -> Option<Request> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < 1 << 16 {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_string();
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_string()));
    Some(Request { path, headers: headers.collect() })
}
