//! The same recipes through `peft merge` and mergekit.

use super::binary::Binary;
use crate::{Outcome, workspace_root};
use std::path::Path;
use std::process::Command;

/// Merge all recipes of the fixtures with both, and print the largest difference of each.
///
/// # Errors
/// If a merge fails, or a difference is above what rounding explains.
pub fn compare(binary: &Binary, python: &Path) -> Outcome {
    let root = workspace_root();
    let script = root.join("xtask/parity/merge.py");
    let mut command = Command::new(python);
    command.arg(script).arg("check").arg(root.join("fixtures/merge")).arg(binary.path());
    match command.status()?.success() {
        true => Ok(()),
        false => Err("mergekit says otherwise, or is not there: `pip install mergekit==0.1.5`".into()),
    }
}
