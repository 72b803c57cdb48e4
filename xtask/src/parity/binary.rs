//! The program under test.

use crate::{Outcome, workspace_root};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A freshly built `peft`.
pub struct Binary {
    path: PathBuf,
}

/// Let cargo build one program with `args`; cargo says where it lies.
pub(crate) fn build(program: &str, args: &[&str]) -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.arg("build").args(args).args(["--bin", program, "--message-format", "json-render-diagnostics"]);
    let output = command.current_dir(workspace_root()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("`{program}` does not build").into());
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let executable = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("executable")?.as_str().map(PathBuf::from);
    let path = messages.lines().filter_map(executable).next_back();
    path.ok_or_else(|| format!("cargo names no executable for `{program}`").into())
}

impl Binary {
    /// Build it.
    pub fn build() -> Outcome<Self> {
        Ok(Self { path: build("peft", &["--package", "peft"])? })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Run it with `args`.
    ///
    /// # Errors
    /// The last line that it wrote to stderr, if it fails.
    pub fn run(&self, args: &[String]) -> Result<(), String> {
        let command = args.first().map_or("", String::as_str);
        let output = Command::new(&self.path).args(args).output().map_err(|e| format!("{}: {e}", self.path.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let reason = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
        Err(format!("peft {command}: {reason} ({})", output.status))
    }
}
