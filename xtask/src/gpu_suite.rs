//! One program that checks and measures a GPU, with all that it needs beside it.

use crate::{Outcome, workspace_root};
use clap::Args;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAM: &str = "peft-gpu-suite";
/// Defines what LLVM would define; `run.sh` has the same name.
const TRAPS: &str = "libno-llvm.so";
/// Files that go along as they are, from xtask/gpu.
const BESIDE: [&str; 3] = ["run.sh", "peer.py", "shapes.json"];

/// Build `peft-gpu-suite` and put it into target/gpu-suite, ready to be copied to a machine with an NVIDIA GPU.
///
/// That machine needs the driver and NVRTC with its headers (a CUDA toolkit, or the Python wheels nvidia-cuda-nvrtc and
/// nvidia-cuda-runtime); this one needs neither. Kernels are compiled by NVRTC. LLVM, which Burn's CUDA backend links, is never called
/// then and is not downloaded: its functions are left undefined, and a small library defines them, to say so if one is called after all.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask gpu-suite\n  cargo xtask gpu-suite --llvm        # as `cargo build --features cuda` builds; downloads LLVM\n\n\
    On the other machine:\n  ./run.sh --device cuda > results.json\n  ./run.sh --device cuda --only train --shape 3b\n  \
    python3 peer.py --shape 3b          # Hugging Face PEFT, the same shape"
)]
pub struct GpuSuite {
    /// Link LLVM, which the build downloads once, and compile kernels through it in place of NVRTC.
    #[arg(long)]
    llvm: bool,
    /// Leave out the tuning of kernels, which takes minutes at the first run of each shape.
    #[arg(long, conflicts_with = "llvm")]
    untuned: bool,
    /// Where everything goes [default: target/gpu-suite].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl GpuSuite {
    /// Build, gather, and say what there is.
    pub fn run(&self) -> Outcome {
        let program = self.build()?;
        let out = self.out.clone().unwrap_or_else(|| workspace_root().join("target/gpu-suite"));
        if out.exists() && !out.join(PROGRAM).exists() && fs::read_dir(&out)?.next().is_some() {
            return Err(format!("{} has other content; name another directory with --out", out.display()).into());
        }
        fs::create_dir_all(&out)?;
        fs::copy(&program, out.join(PROGRAM))?;
        for file in BESIDE {
            fs::copy(workspace_root().join("xtask/gpu").join(file), out.join(file))?;
        }
        let traps = out.join(TRAPS);
        if traps.exists() {
            fs::remove_file(&traps)?;
        }
        let missing = if self.llvm { Vec::new() } else { missing_symbols(&program)? };
        if !missing.is_empty() {
            build_traps(&missing, &traps)?;
        }
        report(&out, missing.len())
    }

    fn build(&self) -> Outcome<PathBuf> {
        let features = match (self.llvm, self.untuned) {
            (true, _) => "cuda",
            (_, true) => "cuda-untuned",
            _ => "cuda-nvrtc",
        };
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["rustc", "--release", "--package", "peft-benches", "--bin", PROGRAM, "--features", features]);
        cargo.args(["--message-format", "json-render-diagnostics"]);
        if !self.llvm {
            // The build scripts of cubecl-llvm and its bundler leave LLVM alone where documentation is built.
            cargo.env("DOCS_RS", "1").args(["--", "-C", "link-arg=-Wl,--unresolved-symbols=ignore-all"]);
        }
        let output = cargo.current_dir(workspace_root()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("`{PROGRAM}` does not build").into());
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let executable = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("executable")?.as_str().map(PathBuf::from);
        Ok(messages.lines().filter_map(executable).next_back().ok_or("cargo names no executable")?)
    }
}

/// What a program needs of LLVM and does not have.
fn missing_symbols(program: &Path) -> Outcome<Vec<String>> {
    let output = Command::new("nm").args(["-D", "-u"]).arg(program).output().map_err(|e| format!("nm (of binutils): {e}"))?;
    if !output.status.success() {
        return Err(format!("nm: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(of_llvm(&String::from_utf8_lossy(&output.stdout)))
}

/// The symbols of LLVM, and of cubecl's wrappers of it, in what nm prints.
fn of_llvm(nm: &str) -> Vec<String> {
    let names = nm.lines().filter_map(|line| line.split_whitespace().next_back());
    names.filter(|name| name.starts_with("LLVM") || name.starts_with("cubecl_")).map(String::from).collect()
}

/// C that defines each symbol as a function which says its name and ends the program.
fn traps(symbols: &[String]) -> String {
    let functions: String = symbols.iter().map(|symbol| format!("TRAP({symbol})\n")).collect();
    format!(
        "#include <stdio.h>\n#include <stdlib.h>\n\n#define TRAP(name) \\\n    void name(void) {{ fputs(#name \": this program was built without \
         LLVM\\n\", stderr); abort(); }}\n\n{functions}"
    )
}

fn build_traps(symbols: &[String], library: &Path) -> Outcome {
    let source = library.with_extension("c");
    fs::write(&source, traps(symbols))?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler).args(["-shared", "-fPIC", "-O1", "-o"]).arg(library).arg(&source).status();
    fs::remove_file(&source)?;
    match status.map_err(|e| format!("{}: {e}", compiler.display()))?.success() {
        true => Ok(()),
        false => Err("the library in place of LLVM does not compile".into()),
    }
}

fn report(out: &Path, missing: usize) -> Outcome {
    let mut files = fs::read_dir(out)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files {
        println!("{:>12}  {}", file.metadata()?.len(), file.path().display());
    }
    if missing > 0 {
        println!("{missing} functions of LLVM are defined as traps");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_llvm_are_told_from_those_of_the_system() {
        let nm = "                 U LLVMAddFunction\n                 U cubecl_set_llvm_option\n                 U malloc@GLIBC_2.2.5\n                 w __gmon_start__\n";
        assert_eq!(of_llvm(nm), ["LLVMAddFunction", "cubecl_set_llvm_option"]);
    }

    #[test]
    fn each_trap_is_a_function() {
        let source = traps(&["LLVMDispose".into(), "LLVMCreate".into()]);
        assert!(source.ends_with("\n\nTRAP(LLVMDispose)\nTRAP(LLVMCreate)\n"), "{source}");
    }

    #[test]
    fn the_library_has_the_name_that_the_script_looks_for() {
        assert!(include_str!("../gpu/run.sh").contains(&format!("$here/{TRAPS}\"")));
        assert!(include_str!("../gpu/run.sh").contains(&format!("$here/{PROGRAM}\"")));
    }
}
