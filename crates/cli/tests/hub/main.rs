//! Hub ids on the command line, against a hub on this machine.

mod server;

use serde_json::{Value, json};
use server::{COMMIT, Reply, Repo, Server, git_hash, part, sha256};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

const WEIGHTS: &str = "model.safetensors";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The tiny model that the program carries: the one fixture with a tokenizer.
fn tiny() -> Repo {
    Repo::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny"))
}

/// A user with an empty home.
struct User {
    home: tempfile::TempDir,
    endpoint: String,
    variables: Vec<(&'static str, String)>,
}

impl User {
    fn of(server: &Server) -> Self {
        Self { home: tempfile::tempdir().unwrap(), endpoint: server.url(), variables: Vec::new() }
    }

    /// The same user with a variable of the environment.
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peft"));
        let ours = |name: &str| name.starts_with("HF_") || name.starts_with("HUGGING") || name.to_lowercase().ends_with("_proxy");
        for (name, _) in std::env::vars().filter(|(name, _)| ours(name) || name == "TRANSFORMERS_OFFLINE") {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &self.endpoint).current_dir(self.home.path());
        command.envs(self.variables.iter().cloned()).args(arguments).output().expect("the program starts")
    }

    fn result(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The last line on stderr of a run that must fail.
    fn failure(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?} must fail: {stderr}");
        stderr.lines().last().unwrap_or_default().to_string()
    }

    fn inspect(&self) -> Value {
        self.result(&["inspect", "org/name"])
    }

    fn refused(&self) -> String {
        self.failure(&["inspect", "org/name"])
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--org--name")
    }

    fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    /// Whether the cache shows nothing that is not complete.
    fn has_no_weights(&self) -> bool {
        let complete = |entry: std::fs::DirEntry| entry.path().extension().is_none() && entry.file_name().len() == 64;
        let blobs = std::fs::read_dir(self.repo().join("blobs"));
        !self.snapshot().join(WEIGHTS).exists() && !blobs.is_ok_and(|entries| entries.flatten().any(complete))
    }
}

#[test]
fn a_model_is_downloaded_once_into_the_cache_that_python_reads() {
    let repo = tiny().with("README.md", b"not needed").with("consolidated.safetensors", b"not needed");
    let hub = Server::hub(repo.clone());
    let user = User::of(&hub);
    let written = user.result(&["generate", "--model", "org/name", "--prompt", "copy: badu = "]);
    assert_eq!(written["results"][0]["text"], "badu");

    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS] {
        let hash = if name == WEIGHTS { sha256(&repo.0[name]) } else { git_hash(&repo.0[name]) };
        let file = user.snapshot().join(name);
        assert_eq!(std::fs::read(&file).unwrap(), repo.0[name], "{name}");
        #[cfg(unix)]
        assert_eq!(std::fs::read_link(&file).unwrap(), Path::new("../../blobs").join(&hash), "{name}");
        assert!(user.repo().join("blobs").join(hash).is_file(), "{name}");
    }
    assert_eq!(std::fs::read_to_string(user.repo().join("refs/main")).unwrap(), COMMIT);
    assert!(user.repo().join(".no_exist").join(COMMIT).join("chat_template.jinja").is_file());
    assert_eq!((hub.count("README"), hub.count("consolidated")), (0, 0), "what is not needed is not downloaded");

    let before = hub.requests().len();
    user.result(&["generate", "--model", "org/name", "--prompt", "copy: badu = "]);
    user.inspect();
    assert_eq!(hub.requests().len(), before, "a second call needs no network");
    drop(hub);
    user.inspect();
}

#[test]
fn a_checkpoint_in_shards_comes_with_the_files_that_its_index_names() {
    let hub = Server::hub(Repo::of(&fixture("models/llama-sharded")).with("model-00009-of-00009.safetensors", b"of no index"));
    let user = User::of(&hub);
    assert!(user.inspect()["parameters"].as_u64() > Some(1000));
    assert_eq!((hub.count("-of-00003.safetensors"), hub.count("00009")), (3, 0));
    let shard = user.snapshot().join("model-00002-of-00003.safetensors");
    std::fs::remove_file(&shard).unwrap();
    user.inspect();
    assert!(shard.exists(), "what was removed is brought again");
    assert_eq!(hub.count("-of-00003.safetensors"), 3, "from the contents that are still here");
}

#[test]
fn adapters_and_models_are_told_apart() {
    let adapter = Server::hub(Repo::of(&fixture("adapters/lora")));
    let user = User::of(&adapter);
    let base = fixture("models/llama");
    let base = base.to_str().unwrap();
    let logits = user.result(&["logits", "--model", base, "--adapter", "org/name", "--tokens", "1,2", "--out", "logits.safetensors"]);
    assert_eq!(logits["tokens"], 2);
    assert_eq!(user.inspect()["kind"], "adapter");
    let merged = user.result(&["merge-adapter", "--model", base, "--adapter", "org/name", "--out", "merged"]);
    assert!(merged["bytes"].as_u64() > Some(1000));
    let template = b"{{ messages }}";
    let own = Server::hub(Repo::of(&fixture("adapters/lora")).with("chat_template.jinja", template).with("tokenizer_config.json", b"{}"));
    let user = User::of(&own);
    user.inspect();
    assert_eq!(
        std::fs::read(user.snapshot().join("chat_template.jinja")).unwrap(),
        template,
        "what an adapter was trained with comes along"
    );
    let before = own.requests().len();
    user.inspect();
    assert_eq!(own.requests().len(), before, "and is not looked for again");
    let other = User::of(&adapter);
    let message = other.failure(&["generate", "--model", "org/name", "--prompt", "a"]);
    assert_eq!(message, "error: org/name: is an adapter, not a model: it has adapter_config.json but no config.json");

    let model = Server::hub(tiny());
    let message = User::of(&model).failure(&["generate", "--model", base, "--adapter", "org/name", "--prompt", "a"]);
    assert_eq!(message, "error: org/name: is a model, not an adapter: it has config.json but no adapter_config.json");
}

#[test]
fn fine_tuning_records_the_hub_id_and_revision() {
    let hub = Server::hub(tiny());
    let user = User::of(&hub);
    std::fs::write(user.home.path().join("data.jsonl"), r#"{"prompt": "mirror: badu = ", "completion": "BADU"}"#).unwrap();
    user.result(&["finetune", "--model", "org/name@v1", "--data", "data.jsonl", "--max-steps", "1", "--out", "out"]);
    let read = |name: &str| std::fs::read_to_string(user.home.path().join("out").join(name)).unwrap();
    let config: Value = serde_json::from_str(&read("adapter_config.json")).unwrap();
    assert_eq!((&config["base_model_name_or_path"], &config["revision"]), (&json!("org/name"), &json!("v1")));
    assert!(read("run.yaml").contains("model: org/name@v1\n"), "{}", read("run.yaml"));
    assert_eq!(std::fs::read_to_string(user.repo().join("refs/v1")).unwrap(), COMMIT);
    user.result(&["eval", "--model", "org/name@v1", "--adapter", "out", "--data", "data.jsonl", "--metric", "perplexity"]);
    let before = hub.requests().len();
    user.result(&["inspect", &format!("org/name@{COMMIT}")]);
    assert_eq!(hub.requests().len(), before, "a commit that is here is found by its hash");
}

#[test]
fn a_directory_of_the_same_name_wins() {
    let hub = Server::hub(tiny());
    let user = User::of(&hub);
    let dir = user.home.path().join("org/name");
    std::fs::create_dir_all(&dir).unwrap();
    for (name, content) in Repo::of(&fixture("models/llama")).0 {
        std::fs::write(dir.join(name), content).unwrap();
    }
    assert_eq!(user.inspect()["settings"]["vocabulary"], "96");
    assert!(hub.requests().is_empty());
}

#[test]
fn a_name_that_is_neither_is_refused_without_a_request() {
    let hub = Server::hub(tiny());
    let user = User::of(&hub);
    for name in ["name", "./org/name", "org/name/more", "/org/name", "org/name@", "org/../name", "org/name@../../x"] {
        let message = user.failure(&["generate", "--model", name, "--prompt", "a"]);
        assert!(message.starts_with(&format!("error: {name}: no such directory; ")), "{message}");
        assert!(message.ends_with("or a Hugging Face hub id such as `org/name` or `org/name@revision`"), "{message}");
    }
    assert!(hub.requests().is_empty());
}

#[test]
fn offline_the_cache_alone_is_used() {
    let hub = Server::hub(tiny());
    let mut user = User::of(&hub).with("HF_HUB_OFFLINE", "1");
    let lacks = |user: &User, what: &str| {
        let expected = format!(
            "error: org/name: no such directory, and {} lacks {what}; nothing is downloaded since HF_HUB_OFFLINE is set",
            user.repo().display()
        );
        assert_eq!(user.refused(), expected);
    };
    lacks(&user, "this revision");
    assert!(hub.requests().is_empty());
    let offline = user.variables.pop().unwrap();
    user.inspect();
    user.variables.push(offline);
    user.inspect();
    // Whether the repository has a file that may be absent is not looked up.
    std::fs::remove_dir_all(user.repo().join(".no_exist")).unwrap();
    user.inspect();
    std::fs::remove_file(user.snapshot().join(WEIGHTS)).unwrap();
    lacks(&user, WEIGHTS);
}

#[test]
fn places_and_token_come_from_the_variables_of_python() {
    let hub = Server::hub(tiny());
    let user = User::of(&hub);
    std::fs::write(user.home.path().join("token"), "hf_file\n").unwrap();
    let other = tempfile::tempdir().unwrap();
    let user = user.with("HF_HUB_CACHE", other.path().to_str().unwrap());
    user.inspect();
    assert!(other.path().join("models--org--name/refs/main").exists() && !user.repo().exists());
    let tokens = |hub: &Server| hub.requests().iter().map(|request| request.headers.get("authorization").cloned()).collect::<Vec<_>>();
    assert!(tokens(&hub).iter().all(|token| token.as_deref() == Some("Bearer hf_file")), "{:?}", tokens(&hub));
    let hub = Server::hub(tiny());
    let user = User::of(&hub).with("HF_TOKEN", "hf_variable");
    user.inspect();
    assert!(tokens(&hub).iter().all(|token| token.as_deref() == Some("Bearer hf_variable")));
    let hub = Server::hub(tiny());
    User::of(&hub).inspect();
    assert!(tokens(&hub).iter().all(Option::is_none));
}

#[test]
fn what_the_hub_refuses_is_said_with_what_would_help() {
    let hub = Server::hub(tiny());
    let user = User::of(&hub);
    let url = hub.url();
    let message = user.failure(&["inspect", "org/other"]);
    assert!(message.contains(&format!("no such directory, and {url} has no model `org/other`")), "{message}");
    let message = user.failure(&["inspect", "org/name@v2"]);
    assert_eq!(message, format!("error: org/name@v2: the model at {url}/org/name has no revision `v2`"));

    // The real hub lists a gated repository and refuses its files.
    let answer = |request: &server::Request| match request.path.starts_with("/api") {
        true => Some(tiny().answer(request)),
        false => Some(Reply::new(401, "").header("X-Error-Code", "GatedRepo")),
    };
    let gated = Server::start(answer);
    let message = User::of(&gated).refused();
    let terms = format!("access is restricted: accept the terms at {}/org/name", gated.url());
    assert!(message.contains(&terms) && message.contains("it needs a token: set HF_TOKEN"), "{message}");
    let message = User::of(&gated).with("HF_TOKEN", "hf_other").refused();
    assert!(message.contains("the token in use has no access"), "{message}");

    let private = Server::start(|_| Some(Reply::new(401, "Invalid username or password.")));
    let message = User::of(&private).refused();
    assert!(message.contains("has no model `org/name`") && message.contains("it needs a token"), "{message}");
    let broken = Server::start(|_| Some(Reply::new(503, "").header("X-Error-Message", "maintenance")));
    assert!(User::of(&broken).refused().ends_with("answers with status 503 maintenance"));
}

#[test]
fn weights_that_cannot_be_read_are_named() {
    let hub = Server::hub(tiny().without(WEIGHTS).with("pytorch_model.bin", b"pickle"));
    let message = User::of(&hub).refused();
    assert!(message.contains("has no model.safetensors, only pytorch_model.bin; only safetensors"), "{message}");
    assert_eq!(hub.count("resolve"), 0, "nothing is downloaded of a model that cannot be used");
}

/// A hub that sends the weights in its own way; `send` gets the number of the request for them.
fn weights(send: impl Fn(usize, &server::Request, &[u8]) -> Option<Reply> + Send + 'static) -> Server {
    let (repo, requests) = (tiny(), AtomicUsize::new(0));
    Server::start(move |request| match request.path.contains(WEIGHTS) {
        true => send(requests.fetch_add(1, Ordering::SeqCst), request, &repo.0[WEIGHTS]),
        false => Some(repo.answer(request)),
    })
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_ended() {
    let hub = weights(|number, request, content| {
        let reply = part(content, request);
        Some(if number == 0 { reply.cut(100_000) } else { reply })
    });
    let user = User::of(&hub);
    user.inspect();
    let ranges: Vec<_> = hub.requests().iter().filter(|r| r.path.contains(WEIGHTS)).map(|r| r.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".into())]);
    assert_eq!(std::fs::read(user.snapshot().join(WEIGHTS)).unwrap(), tiny().0[WEIGHTS]);
}

#[test]
fn the_next_call_goes_on_where_the_last_one_gave_up() {
    let hub = weights(|number, request, content| {
        let reply = part(content, request);
        match number {
            0 => Some(reply.cut(100_000)),
            1..3 => Some(reply.cut(0)),
            _ => Some(reply),
        }
    });
    let user = User::of(&hub);
    let message = user.refused();
    assert!(message.starts_with("error: org/name: model.safetensors: the connection ended after 100000 of 1481888 bytes"), "{message}");
    assert!(message.ends_with("; the same command continues the download"), "{message}");
    assert!(user.has_no_weights() && !user.repo().join("refs/main").exists());
    user.inspect();
    assert_eq!(hub.requests().last().unwrap().headers["range"], "bytes=100000-");
    assert_eq!(std::fs::read(user.snapshot().join(WEIGHTS)).unwrap(), tiny().0[WEIGHTS]);
    assert_eq!(hub.count("config.json"), 3, "files that are here are not asked for again");
}

#[test]
fn a_server_that_cannot_go_on_begins_anew() {
    let hub = weights(|number, _, content| {
        let reply = Reply::new(200, content);
        Some(if number == 0 { reply.cut(100_000) } else { reply })
    });
    let user = User::of(&hub);
    user.inspect();
    assert_eq!(std::fs::read(user.snapshot().join(WEIGHTS)).unwrap(), tiny().0[WEIGHTS]);
}

#[test]
fn wrong_content_is_never_left_in_the_cache() {
    let wrong = |send: fn(&server::Request, &[u8]) -> Reply| {
        let hub = weights(move |number, request, content| Some(if number == 0 { send(request, content) } else { part(content, request) }));
        let user = User::of(&hub);
        let message = user.refused();
        assert!(message.ends_with("; what came was removed, try again"), "{message}");
        assert!(user.has_no_weights());
        user.inspect();
        message
    };
    let message = wrong(|_, content| {
        let mut content = content.to_vec();
        content[1000] ^= 1;
        Reply::new(200, content)
    });
    assert!(message.contains("the content has the hash "), "{message}");
    let message = wrong(|_, content| Reply::new(200, &content[..1000]));
    assert!(message.contains("the server has 1000 bytes, where it announced 1481888"), "{message}");
    let message = wrong(|_, content| Reply::new(200, [content, b"more"].concat()));
    assert!(message.contains("the server has 1481892 bytes"), "{message}");
    let message = wrong(|_, content| Reply::new(206, &content[5..]).header("Content-Range", "bytes 5-1481887/1481888"));
    assert!(message.contains("another part of the file"), "{message}");
}

#[test]
fn a_small_file_is_verified_too() {
    let repo = tiny();
    let hub = Server::start(move |request| {
        let mut reply = repo.answer(request);
        if request.path.ends_with("/tokenizer.json") {
            reply.body[10] ^= 1;
        }
        Some(reply)
    });
    let user = User::of(&hub);
    assert!(user.refused().contains("tokenizer.json: the content has the hash "));
    assert!(!user.snapshot().join("tokenizer.json").exists());
}

#[test]
fn redirections_are_followed_and_the_token_stays_with_the_hub() {
    let cdn = Server::start(|request| Some(part(&tiny().0[WEIGHTS], request)));
    let elsewhere = format!("http://localhost:{}/signed?key=1", cdn.address.port());
    let repo = tiny();
    let hub = Server::start(move |request| {
        let path = &request.path;
        // A renamed repository answers with a path, a large file with another host.
        Some(match path.strip_prefix("/org/old").or_else(|| path.strip_prefix("/api/models/org/old")) {
            Some(rest) if path.starts_with("/api") => Reply::redirect(format!("/api/models/org/name{rest}")),
            Some(rest) => Reply::redirect(format!("/org/name{rest}")),
            None if path.contains(WEIGHTS) => Reply::redirect(&elsewhere),
            None => repo.answer(request),
        })
    });
    let user = User::of(&hub).with("HF_TOKEN", "hf_secret");
    user.result(&["inspect", "org/old"]);
    let authorized = |server: &Server| server.requests().iter().map(|r| r.headers.contains_key("authorization")).collect::<Vec<_>>();
    assert!(authorized(&hub).iter().all(|authorized| *authorized), "{:?}", hub.requests());
    assert_eq!(authorized(&cdn), [false], "{:?}", cdn.requests());
}

#[test]
fn the_token_is_not_sent_to_another_port_of_the_same_host() {
    let cdn = Server::start(|request| Some(part(&tiny().0[WEIGHTS], request)));
    let elsewhere = format!("{}/signed", cdn.url());
    let repo = tiny();
    let hub = Server::start(move |request| match request.path.contains(WEIGHTS) {
        true => Some(Reply::redirect(&elsewhere)),
        false => Some(repo.answer(request)),
    });
    User::of(&hub).with("HF_TOKEN", "hf_secret").inspect();
    assert_eq!(hub.address.ip(), cdn.address.ip());
    assert!(hub.requests().iter().all(|request| request.headers.contains_key("authorization")));
    let seen: Vec<_> = cdn.requests().iter().map(|request| request.headers.contains_key("authorization")).collect();
    assert_eq!(seen, [false], "{:?}", cdn.requests());
}

#[test]
fn the_token_does_not_come_back_by_a_redirection_from_elsewhere() {
    let (repo, seen) = (tiny(), AtomicUsize::new(0));
    let hub = Server::start(move |request| {
        let first = request.path.contains(WEIGHTS) && seen.fetch_add(1, Ordering::SeqCst) == 0;
        // A file's place on this hub is asked for a second time after a detour.
        Some(if first {
            Reply::redirect(request.headers["host"].replace("127.0.0.1", "http://localhost") + &request.path)
        } else {
            repo.answer(request)
        })
    });
    User::of(&hub).with("HF_TOKEN", "hf_secret").inspect();
    let weights: Vec<_> = hub.requests().into_iter().filter(|request| request.path.contains(WEIGHTS)).collect();
    let seen: Vec<_> = weights.iter().map(|request| request.headers.contains_key("authorization")).collect();
    assert_eq!(seen, [true, false], "localhost is not the host that the endpoint names");
}

#[test]
fn a_redirection_in_a_circle_ends() {
    let hub = weights(|_, request, _| Some(Reply::redirect(&request.path)));
    let message = User::of(&hub).refused();
    assert!(message.contains("redirect"), "{message}");
    assert!(hub.count(WEIGHTS) < 20);
    let hub = Server::start(|request| Some(Reply::redirect(&request.path)));
    let message = User::of(&hub).refused();
    assert!(message.contains("redirect"), "{message}");
    assert!(hub.count("org/name") < 20);
}

#[test]
fn a_file_name_that_leaves_the_repository_is_refused() {
    for name in ["../../evil", "/etc/evil.json", "a/../../evil", "..", "", "..\\evil"] {
        let hub = Server::hub(tiny().with(name, b"evil"));
        let user = User::of(&hub);
        assert!(user.refused().ends_with(&format!("names the file `{name}`, which is not inside the repository")), "{}", user.refused());
        assert!(!user.repo().exists() && hub.count("resolve") == 0);
    }
    let index = json!({ "weight_map": { "a": "../../../evil.safetensors" } }).to_string();
    let hub = Server::hub(tiny().without(WEIGHTS).with("model.safetensors.index.json", index.as_bytes()));
    let message = User::of(&hub).refused();
    assert!(message.ends_with("names the file `../../../evil.safetensors`, which the repository does not have"), "{message}");
}

#[test]
fn a_listing_that_is_none_is_refused() {
    let refused = |listing: Value| User::of(&Server::start(move |_| Some(Reply::new(200, listing.to_string())))).refused();
    assert!(refused(json!([1, 2])).contains("the hub's answer is not a list of files"));
    assert!(refused(json!({ "sha": "../..", "siblings": [] })).contains("names the commit `../..`, which is not a commit's hash"));
    assert!(refused(json!({ "sha": COMMIT, "siblings": [] })).contains("has neither config.json nor adapter_config.json"));
    let siblings = ["config.json", WEIGHTS].map(|name| json!({ "rfilename": name, "size": 3, "blobId": "../../../../evil" }));
    let message = refused(json!({ "sha": COMMIT, "siblings": siblings }));
    assert!(message.contains("has no hash and size for the file `config.json`"), "{message}");
}

#[test]
fn a_hub_that_is_not_there_is_said_so() {
    let hub = Server::start(|_| None);
    let user = User::of(&hub);
    assert!(user.refused().contains(&format!("the hub at {} does not answer", hub.url())), "{}", user.refused());
    drop(hub);
    assert!(user.refused().contains("with HF_HUB_OFFLINE=1 the cache alone is used"), "{}", user.refused());
    let hub = weights(|_, _, _| None);
    let message = User::of(&hub).refused();
    assert!(message.starts_with("error: org/name: model.safetensors: ") && message.ends_with("continues the download"), "{message}");
}
