//! `peft`: fine-tune, evaluate, merge and run adapted language models.

// They panic where the stream is closed or full: `output::note` and `output::emit` are used in their place.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod commands;
mod dashboard;
mod data;
mod hub;
mod interrupt;
mod loaded;
mod loading;
mod output;
mod progress;
mod run;
mod run_checks;
mod run_files;
mod run_state;
mod terminal;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Fine-tune, evaluate, merge and run language models by touching few of their parameters.
#[derive(Parser)]
#[command(name = "peft", version, propagate_version = true)]
#[command(after_help = "Start with `peft quickstart`, which needs no files.\n\
    Messages and progress go to stderr, results to stdout; PEFT_LOG=debug says more.")]
struct Cli {
    /// Print the result as one JSON object on stdout.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(commands::quickstart::Quickstart),
    Finetune(Box<commands::finetune::Finetune>),
    Report(commands::report::Report),
    Eval(commands::eval::Eval),
    Generate(commands::generate::Generate),
    Logits(commands::logits::Logits),
    Merge(commands::merge::Merge),
    Fisher(commands::fisher::Fisher),
    MergeAdapter(commands::merge_adapter::MergeAdapter),
    MergeAdapters(commands::merge_adapters::MergeAdapters),
    Compress(commands::compress::Compress),
    Decompress(commands::decompress::Decompress),
    Inspect(commands::inspect::Inspect),
    Methods(commands::methods::Methods),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = std::env::var("PEFT_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(tracing::Level::WARN);
    // Messages name what stands in other people's files, so that no color can be told from theirs.
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(terminal::PlainStderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .log_internal_errors(false)
        .init();
    interrupt::survive_file_limits();
    let json = cli.json;
    let result = peft_train::program(|| match cli.command {
        Command::Quickstart(command) => command.run(json),
        Command::Finetune(command) => command.run(json),
        Command::Report(command) => command.run(json),
        Command::Eval(command) => command.run(json),
        Command::Generate(command) => command.run(json),
        Command::Logits(command) => command.run(json),
        Command::Merge(command) => command.run(json),
        Command::Fisher(command) => command.run(json),
        Command::MergeAdapter(command) => command.run(json),
        Command::MergeAdapters(command) => command.run(json),
        Command::Compress(command) => command.run(json),
        Command::Decompress(command) => command.run(json),
        Command::Inspect(command) => command.run(json),
        Command::Methods(command) => command.run(json),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if json {
                // Where nobody reads it, the exit code says as much.
                let _ = output::emit(&format!("{}\n", serde_json::json!({ "error": error.to_string() })));
            }
            output::note(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
