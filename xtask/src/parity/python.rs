//! The Python side: an interpreter with the right packages, and `peer.py` in it.

use crate::{Outcome, workspace_root};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The interpreter: the one asked for, else `$PEFT_PYTHON`, else that of an environment of its own under `target`.
pub fn find(asked: Option<&Path>) -> Outcome<PathBuf> {
    match (asked, std::env::var_os("PEFT_PYTHON")) {
        (Some(python), _) => Ok(python.into()),
        (None, Some(python)) => Ok(python.into()),
        (None, None) => environment(),
    }
}

/// A virtual environment with the packages of requirements.txt, made or brought up to date when needed.
fn environment() -> Outcome<PathBuf> {
    let requirements = workspace_root().join("xtask/parity/requirements.txt");
    let dir = workspace_root().join("target/parity-venv");
    let python = dir.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    // Written last, so that an installation that was interrupted is taken up again.
    let installed = dir.join("installed-requirements.txt");
    let wanted = fs::read_to_string(&requirements)?;
    if fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(python);
    }
    eprintln!("installing the packages of {} into {}", requirements.display(), dir.display());
    let base = if cfg!(windows) { "python" } else { "python3" };
    succeed(Command::new(base).args(["-m", "venv"]).arg(&dir))?;
    succeed(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&requirements))?;
    fs::write(&installed, wanted)?;
    Ok(python)
}

fn succeed(command: &mut Command) -> Outcome {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} failed ({status}); give an interpreter with --python or PEFT_PYTHON instead").into()),
        Err(error) => Err(format!("{program}: {error}; give an interpreter with --python or PEFT_PYTHON instead").into()),
    }
}

/// A running `peer.py`, which answers one call after the other.
pub struct Peer {
    child: Child,
    /// Taken when the peer is to end.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Peer {
    /// Start it; what it says besides answers goes into `peer.log` in `work`.
    pub fn start(python: &Path, work: &Path) -> Outcome<Self> {
        let log = work.join("peer.log");
        let mut command = Command::new(python);
        command.arg(workspace_root().join("xtask/parity/peer.py")).arg("batch");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child = command.spawn().map_err(|e| format!("{}: {e}", python.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { return Err("peer.py has no pipes".into()) };
        Ok(Self { child, stdin: Some(stdin), stdout: BufReader::new(stdout), log })
    }

    /// The answer to the command line `args`.
    ///
    /// # Errors
    /// What the peer reports, or that it has ended.
    pub fn call<T: AsRef<str>>(&mut self, args: &[T]) -> Result<Value, String> {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let command = args.first().copied().unwrap_or_default().to_owned();
        let ended = format!("peer.py {command}: no answer; see {}", self.log.display());
        let stdin = self.stdin.as_mut().ok_or(&ended)?;
        writeln!(stdin, "{}", json!(args)).and_then(|()| stdin.flush()).map_err(|_| ended.clone())?;
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(|_| ended.clone())?;
        let answer: Value = serde_json::from_str(&line).map_err(|_| ended)?;
        match (&answer["ok"], &answer["error"]) {
            (Value::Bool(true), _) => Ok(answer),
            (_, Value::String(error)) => Err(format!("peer.py {command}: {error}")),
            _ => Err(format!("peer.py {command}: {line}")),
        }
    }

    /// The largest difference of two files' logits over the largest of the first.
    pub fn ratio(&mut self, a: &Path, b: &Path) -> Result<f64, String> {
        let answer = self.call(&["compare", "--a", &a.to_string_lossy(), "--b", &b.to_string_lossy()])?;
        answer["ratio"].as_f64().ok_or_else(|| format!("peer.py compare: {answer}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
