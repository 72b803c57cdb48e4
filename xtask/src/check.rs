//! Everything a change must pass, in one command.

mod imports;

use crate::{Outcome, workspace_root};
use clap::Args;
use std::process::Command;

/// Check formatting, lints, tests, examples in documentation, and which crate imports which.
///
/// All checks run even if one fails; the last lines say which did.
#[derive(Args)]
pub struct Check {
    /// Where tests compute: cpu, vulkan[:n] or cuda[:n].
    #[arg(long, default_value = "cpu")]
    device: String,
    /// A program that test programs run under, such as one that finds a newer driver for them.
    #[arg(long, value_name = "PROGRAM")]
    runner: Option<String>,
}

impl Check {
    /// Run all checks.
    pub fn run(&self) -> Outcome {
        let backend = self.device.split(':').next().unwrap_or_default();
        let features = match backend {
            "cpu" => Vec::new(),
            _ => vec!["--features".to_owned(), format!("peft-core/{backend}")],
        };
        let mut tests = features.clone();
        if let Some(runner) = &self.runner {
            tests.extend(["--config".into(), format!("target.'cfg(all())'.runner = {runner:?}")]);
        }
        let cargo = |name: &'static str, command: &[&str], features: &[String], after: &[&str]| {
            eprintln!("== {name}: cargo {}", command.join(" "));
            let status = cargo().args(command).args(features).args(after).env("PEFT_DEVICE", &self.device).status();
            (name, status.map_err(|e| e.to_string()).and_then(|s| s.success().then_some(()).ok_or_else(|| s.to_string())))
        };
        let results = [
            ("imports", imports()),
            cargo("format", &["fmt", "--all"], &[], &["--check"]),
            cargo("lints", &["clippy", "--workspace", "--all-targets"], &features, &["--", "-D", "warnings"]),
            cargo("tests", &["test", "--workspace", "--lib", "--bins", "--tests"], &tests, &[]),
            cargo("documentation examples", &["test", "--workspace", "--doc"], &tests, &[]),
        ];
        eprintln!();
        for (name, result) in &results {
            match result {
                Ok(()) => eprintln!("ok      {name}"),
                Err(reason) => eprintln!("FAILED  {name}: {reason}"),
            }
        }
        let failed: Vec<_> = results.iter().filter(|(_, result)| result.is_err()).map(|(name, _)| *name).collect();
        if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
    }
}

/// The cargo that runs this program, in the root of the repository.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    command
}

fn imports() -> Result<(), String> {
    eprintln!("== imports: cargo metadata");
    let output = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().into());
    }
    let violations = imports::violations(&String::from_utf8_lossy(&output.stdout))?;
    if violations.is_empty() { Ok(()) } else { Err(violations.join("; ")) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_workspace_keeps_the_import_rule() {
        super::imports().unwrap();
    }
}
