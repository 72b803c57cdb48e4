//! The same merges through `peft` and through mergekit and HF PEFT.

use super::binary::Binary;
use crate::{Outcome, workspace_root};
use std::path::Path;
use std::process::Command;

/// Merge all recipes and all adapters of the fixtures with both sides, and print the largest difference of each.
///
/// # Errors
/// If a merge fails, or a difference is above what rounding explains.
pub fn compare(binary: &Binary, python: &Path) -> Outcome {
    check(binary, python, "merge", "mergekit says otherwise, or is not there: `pip install mergekit==0.1.5`")?;
    check(binary, python, "merge_adapters", "HF PEFT says otherwise")
}

fn check(binary: &Binary, python: &Path, script: &str, otherwise: &str) -> Outcome {
    let root = workspace_root();
    let (program, fixtures) =
        (root.join("xtask/parity").join(format!("{script}.py")), root.join("fixtures").join(script.replace('_', "-")));
    let mut command = Command::new(python);
    command.arg(program).arg("check").arg(fixtures).arg(binary.path());
    match command.status()?.success() {
        true => Ok(()),
        false => Err(otherwise.into()),
    }
}
