//! Two processes that write to one place: exactly one succeeds, and the other says who is writing.

use super::{Place, TINY, adapter, owned, recipe, refusal, tree};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts a command that halts at its n-th change.
fn halted(arguments: &[String], change: usize) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peft"));
    let mut child =
        command.args(arguments).env("PEFT_FAULT", format!("stop:{change}")).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let came = lines.by_ref().map_while(Result::ok).any(|line| line.contains("PEFT_FAULT: change "));
    assert!(came, "{arguments:?} makes fewer changes");
    // What it says later has to go somewhere.
    std::thread::spawn(move || lines.count());
    child
}

fn go_on(mut child: Child) -> bool {
    assert!(Command::new("kill").args(["-CONT", &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap().success()
}

/// `first` is halted at several of its changes, and `second` comes meanwhile.
fn check(out: &str, first: &[&str], second: &[&str], changes: &[usize]) {
    for change in changes {
        let child = halted(&owned(first), *change);
        let said = refusal(second);
        let holder = format!("is being written by process {} (`peft {}", child.id(), first[0]);
        assert!(said.contains(&holder) && said.contains(" UTC; wait"), "{said}");
        assert!(go_on(child), "the first is not disturbed");
        let result = tree(Path::new(out));
        assert!(!result.is_empty());
        std::fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn two_merges() {
    let place = Place::new();
    let (one, other) = (recipe(&place, "one.yaml", 1.0), recipe(&place, "other.yaml", 3.0));
    let out = place.path("out");
    let merge = |recipe| ["merge", recipe, "--out", &out, "--shard-size", "12KB", "--overwrite"];
    check(&out, &merge(&one), &merge(&other), &[2, 9, 20, 40]);
    // A link to the place is the place.
    std::fs::create_dir(&out).unwrap();
    std::os::unix::fs::symlink(&out, place.path("link")).unwrap();
    let link = place.path("link");
    check(&out, &merge(&one), &["merge", &other, "--out", &link], &[9]);
}

#[test]
fn two_runs_and_a_run_beside_a_merge() {
    let place = Place::new();
    let adapter = adapter(&place, "adapter", "1");
    let (data, out) = (place.data(), place.path("out"));
    let run = |seed| {
        [
            "finetune",
            "--model",
            TINY,
            "--data",
            &data,
            "--max-steps",
            "2",
            "--save-steps",
            "1",
            "--seed",
            seed,
            "--out",
            &out,
            "--overwrite",
        ]
    };
    check(&out, &run("1"), &run("2"), &[2, 12]);
    let merge = ["merge-adapters", &adapter, "--weights", "1", "--out", &out, "--overwrite"];
    check(&out, &run("1"), &merge, &[12]);
    check(&out, &merge, &run("1"), &[4]);
}

/// However two merges meet: one of them gives its result, and the result is that of one of them.
#[test]
fn merges_at_any_time() {
    let place = Place::new();
    let recipes = [recipe(&place, "one.yaml", 1.0), recipe(&place, "other.yaml", 3.0)];
    let whole = recipes.each_ref().map(|recipe| {
        let out = place.path("whole");
        super::succeeds(&owned(&["merge", recipe, "--out", &out, "--shard-size", "4KB"]));
        let content = tree(Path::new(&out));
        std::fs::remove_dir_all(&out).unwrap();
        weights(content)
    });
    let out = place.path("out");
    for round in 0..6 {
        let start = |recipe: &String| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_peft"));
            command
                .args(["merge", recipe, "--out", &out, "--shard-size", "4KB"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let first = start(&recipes[0]);
        std::thread::sleep(std::time::Duration::from_millis(7 * round));
        let ended = [first, start(&recipes[1])].map(|mut child| child.wait().unwrap().success());
        assert_eq!(ended.iter().filter(|succeeded| **succeeded).count(), 1);
        let result = weights(tree(Path::new(&out)));
        assert!(result == whole[usize::from(ended[1])], "the result is that of the one that says so");
        std::fs::remove_dir_all(&out).unwrap();
    }
}

fn weights(mut content: std::collections::BTreeMap<String, Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    content.retain(|name, _| name.ends_with(".safetensors") || name.ends_with(".index.json"));
    content.into_iter().collect()
}
