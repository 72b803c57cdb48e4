//! What a run leaves for people: the page, the comparison, and the numbers for other programs.

mod common;

use common::{Place as Directory, TINY, failure, peft, result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const EVIL: &str = "<script>alert(1)</script>";

/// A directory with data.
struct Place(Directory);

impl Place {
    fn new() -> Self {
        let place = Self(Directory::new());
        let line = |word: &str| json!({ "prompt": format!("mirror: {word} = "), "completion": word.to_uppercase() }).to_string();
        std::fs::write(place.path("train.jsonl"), ["badu", "solina", "keto", "miru"].map(line).join("\n")).unwrap();
        let evil = json!({ "prompt": format!("copy: {EVIL} = "), "completion": EVIL }).to_string();
        std::fs::write(place.path("eval.jsonl"), [line("papi"), evil].join("\n")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.file(name)
    }

    fn text(&self, name: &str) -> String {
        self.0.path(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Fine-tune into `out`.
    fn run(&self, out: &str, extra: &[&str]) -> Value {
        let (data, eval, out) = (self.text("train.jsonl"), self.text("eval.jsonl"), self.text(out));
        let fixed = ["finetune", "--model", TINY, "--data", &data, "--eval", &eval, "--max-steps", "3", "--batch-size", "2", "--out", &out];
        result(&[&fixed, extra].concat())
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

#[test]
fn fine_tuning_leaves_a_page_with_its_numbers_and_samples() {
    let place = Place::new();
    let done = place.run("out", &[]);
    assert_eq!(done["report"], place.text("out/report.html"));
    let page = place.read("out/report.html");
    let four = |value: &Value| format!("{:.4}", value.as_f64().unwrap()).trim_end_matches('0').to_string();
    for part in
        [&four(&done["train_loss_last"]), &four(&done["eval_loss"]), "tiny · lora", "finished", "q_proj", "lora_alpha", "mirror: papi = "]
    {
        assert!(page.contains(part), "{part} is not in the page");
    }
    let summary: Value = serde_json::from_str(&place.read("out/summary.json")).unwrap();
    assert_eq!((&summary["steps"], &summary["trainable_params"]), (&json!(3), &done["trainable_params"]));
    let parameters: Value = serde_json::from_str(&place.read("out/parameters.json")).unwrap();
    assert_eq!(parameters["trainable"], done["trainable_params"]);
    let samples = lines(&place.read("out/samples.jsonl"));
    assert_eq!(samples.len(), 2, "four are wanted, the evaluation data have two");
    assert!(samples.iter().all(|sample| sample["before"].is_string() && sample["after"].is_string()));
    assert_eq!(samples[0]["expected"], "PAPI");
}

#[test]
fn markup_in_the_data_is_harmless() {
    let place = Place::new();
    place.run("out", &[]);
    let page = place.read("out/report.html");
    assert!(page.contains("copy: &lt;script&gt;alert(1)&lt;&#x2f;script&gt; = "), "the prompt is shown as text");
    assert!(!page.contains(EVIL));
    assert_eq!(page.matches("<script>").count(), 1, "the page has one script of its own");
}

#[test]
fn a_run_that_was_cut_still_has_a_page() {
    let place = Place::new();
    place.run("out", &[]);
    std::fs::remove_file(place.path("out/summary.json")).unwrap();
    let metrics = place.read("out/metrics.jsonl");
    std::fs::write(place.path("out/metrics.jsonl"), &metrics[..metrics.len() - 30]).unwrap();
    let page = place.text("cut.html");
    assert_eq!(result(&["report", &place.text("out"), "--out", &page])["report"], page);
    let page = place.read("cut.html");
    for part in ["2 of 3 steps", "The run was not finished", "Line 3 of metrics.jsonl is not whole"] {
        assert!(page.contains(part), "{part} is not in the page");
    }
}

#[test]
fn runs_are_compared_on_one_page() {
    let place = Place::new();
    place.run("small", &["--r", "2", "--samples", "1"]);
    place.run("large", &["--r", "4", "--samples", "0"]);
    assert!(!place.path("large/samples.jsonl").exists());
    result(&["report", &place.text("small"), &place.text("large"), "--out", &place.text("both.html")]);
    let page = place.read("both.html");
    for part in ["2 runs", "small</", "large</", "var(--run-1)", "<td class=\"path\">2</td><td class=\"path\">4</td>"] {
        assert!(page.contains(part), "{part} is not in the page");
    }
}

#[test]
fn the_numbers_can_be_exported() {
    let place = Place::new();
    place.run("out", &["--tensorboard", &place.text("live")]);
    let (csv, logs) = (place.text("metrics.csv"), place.text("logs"));
    result(&["report", &place.text("out"), "--csv", &csv, "--tensorboard", &logs]);
    let csv = place.read("metrics.csv");
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = rows.next().unwrap();
    for (line, row) in lines(&place.read("out/metrics.jsonl")).iter().zip(rows) {
        for (name, text) in names.iter().zip(row) {
            let number = (!text.is_empty()).then(|| text.parse::<f64>().unwrap());
            assert_eq!(number, line.get(*name).and_then(Value::as_f64), "{name}");
        }
    }
    for directory in ["live/out", "logs/out"] {
        let files: Vec<_> = std::fs::read_dir(place.path(directory)).unwrap().flatten().collect();
        assert_eq!(files.len(), 1);
        let bytes = std::fs::read(files[0].path()).unwrap();
        let has = |part: &str| bytes.windows(part.len()).any(|window| window == part.as_bytes());
        assert!(has("brain.Event:2") && has("train/loss") && has("eval/loss"), "{directory}");
    }
}

#[test]
fn what_is_no_run_is_refused() {
    let place = Place::new();
    let message = failure(&["report", &place.text(".")]);
    assert!(
        message.ends_with("holds no metrics.jsonl; a run is the output directory of a training, with metrics.jsonl in it"),
        "{message}"
    );
    assert!(failure(&["report", "/nowhere"]).contains("/nowhere: no such directory"));
    std::fs::write(place.path("metrics.jsonl"), "hello\n").unwrap();
    assert!(failure(&["report", &place.text(".")]).contains("no line is a JSON object with a `step`"));
}

#[test]
fn samples_need_evaluation_data() {
    let place = Place::new();
    let (data, out) = (place.text("train.jsonl"), place.text("out"));
    let message = failure(&["finetune", "--model", TINY, "--data", &data, "--samples", "2", "--out", &out]);
    assert_eq!(message, "error: invalid configuration: samples are taken from the evaluation data: give --eval too");
    assert!(!Path::new(&out).exists());
}

#[test]
fn steps_are_told_as_asked() {
    let place = Place::new();
    let (data, out) = (place.text("train.jsonl"), place.text("out"));
    let said = |how: &str| {
        let output =
            peft(&["finetune", "--model", TINY, "--data", &data, "--max-steps", "3", "--out", &out, "--overwrite", "--progress", how]);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).matches("step ").count()
    };
    assert_eq!((said("plain"), said("auto"), said("none")), (3, 3, 0));
}
