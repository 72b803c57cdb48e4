//! The n-th change of the file system fails, or the process is killed there, for every n of every command that writes a result: then there is
//! the complete old one, the complete new one, or none, and the same command makes the new one.

use super::{Place, TINY, adapter, fixture, owned, recipe, succeeds, tree};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What is at a place: the files of a directory, or a file.
type Content = BTreeMap<String, Vec<u8>>;

fn content(path: &Path) -> Content {
    match path.is_file() {
        true => [(String::new(), std::fs::read(path).unwrap())].into(),
        false => tree(path),
    }
}

fn put_back(path: &Path, content: &Content) {
    remove(path);
    for (name, bytes) in content {
        let file = if name.is_empty() { path.to_path_buf() } else { path.join(name) };
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
}

fn remove(path: &Path) {
    let _ = std::fs::remove_dir_all(path);
    let _ = std::fs::remove_file(path);
}

/// Whether the command came as far as the fault.
fn run(arguments: &[String], fault: &str) -> bool {
    let output = Command::new(env!("CARGO_BIN_EXE_peft")).args(arguments).env("PEFT_FAULT", fault).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{fault}: {stderr}");
    let hit = stderr.contains("PEFT_FAULT: change ");
    assert!(hit || output.status.success(), "{fault}: {stderr}");
    hit
}

/// `old` and `new` are commands that write different results to `out`, in a directory in which nothing else is.
fn check(out: &Path, old: &[&str], new: &[&str]) {
    let (old, mut new) = (owned(old), owned(new));
    succeeds(&new);
    let after = content(out);
    remove(out);
    succeeds(&old);
    let before = content(out);
    assert!(before != after && !before.is_empty(), "the results differ");
    new.push("--overwrite".into());
    // What is there before the faults: an earlier result, or nothing.
    for (fault, start, step) in [("kill", &before, 1), ("fail", &before, 1), ("full", &Content::new(), 4)] {
        let mut count = 1;
        loop {
            put_back(out, start);
            let at = format!("{fault}:{count}");
            if !run(&new, &at) {
                break;
            }
            let left = content(out);
            assert!(left == *start || left == after, "{at} leaves {:?}", left.keys());
            succeeds(&new);
            assert!(content(out) == after, "{at}: the result of the command when it is given again");
            // A result whose last step fails is kept under another name, and the error says so.
            let beside = std::fs::read_dir(out.parent().unwrap()).unwrap().flatten().map(|entry| entry.path());
            let (complete, others): (Vec<_>, Vec<_>) =
                beside.partition(|path| path.file_name().unwrap().to_string_lossy().contains(".complete-"));
            assert_eq!(others, [out], "{at}");
            assert!(fault != "kill" || complete.is_empty(), "{at}: {complete:?}");
            complete.iter().for_each(|path| remove(path));
            count += step;
        }
        assert!(count > 5, "{fault}: only {count} changes");
    }
}

/// An empty directory for the output.
fn output(place: &Place) -> std::path::PathBuf {
    std::fs::create_dir(place.file("results")).unwrap();
    place.file("results/out")
}

#[test]
fn merge() {
    let place = Place::new();
    let (old, new) = (recipe(&place, "old.yaml", 1.0), recipe(&place, "new.yaml", 3.0));
    let out = output(&place);
    let path = out.to_str().unwrap();
    check(&out, &["merge", &old, "--out", path], &["merge", &new, "--out", path, "--shard-size", "12KB"]);
}

#[test]
fn merge_adapter() {
    let place = Place::new();
    let (old, new) = (adapter(&place, "old", "1"), adapter(&place, "new", "2"));
    let out = output(&place);
    let path = out.to_str().unwrap();
    let merge = |adapter| ["merge-adapter", "--model", TINY, "--adapter", adapter, "--out", path];
    check(&out, &merge(&old), &merge(&new));
}

#[test]
fn merge_adapters_and_compressed_ones() {
    let place = Place::new();
    let adapter = adapter(&place, "adapter", "1");
    let out = output(&place);
    let path = out.to_str().unwrap();
    let merge = |weight| ["merge-adapters", &adapter, "--weights", weight, "--out", path];
    check(&out, &merge("1"), &merge("0.5"));

    remove(&out);
    let compress = |density| ["compress", &adapter, "--density", density, "--out", path];
    check(&out, &compress("0.5"), &compress("0.2"));

    let (dense, sparse) = (place.path("dense.cpft"), place.path("sparse.cpft"));
    for (file, density) in [(&dense, "0.5"), (&sparse, "0.2")] {
        succeeds(&owned(&["compress", &adapter, "--density", density, "--out", file]));
    }
    remove(&out);
    check(&out, &["decompress", &dense, "--out", path], &["decompress", &sparse, "--out", path]);
}

/// A run goes on after a fault, and ends as one that had none.
#[test]
fn finetune() {
    let place = Place::new();
    let data = place.data();
    let (out, whole) = (output(&place), place.path("whole"));
    let path = out.to_str().unwrap();
    let run = |out, seed| {
        owned(&[
            "finetune",
            "--model",
            TINY,
            "--data",
            &data,
            "--max-steps",
            "3",
            "--save-steps",
            "1",
            "--seed",
            seed,
            "--r",
            "2",
            "--out",
            out,
        ])
    };
    let learned = |path: &Path| {
        let mut learned = tree(path);
        learned.retain(|name, _| name.starts_with("adapter_"));
        let losses = crate::common::losses(path.to_str().unwrap());
        (learned, losses)
    };
    succeeds(&run(&whole, "1"));
    let expected = learned(Path::new(&whole));
    let files: Vec<String> = tree(Path::new(&whole)).into_keys().collect();
    succeeds(&run(path, "2"));
    let (earlier, again) = (content(&out), owned(&["--overwrite"]));
    for (fault, start, step) in [("kill", None, 1), ("fail", None, 3), ("kill", Some(&earlier), 2), ("fail", Some(&earlier), 5)] {
        let mut count = 1;
        loop {
            start.map_or_else(|| remove(&out), |start| put_back(&out, start));
            let (at, mut command) = (format!("{fault}:{count}"), run(path, "1"));
            command.extend(start.map(|_| again.clone()).unwrap_or_default());
            if !super::faults::run(&command, &at) {
                break;
            }
            // It goes on, unless it is over, or has not begun to replace an earlier one.
            let resumed = [run(path, "1"), owned(&["--resume"])].concat();
            let output = Command::new(env!("CARGO_BIN_EXE_peft")).args(&resumed).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if !output.status.success() && start.is_some() && content(&out) == earlier {
                assert!(said.contains("--resume needs the settings") || said.contains("this run is over"), "{at}: {said}");
                succeeds(&command);
            } else {
                assert!(output.status.success() || said.contains("this run is over"), "{at}: {said}");
            }
            assert!(learned(&out) == expected, "{at} {}: {said}", start.is_some());
            assert_eq!(tree(&out).into_keys().collect::<Vec<_>>(), files, "{at}");
            count += step;
        }
        assert!(count > 20, "{fault}: only {count} changes");
    }
}

/// Weights of a checkpoint in a file of its own, with the base's files beside them.
#[test]
fn a_compressed_checkpoint() {
    let place = Place::new();
    let (base, tuned) = (fixture("base"), fixture("a"));
    let (dense, sparse) = (place.path("dense.cpft"), place.path("sparse.cpft"));
    for (file, density) in [(&dense, "0.5"), (&sparse, "0.2")] {
        succeeds(&owned(&["compress", &tuned, "--base", &base, "--density", density, "--out", file]));
    }
    let out = output(&place);
    let path = out.to_str().unwrap();
    let restore = |file| ["decompress", file, "--base", &base, "--out", path];
    check(&out, &restore(&dense), &restore(&sparse));
}
