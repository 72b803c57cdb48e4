//! Project tasks, run as `cargo xtask <task>`.

mod bench;
mod check;
mod gpu_suite;
mod parity;
mod repro;
mod sanitize;
mod tiny;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The result of a task; the error is a sentence for a person.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Tasks around the code: checks, comparisons with Python, measurements, generated assets.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Bench(bench::Bench),
    Check(check::Check),
    GpuSuite(gpu_suite::GpuSuite),
    Parity(parity::Parity),
    Repro(repro::Repro),
    PretrainTiny(tiny::pretrain::PretrainTiny),
    Sanitize(sanitize::Sanitize),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Bench(task) => task.run(),
        Task::Check(task) => task.run(),
        Task::GpuSuite(task) => task.run(),
        Task::Parity(task) => task.run(),
        Task::Repro(task) => task.run(),
        Task::PretrainTiny(task) => task.run(),
        Task::Sanitize(task) => task.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository, wherever the task was started.
fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}
