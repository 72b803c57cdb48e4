//! `peft eval` on the embedded tiny model.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny");
const TASKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tasks");

fn eval(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_peft")).args(["eval", "--model", TINY]).args(arguments).output().expect("the program starts")
}

/// The result on stdout of a run that must succeed.
fn result(arguments: &[&str]) -> Value {
    let output = eval(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout")
}

/// What a run prints for people.
fn shown(arguments: &[&str]) -> String {
    let output = eval(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What is said on stderr by a run that must fail.
fn failure(arguments: &[&str]) -> String {
    let output = eval(arguments);
    assert!(!output.status.success(), "{arguments:?} must fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<str>) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text.as_ref()).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// Objects as JSON Lines.
    fn lines(&self, name: &str, lines: &[Value]) -> String {
        self.write(name, lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"))
    }
}

fn read_lines(file: &Path) -> Vec<Value> {
    std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn flags_that_cannot_act_are_told() {
    let place = Place::new();
    let data = place.lines("questions.jsonl", &[json!({ "prompt": "copy: badu = ", "answer": "badu" })]);
    let said = |command: &str, more: &str| {
        let words = command.split(' ').chain(more.split(' ').filter(|word| !word.is_empty()));
        let words = words.map(|word| if word == "DATA" { data.as_str() } else { word });
        let output = Command::new(env!("CARGO_BIN_EXE_peft")).args(words).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let answers = format!("eval --model {TINY} --data DATA --metric exact-match");
    for flag in ["--max-length 9", "--stride 4", "--train-on-prompt"] {
        let name = flag.split(' ').next().unwrap();
        assert!(said(&answers, flag).contains(&format!("{name} has no effect: it is for perplexity")), "{flag}");
    }
    assert!(said(&answers, "--batch-size 0").contains("must be at least 1"));
    assert!(!said(&answers, "--max-new-tokens 2").contains("no effect"));
    let generate = format!("generate --model {TINY} --prompt a --max-new-tokens 1");
    for flag in ["--top-k 2", "--top-p 0.5", "--seed 3"] {
        let name = flag.split(' ').next().unwrap();
        assert!(said(&generate, flag).contains(&format!("{name} has no effect")), "{flag}");
        assert!(!said(&generate, &format!("{flag} --temperature 1")).contains("no effect"), "{flag}");
    }
    assert!(!said(&generate, "").contains("no effect"));
}

#[test]
fn every_metric_of_a_data_file_has_a_standard_error() {
    let place = Place::new();
    let line = |prompt: &str, answer: &str| json!({ "prompt": prompt, "answer": answer });
    let data = [line("copy: badu = ", "badu"), line("copy: bad fig = ", "bad"), line("count: badu = ", "4")];
    let data = place.lines("data.jsonl", &data);
    let score = |metric: &str, name: &str| {
        let result = result(&["--data", &data, "--metric", metric]);
        assert_eq!((&result["examples"], &result["settings"]["model"]), (&json!(3), &json!(TINY)));
        (result[name].as_f64().unwrap(), result["standard_errors"][name].as_f64().unwrap())
    };
    let third = 1.0 / 3.0;
    let (accuracy, error) = score("exact-match", "accuracy");
    assert!((accuracy - 2.0 * third).abs() < 1e-12 && (error - third).abs() < 1e-12, "{accuracy} ± {error}");
    let (f1, error) = score("token-f1", "f1");
    assert!((f1 - (1.0 + 2.0 * third + 1.0) / 3.0).abs() < 1e-12 && error > 0.0, "{f1} ± {error}");
    assert_eq!(score("rouge-l", "rouge_l").0, f1);
    assert!((score("numeric", "accuracy").0 - third).abs() < 1e-12);
}

#[test]
fn results_are_a_table_for_people() {
    let place = Place::new();
    let data = place.lines("upper.jsonl", &[json!({ "prompt": "upper: badu = ", "answer": "BADU" })]);
    let table = shown(&["--data", &data, "--metric", "exact-match"]);
    assert_eq!(table, "task   score     value   standard error  examples\nupper  accuracy  1.0000  0.0000          1\n");
}

#[test]
fn perplexity_of_a_text_file_is_measured_in_windows() {
    let place = Place::new();
    let text = place.write("text.txt", "copy: badu = badu\nupper: ko = KO\n");
    let result = result(&["--data", &text, "--metric", "perplexity"]);
    assert_eq!((&result["bytes"], &result["words"], &result["tokens"]), (&json!(33), &json!(8), &json!(33)));
    let (loss, bits) = (result["loss"].as_f64().unwrap(), result["bits_per_byte"].as_f64().unwrap());
    assert!((result["perplexity"].as_f64().unwrap() / loss.exp() - 1.0).abs() < 1e-9);
    assert!((bits * std::f64::consts::LN_2 / loss - 1.0).abs() < 1e-9, "a token of this model is a byte");
    let message = failure(&["--data", &text, "--metric", "perplexity", "--max-length", "16", "--stride", "16"]);
    assert!(message.contains("stride must be 1 to 15 for windows of 16 tokens"), "{message}");
    let empty = place.write("empty.txt", "");
    assert!(failure(&["--data", &empty, "--metric", "perplexity"]).contains("empty.txt: holds no text that could be scored"));
}

/// The tasks of the project beside small data in the shape that they expect.
fn project_tasks(place: &Place) -> Vec<String> {
    let math = |question: &str, answer: &str| json!({ "question": question, "answer": answer });
    let sums = [math("1 and 2?", "3\n#### 3"), math("2 and 2?", "4\n#### 4"), math("5 and 2?", "7\n#### 7")];
    place.lines("gsm8k/test.jsonl", &sums);
    let solved = ["3 and 3?", "4 and 1?", "1 and 1?", "6 and 2?", "9 and 1?", "2 and 7?"].map(|q| math(q, "2\n#### 2"));
    place.lines("gsm8k/train.jsonl", &solved);
    let choices = json!({ "text": ["coal", "wind", "gas"], "label": ["A", "B", "C"] });
    place.lines("arc/test.jsonl", &[json!({ "question": "Which is renewable?", "choices": choices, "answerKey": "B" })]);
    let squad = json!({ "context": "It is red.", "question": "Colour?", "answers": { "text": ["red", "Red"], "answer_start": [6, 6] } });
    place.lines("squad/validation.jsonl", &[squad]);
    place.write("sentiment/test.csv", "sentence,label\n\"good, really\",1\nbad,0\n");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(TASKS).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        files.push(place.write(&name, std::fs::read_to_string(entry.path()).unwrap()));
    }
    files.sort();
    files
}

#[test]
fn the_tasks_of_the_project_run_together() {
    let place = Place::new();
    let files = project_tasks(&place);
    let tasks: Vec<&str> = files.iter().flat_map(|file| ["--task", file.as_str()]).collect();
    let predictions = place.path("predictions.jsonl");
    let results = result(&[&tasks, ["--batch-size", "2", "--predictions", predictions.to_str().unwrap()].as_slice()].concat());
    let results = results["results"].as_array().unwrap();
    let names: Vec<_> = results.iter().map(|result| result["task"].as_str().unwrap()).collect();
    assert_eq!(names, ["arc", "gsm8k", "sentiment", "squad"]);
    let scores = [("arc", "accuracy_normalised"), ("gsm8k", "accuracy"), ("sentiment", "matthews"), ("squad", "f1")];
    for ((result, (task, score)), examples) in results.iter().zip(scores).zip([1, 3, 2, 1]) {
        assert!(result[score].is_number() && result["standard_errors"][score].is_number(), "{task}: {result}");
        assert_eq!(result["examples"], examples);
    }
    assert_eq!(results[1]["settings"]["few_shot"]["k"], 5);

    let predictions = read_lines(&predictions);
    assert_eq!(predictions.len(), 7);
    let of = |task: &str| predictions.iter().find(|line| line["task"] == task).unwrap();
    assert_eq!(of("arc")["prompt"], "Question: Which is renewable?\nAnswer:");
    assert_eq!((&of("arc")["choices"], &of("arc")["expected"]), (&json!(["coal", "wind", "gas"]), &json!(1)));
    assert_eq!(of("gsm8k")["prompt"].as_str().unwrap().matches("Question: ").count(), 6);
    assert!(of("gsm8k")["output"].is_string() && of("gsm8k")["right"].is_boolean());
    assert_eq!(of("squad")["expected"], json!(["red", "Red"]));

    let table = shown(&[&tasks, ["--limit", "1"].as_slice()].concat());
    assert!(table.starts_with("task") && table.contains("gsm8k      accuracy"), "{table}");
    assert!(table.contains("sentiment  precision  recall"), "the classes have a table of their own: {table}");
}

#[test]
fn a_task_of_perplexity_reads_text_and_rows() {
    let place = Place::new();
    place.write("text.txt", "copy: badu = badu\n");
    place.lines("rows.jsonl", &[json!({ "document": "copy: badu = badu\n" }), json!({ "document": "upper: ko = KO\n" })]);
    let plain = place.write("plain.yaml", "data: text.txt\nmetric: perplexity\nmax_length: 64\n");
    let rows = place.write("rows.yaml", "data: rows.jsonl\nmetric: perplexity\ntext: document\nmax_length: 64\nstride: 16\n");
    let results = result(&["--task", &plain, "--task", &rows]);
    assert_eq!((&results["results"][0]["tokens"], &results["results"][1]["tokens"]), (&json!(18), &json!(33)));
    let first = result(&["--task", &plain, "--task", &rows, "--limit", "1"]);
    let loss = |index: usize| first["results"][index]["loss"].as_f64().unwrap();
    assert!((loss(0) - loss(1)).abs() < 1e-6, "the same text");
    let file = place.path("p.jsonl");
    let message = failure(&["--task", &plain, "--predictions", file.to_str().unwrap()]);
    assert!(message.contains("--predictions has nothing to write for plain"), "{message}");
}

#[test]
fn bad_input_is_refused_with_the_place_and_what_would_be_right() {
    let place = Place::new();
    let rows = place.lines("rows.jsonl", &[json!({ "q": "a", "a": "b" }), json!({ "q": "a" })]);
    let message = failure(&["--data", &rows, "--metric", "bleu"]);
    assert!(message.contains("invalid value 'bleu'") && message.contains("exact-match") && message.contains("rouge-l"), "{message}");
    let task = |text: &str| failure(&["--task", &place.write("task.yaml", text)]);
    let metric = task("data: rows.jsonl\nmetric: bleu\nprompt: q\nanswer: a\n");
    assert!(
        metric.contains("task.yaml") && metric.contains("unknown variant `bleu`") && metric.contains("token_f1, rouge_l, numeric"),
        "{metric}"
    );
    let field = task("data: rows.jsonl\nmetric: exact_match\nprompt: q\nanswer: a\n");
    assert!(field.contains("rows.jsonl:2: `answer`: there is no field `a`; the row has `q`"), "{field}");
    let template = task("data: rows.jsonl\nmetric: exact_match\nprompt: \"{{ q }}\\n{{ p }}\"\nanswer: q\n");
    assert!(template.contains("rows.jsonl:1: `prompt`: `p` is undefined (line 2 of the template)"), "{template}");
    let unknown = task("data: rows.jsonl\nmetric: exact_match\nprompt: q\nanswer: q\nshots: 3\n");
    assert!(unknown.contains("unknown field `shots`") && unknown.contains("few_shot, chat"), "{unknown}");
    place.write("empty.jsonl", "");
    let empty = task("data: empty.jsonl\nmetric: exact_match\nprompt: q\nanswer: a\n");
    assert!(empty.contains("empty.jsonl: holds no examples"), "{empty}");
    let one = place.lines("one.jsonl", &[json!({ "prompt": "p", "choices": ["a"], "answer": 0 })]);
    let message = failure(&["--data", &one, "--metric", "multiple-choice"]);
    assert!(message.contains("one.jsonl:1: `choices` needs at least two, found 1"), "{message}");
    assert!(failure(&["--task", &place.path("no.yaml").to_string_lossy()]).contains("no.yaml"));
    let both = failure(&["--task", &place.path("task.yaml").to_string_lossy(), "--data", &rows, "--metric", "numeric"]);
    assert!(both.contains("cannot be used with"), "{both}");
    assert!(failure(&["--data", &rows]).contains("--metric"), "a data file needs a metric");
}
