//! The unsafe code of the kernels under programs that watch every access of memory.

use crate::{Outcome, workspace_root};
use clap::{Args, ValueEnum};
use std::env;
use std::process::Command;

/// Valgrind ends with this where it has found something; a failed test ends with another.
const FOUND: &str = "99";
/// The tests of the kernels, without those that compute for minutes under a watcher.
const PACKAGE: &str = "peft-kernels";

/// Run the tests of peft-kernels, where most of the unsafe code is, under a program that watches memory.
///
/// valgrind works with the stable compiler, and sees the code as it is compiled for AVX2; it knows no AVX-512. Miri interprets the program
/// and finds more (aliasing, values that are none), slowly, and without the code for instruction sets; address and thread use the
/// sanitizers of LLVM. These three need a nightly toolchain, and `cargo test` there builds what the kernels depend on anew.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask sanitize                                 # valgrind\n  cargo xtask sanitize miri -- matrix\n\n\
    Once:\n  apt install valgrind\n  rustup toolchain install nightly --component miri,rust-src"
)]
pub struct Sanitize {
    /// What watches.
    #[arg(value_enum, default_value_t = Watcher::Valgrind)]
    watcher: Watcher,
    /// Which tests, by a part of their names; all if none is given.
    #[arg(last = true, value_name = "TEST")]
    tests: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Watcher {
    /// Reads and writes outside of what was allocated, and of what was never written.
    Valgrind,
    /// Undefined behaviour of every kind, by interpretation.
    Miri,
    /// AddressSanitizer.
    Address,
    /// ThreadSanitizer.
    Thread,
}

impl Sanitize {
    /// Run the tests; an error if a test fails or the watcher finds something.
    pub fn run(&self) -> Outcome {
        let mut command = match self.watcher {
            Watcher::Valgrind => valgrind()?,
            Watcher::Miri => miri()?,
            Watcher::Address => sanitizer("address")?,
            Watcher::Thread => sanitizer("thread")?,
        };
        command.args(&self.tests).current_dir(workspace_root());
        match command.status()?.success() {
            true => Ok(()),
            false => Err(format!("{:?} or a test has found something, see above", self.watcher).into()),
        }
    }
}

fn valgrind() -> Outcome<Command> {
    require("valgrind", &["--version"], "install it with the system's packages (apt install valgrind)")?;
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Two threads share the work, so that what they share is looked at too; valgrind runs one at a time.
    let runner = format!("['valgrind', '--error-exitcode={FOUND}', '--quiet']");
    command.args(["test", "--package", PACKAGE, "--lib", "--config", &format!("target.'cfg(all())'.runner = {runner}"), "--"]);
    command.env("RAYON_NUM_THREADS", "2");
    Ok(command)
}

fn miri() -> Outcome<Command> {
    require("rustup", &["run", "nightly", "cargo", "miri", "--version"], "rustup toolchain install nightly --component miri,rust-src")?;
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "miri", "test", "--package", PACKAGE, "--lib", "--"]);
    // Rayon's queues are beyond what the strict model of pointers knows, and its threads outlive the tests.
    command.env("MIRIFLAGS", "-Zmiri-permissive-provenance -Zmiri-ignore-leaks").env("RAYON_NUM_THREADS", "2");
    command.env("CARGO_TARGET_DIR", workspace_root().join("target/miri"));
    Ok(command)
}

fn sanitizer(name: &str) -> Outcome<Command> {
    let hint = "rustup toolchain install nightly --component rust-src";
    require("rustup", &["run", "nightly", "rustc", "--version"], hint)?;
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "test", "-Zbuild-std", "--target", &target, "--package", PACKAGE, "--lib", "--"]);
    command.env("RUSTFLAGS", format!("-Zsanitizer={name}")).env("CARGO_TARGET_DIR", workspace_root().join("target/sanitizer"));
    Ok(command)
}

/// An error that says how to get a program if it does not start.
fn require(program: &str, arguments: &[&str], hint: &str) -> Outcome {
    let output = Command::new(program).args(arguments).output();
    match output.is_ok_and(|output| output.status.success()) {
        true => Ok(()),
        false => Err(format!("`{program} {}` does not work here, which this needs; {hint}", arguments.join(" ")).into()),
    }
}
