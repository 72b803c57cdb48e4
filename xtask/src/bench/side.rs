//! One side of a comparison: a program that is started anew for each run.

use super::job::{Job, MEMORY, START, Shape};
use super::text;
use crate::parity::binary;
use crate::{Outcome, workspace_root};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Lines of a failed program's stderr that are shown.
const TAIL: usize = 15;

/// A program that does jobs.
pub struct Side {
    name: &'static str,
    program: PathBuf,
    /// What comes before a job's arguments.
    first: Vec<String>,
}

/// What a run said.
#[derive(Deserialize)]
pub struct Run {
    /// What was measured, by name.
    pub metrics: BTreeMap<String, f64>,
    /// Results that must agree with the other side's.
    pub check: Vec<f64>,
    /// What the side runs on.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    ready_at: Option<f64>,
    peak_memory_bytes: Option<f64>,
}

impl Side {
    /// `peft-bench`: this one, or one built for release.
    ///
    /// All of the workspace takes part in the build, so that the features of the dependencies are those of any other build.
    pub fn ours(binary: Option<&Path>) -> Outcome<Self> {
        let program = match binary {
            Some(binary) => std::path::absolute(binary)?,
            None => binary::build("peft-bench", &["--release", "--workspace"])?,
        };
        Ok(Self { name: "burn-peft", program, first: Vec::new() })
    }

    /// The peer of a job under this interpreter, if it has it.
    pub fn peer(job: Job, python: PathBuf) -> Outcome<Self> {
        let script = text(&workspace_root().join("xtask/bench/peer.py"));
        let side = Self { name: job.peer(), program: python, first: vec![script] };
        side.output(&["--help".into()], 1).map_err(|error| {
            format!(
                "{error}\nthe comparison needs a Python with the packages of xtask/parity/requirements.txt, for merges with mergekit: \
                 --python or PEFT_PYTHON"
            )
        })?;
        Ok(side)
    }

    /// What a person calls it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Write the checkpoint and the adapters of a shape into `dir`, unless they are there.
    pub fn prepare(&self, shape: Shape, dir: &Path) -> Outcome {
        let args = ["prepare", "--shape", &shape.to_string(), "--out", &text(dir)].map(String::from);
        self.output(&args, 1).map(drop)
    }

    /// Do a job.
    pub fn run(&self, args: &[String], threads: u32) -> Outcome<Run> {
        let start = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let output = self.output(args, threads)?;
        let mut run: Run = serde_json::from_str(&output).map_err(|e| format!("{} says `{output}`: {e}", self.name))?;
        run.metrics.extend(run.ready_at.map(|ready| (START.into(), ready - start)));
        run.metrics.extend(run.peak_memory_bytes.map(|bytes| (MEMORY.into(), bytes)));
        Ok(run)
    }

    /// What the program writes to stdout.
    fn output(&self, args: &[String], threads: u32) -> Outcome<String> {
        let mut command = Command::new(&self.program);
        command.args(&self.first).args(args);
        for variable in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
            command.env(variable, threads.to_string());
        }
        let output = command.output().map_err(|e| format!("{}: {e}", self.program.display()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = stderr.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            let job = args.first().map_or("", String::as_str);
            return Err(format!("{} {job} failed ({}):\n{tail}", self.name, output.status).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Side {
        Side { name: "sh", program: "sh".into(), first: vec!["-c".into(), script.into()] }
    }

    #[cfg(unix)]
    #[test]
    fn the_time_to_the_first_result_counts_from_the_start_of_the_process() {
        let side = shell(r#"echo "{\"metrics\": {\"x\": $RAYON_NUM_THREADS}, \"check\": [], \"ready_at\": $(date +%s).999999999}""#);
        let run = side.run(&[], 3).unwrap();
        assert_eq!(run.metrics["x"], 3.0);
        assert!((0.0..60.0).contains(&run.metrics[START]), "{}", run.metrics[START]);
        assert!(!run.metrics.contains_key(MEMORY));
    }

    #[cfg(unix)]
    #[test]
    fn a_failure_shows_the_end_of_what_the_program_said() {
        let side = shell("for i in $(seq 30); do echo line $i >&2; done; exit 3");
        let message = side.run(&["job".into()], 1).err().unwrap().to_string();
        assert!(message.starts_with("sh job failed (exit status: 3):\nline 16\n") && message.ends_with("line 30"), "{message}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let side = Side { name: "none", program: "/nowhere/python".into(), first: Vec::new() };
        assert!(side.run(&[], 1).err().unwrap().to_string().starts_with("/nowhere/python: "));
    }
}
