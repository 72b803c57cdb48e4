//! `peft-bench`: one job that `cargo xtask bench` measures, in a process of its own.
//!
//! Each job prints one JSON object: what was measured, the largest resident memory, and numbers that another implementation doing the
//! same must agree with.

mod base;
mod generate;
mod load;
mod merge;
mod prepare;
mod report;
mod switch;
mod train;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// One measured job, printed as one JSON object.
#[derive(Parser)]
#[command(name = "peft-bench")]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    Prepare(prepare::Prepare),
    Train(train::Train),
    Generate(generate::Generate),
    Load(load::Load),
    Switch(switch::Switch),
    Merge(merge::Merge),
}

fn main() -> ExitCode {
    let Cli { job } = Cli::parse();
    let report = peft_train::program(|| match job {
        Job::Prepare(job) => job.run(),
        Job::Train(job) => job.run(),
        Job::Generate(job) => job.run(),
        Job::Load(job) => job.run(),
        Job::Switch(job) => job.run(),
        Job::Merge(job) => job.run(),
    });
    match report {
        Ok(report) => {
            println!("{}", report.json());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
