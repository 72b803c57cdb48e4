//! The program under test.

use crate::{Outcome, workspace_root};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A freshly built `peft`.
pub struct Binary {
    path: PathBuf,
}

impl Binary {
    /// Build it; cargo says where it lies.
    pub fn build() -> Outcome<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let args = ["build", "--package", "peft", "--bin", "peft", "--message-format", "json-render-diagnostics"];
        let output = Command::new(cargo).args(args).current_dir(workspace_root()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err("`peft` does not build".into());
        }
        let messages = String::from_utf8_lossy(&output.stdout).into_owned();
        let executable = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("executable")?.as_str().map(PathBuf::from);
        let path = messages.lines().filter_map(executable).next_back().ok_or("cargo names no executable for `peft`")?;
        Ok(Self { path })
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
