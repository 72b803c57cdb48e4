//! Metrics and perplexity against other implementations, and what task files come to.
//!
//! `xtask/parity/evaluate.py` makes the reference numbers.

use burn::tensor::{DType, Int, Tensor, TensorData};
use peft_core::device;
use peft_models::CausalLm;
use peft_train::data::{ChatTemplate, TextTokenizer};
use peft_train::evaluate::metrics::*;
use peft_train::evaluate::{ChoiceItem, DataOptions, Items, Job, Metric, OpenItem, Task, data_job};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn fixture(name: &str) -> PathBuf {
    workspace().join("fixtures/evaluate").join(name)
}

fn reference(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

fn cases<'a>(reference: &'a Value, kind: &str) -> &'a Vec<Value> {
    reference[kind].as_array().filter(|cases| !cases.is_empty()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn labels(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as usize).collect()
}

#[track_caller]
fn close(found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= tolerance, "{found} instead of {expected}");
}

/// Two bootstraps with other draws agree to some percent.
#[track_caller]
fn similar(found: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 0.1, "{found} instead of {expected}");
}

// ---- metrics

#[test]
fn classification_scores_are_those_of_scikit_learn() {
    for case in cases(&reference("metrics.json"), "classification") {
        let (predicted, expected) = (labels(&case["predicted"]), labels(&case["expected"]));
        let found = Classification::new(&predicted, &expected, case["labels"].as_u64().unwrap() as usize).unwrap();
        close(found.accuracy.value, &case["accuracy"], 1e-12);
        close(found.matthews.value, &case["matthews"], 1e-12);
        similar(found.f1.standard_error, &case["f1_standard_error"]);
        similar(found.matthews.standard_error, &case["matthews_standard_error"]);
        assert_eq!(json!(found.confusion), case["confusion"]);
        for (class, expected) in found.classes.iter().zip(case["classes"].as_array().unwrap()) {
            let scores = [class.precision, class.recall, class.f1, class.support as f64];
            scores.iter().zip(expected.as_array().unwrap()).for_each(|(found, expected)| close(*found, expected, 1e-12));
        }
        let averages = [("binary", Average::Binary), ("macro", Average::Macro), ("micro", Average::Micro), ("weighted", Average::Weighted)];
        for (name, average) in averages.into_iter().filter(|(name, _)| case.get(name).is_some()) {
            let scores = found.confusion.average(average);
            close(scores.precision, &case[name]["precision"], 1e-12);
            close(scores.recall, &case[name]["recall"], 1e-12);
            close(scores.f1, &case[name]["f1"], 1e-12);
        }
        let reported = if found.classes.len() == 2 { "binary" } else { "macro" };
        close(found.f1.value, &case[reported]["f1"], 1e-12);
    }
}

#[test]
fn correlations_are_those_of_scipy() {
    for case in cases(&reference("metrics.json"), "regression") {
        let found = Regression::new(&numbers(&case["predicted"]), &numbers(&case["expected"])).unwrap();
        let pearson = found.pearson.unwrap();
        close(pearson.value, &case["pearson"], 1e-12);
        close(found.spearman.unwrap().value, &case["spearman"], 1e-12);
        close(found.mse.value, &case["mse"], 1e-12);
        if let Some(expected) = case.get("pearson_standard_error") {
            similar(pearson.standard_error, expected);
        }
    }
}

#[test]
fn texts_are_compared_as_squad_and_rouge_score_do() {
    for case in cases(&reference("metrics.json"), "texts") {
        let text = |key: &str| case[key].as_str().unwrap();
        let (output, answer) = (normalised(text("output"), &Normalise::SQUAD), normalised(text("answer"), &Normalise::SQUAD));
        assert_eq!(f64::from(u8::from(output == answer)), case["exact"].as_f64().unwrap(), "{case}");
        close(token_f1(&output, &answer), &case["token_f1"], 1e-7); // computed there in f32
        close(rouge_l(text("output"), text("answer")), &case["rouge_l"], 1e-12);
    }
}

// ---- the tiny model

fn tiny() -> PathBuf {
    workspace().join("crates/cli/assets/tiny")
}

fn model() -> (CausalLm, TextTokenizer) {
    // Other devices than the CPU compute in the half precision that is stored.
    let dtype = (!device::host_is_cpu()).then_some(DType::F32);
    (CausalLm::load(tiny(), &device::host(), dtype).unwrap(), TextTokenizer::load(tiny()).unwrap())
}

fn options() -> DataOptions {
    DataOptions { batch_size: 3, limit: None, max_length: None, stride: None, train_on_prompt: false, max_new_tokens: 16 }
}

fn windows(file: &Path, max_length: usize, stride: usize) -> Value {
    let (model, tokenizer) = model();
    let options = DataOptions { max_length: Some(max_length), stride: Some(stride), ..options() };
    let job = data_job(file, Metric::Perplexity, &options, &tokenizer, None).unwrap();
    job.run(&model, &tokenizer, |_, _| {}).unwrap().to_json()
}

#[test]
fn perplexity_in_windows_is_that_of_transformers() {
    let reference = reference("perplexity.json");
    for case in cases(&reference, "windows") {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let found = windows(&fixture("text.txt"), size("max_length"), size("stride"));
        assert_eq!(found["tokens"], case["tokens"]);
        assert_eq!((&found["bytes"], &found["words"]), (&reference["bytes"], &reference["words"]));
        let loss = case["loss"].as_f64().unwrap();
        close(found["loss"].as_f64().unwrap() / loss, &json!(1.0), 1e-5);
        close(found["perplexity"].as_f64().unwrap() / loss.exp(), &json!(1.0), 1e-4);
        let bits = loss * size("tokens") as f64 / reference["bytes"].as_f64().unwrap() / std::f64::consts::LN_2;
        close(found["bits_per_byte"].as_f64().unwrap() / bits, &json!(1.0), 1e-5);
    }
}

/// Losses token by token, each from a forward pass over all that precedes it.
fn token_by_token(model: &CausalLm, ids: &[u32]) -> f64 {
    let loss = |end: usize| {
        let prefix: Vec<i64> = ids[..end].iter().map(|id| i64::from(*id)).collect();
        let logits = model.logits(Tensor::<2, Int>::from_data(TensorData::new(prefix, [1, end]), &device::host()));
        let logits: Vec<f32> = logits.try_into_vec_as().unwrap();
        let last = &logits[logits.len() / end * (end - 1)..];
        let total: f64 = last.iter().map(|logit| f64::from(*logit).exp()).sum();
        total.ln() - f64::from(last[ids[end] as usize])
    };
    (1..ids.len()).map(loss).sum::<f64>() / (ids.len() - 1) as f64
}

#[test]
fn a_window_that_holds_the_text_gives_every_token_its_full_context() {
    let dir = tempfile::tempdir().unwrap();
    let (model, tokenizer) = model();
    let texts = ["copy: badu = badu and more of it", "x"];
    let file = dir.path().join("texts.jsonl");
    std::fs::write(&file, texts.map(|text| json!({ "text": text }).to_string()).join("\n")).unwrap();
    let found = windows(&file, 40, 20);
    let mut sum = 0.0;
    for text in texts {
        let ids = tokenizer.encode(text, true).unwrap();
        sum += token_by_token(&model, &ids) * (ids.len() - 1) as f64;
    }
    let tokens = texts.concat().len();
    assert_eq!((&found["tokens"], &found["examples"]), (&json!(tokens), &json!(2)));
    close(found["loss"].as_f64().unwrap(), &json!(sum / tokens as f64), 1e-4);
}

#[test]
fn a_long_text_file_is_read_in_pieces_with_the_tokens_of_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let text = "reverse: badu = udab\nand then some\n\n".repeat(4000);
    let (plain, rows) = (dir.path().join("long.txt"), dir.path().join("long.jsonl"));
    std::fs::write(&plain, &text).unwrap();
    std::fs::write(&rows, json!({ "text": text }).to_string()).unwrap();
    // Two windows of a batch in 64 are enough to tell; scoring all of the text would take long.
    let (_, tokenizer) = model();
    let config = r#"{"model_type": "llama", "vocab_size": 100, "hidden_size": 4, "intermediate_size": 4,
        "num_hidden_layers": 1, "num_attention_heads": 1, "tie_word_embeddings": true}"#;
    let model = CausalLm::init(peft_models::DecoderConfig::parse(config).unwrap(), &device::host(), 1);
    let score = |file: &Path| {
        let options = DataOptions { max_length: Some(64), stride: Some(63), batch_size: 64, ..options() };
        let job = data_job(file, Metric::Perplexity, &options, &tokenizer, None).unwrap();
        job.run(&model, &tokenizer, |_, _| {}).unwrap().to_json()
    };
    let (pieces, whole) = (score(&plain), score(&rows));
    for key in ["tokens", "bytes", "words"] {
        assert_eq!(pieces[key], whole[key], "{key}");
    }
    close(pieces["loss"].as_f64().unwrap(), &whole["loss"], 1e-9);
}

// ---- task files

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: impl AsRef<str>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text.as_ref()).unwrap();
        path
    }

    fn prepare(&self, task: &str) -> Result<Job, String> {
        let file = self.write("task.yaml", task);
        let place = format!("{}/", self.0.path().display());
        let template = ChatTemplate::load(tiny()).unwrap();
        let job = Task::read(&file).and_then(|task| task.prepare(template.as_ref(), 4));
        job.map_err(|e| e.to_string().replace(&place, ""))
    }

    fn choices(&self, task: &str) -> Vec<ChoiceItem> {
        match self.prepare(task).unwrap().items {
            Items::Choices(items) => items,
            other => panic!("{other:?}"),
        }
    }

    fn open(&self, task: &str) -> Vec<OpenItem> {
        match self.prepare(task).unwrap().items {
            Items::Open(items) => items,
            other => panic!("{other:?}"),
        }
    }
}

const QUESTIONS: &str = "q,a\none,1\ntwo,2\nthree,3\nfour,4\n";

#[test]
fn a_prompt_is_a_field_or_a_template() {
    let files = Files::new();
    files.write("q.csv", QUESTIONS);
    let field = files.open("data: q.csv\nmetric: exact_match\nprompt: q\nanswer: a\n");
    assert_eq!((field[1].prompt.text.as_str(), field[1].answers[0].as_str(), field[1].origin.line), ("two", "2", 3));
    let template = files.open("data: q.csv\nmetric: numeric\nprompt: \"Q: {{ q.upper() }}\\n\"\nanswer: \"#### {{ row['a'] }}\"\n");
    assert_eq!((template[0].prompt.text.as_str(), template[0].answers[0].as_str()), ("Q: ONE\n", "#### 1"));
}

#[test]
fn the_examples_before_a_prompt_are_never_the_row_itself() {
    let files = Files::new();
    files.write("q.csv", QUESTIONS);
    let first = "data: q.csv\nmetric: exact_match\nprompt: \"{{ q }}:\"\nanswer: a\nfew_shot: { k: 2 }\n";
    let texts = |task: &str| files.open(task).into_iter().map(|item| item.prompt.text).collect::<Vec<_>>();
    assert_eq!(texts(first)[0], "two: 2\n\nthree: 3\n\none:");
    assert_eq!(texts(first)[3], "one: 1\n\ntwo: 2\n\nfour:");

    let drawn = first.replace("k: 2", "k: 3, seed: 5, separator: \" | \", data: q.csv");
    let prompts = texts(&drawn);
    for (prompt, number) in prompts.iter().zip(["one", "two", "three", "four"]) {
        assert_eq!(prompt.matches(number).count(), 1, "{prompt}");
        assert_eq!(prompt.matches(" | ").count(), 3, "{prompt}");
    }
    assert_eq!(prompts, texts(&drawn), "the seed decides");
    assert_ne!(prompts, texts(&drawn.replace("seed: 5", "seed: 6")));
}

#[test]
fn a_limit_leaves_the_examples_alone() {
    let files = Files::new();
    files.write("q.csv", QUESTIONS);
    let items = files.open("data: q.csv\nmetric: exact_match\nprompt: q\nanswer: a\nfew_shot: { k: 3 }\nlimit: 1\n");
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].prompt.text, "two 2\n\nthree 3\n\nfour 4\n\none");
}

#[test]
fn a_chat_has_the_examples_as_turns() {
    let files = Files::new();
    files.write("q.csv", QUESTIONS);
    let items = files.open("data: q.csv\nmetric: exact_match\nprompt: q\nanswer: a\nchat: true\nsystem: \"S \"\nfew_shot: { k: 1 }\n");
    assert_eq!(items[0].prompt.text, "<bos>S two2<eos>one");
    assert!(!items[0].prompt.special_tokens);
}

#[test]
fn choices_come_from_a_list_a_field_or_templates() {
    let files = Files::new();
    let row = json!({ "q": "p", "c": { "text": ["x", "y", "z"], "label": ["A", "B", "C"] }, "key": "C", "n": 1, "d": "y" });
    files.write("q.jsonl", row.to_string());
    let one = |rest: &str| {
        let item = files.choices(&format!("data: q.jsonl\nmetric: multiple_choice\nprompt: q\n{rest}\n")).remove(0);
        (item.delimiter, item.choices, item.answer)
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>();
    let space = || String::from(" ");
    assert_eq!(one("choices: c.text\nanswer: n"), (space(), texts(&["x", "y", "z"]), 1));
    assert_eq!(one("choices: c.text\nanswer: d"), (space(), texts(&["x", "y", "z"]), 1));
    assert_eq!(one("choices: c.text\nanswer: \"{{ 'ABC'.find(key) }}\""), (space(), texts(&["x", "y", "z"]), 2));
    assert_eq!(one("choices: [\"not {{ d }}\", \"y\"]\nanswer: d"), (space(), texts(&["not y", "y"]), 1));
    assert_eq!(one("choices: c.label\nanswer: key\nchoice: \"({{ choice }}) {{ q }}\"\ndelimiter: \"\""), {
        (String::new(), texts(&["(A) p", "(B) p", "(C) p"]), 2)
    });
}

#[test]
fn choices_that_yaml_could_take_for_something_else_are_texts() {
    let files = Files::new();
    files.write("q.csv", QUESTIONS);
    for (list, expected) in [("[yes, no]", ["yes", "no"]), ("[1, 2]", ["1", "2"]), ("[true, 0.50]", ["true", "0.50"])] {
        let answer = expected[1];
        let items =
            files.choices(&format!("data: q.csv\nmetric: classification\nprompt: q\nanswer: \"{{{{ '{answer}' }}}}\"\nchoices: {list}\n"));
        assert_eq!((items[0].choices.as_slice(), items[0].answer), (expected.map(String::from).as_slice(), 1));
    }
}

#[test]
fn several_texts_can_be_right() {
    let files = Files::new();
    files.write("q.jsonl", json!({ "q": "p", "answers": { "text": ["a", 7] } }).to_string());
    let items = files.open("data: q.jsonl\nmetric: token_f1\nprompt: q\nanswer: answers.text\n");
    assert_eq!(items[0].answers, ["a", "7"]);
}

#[test]
fn what_a_task_file_gets_wrong_is_said() {
    let files = Files::new();
    files.write("q.csv", QUESTIONS);
    files.write("empty.jsonl", "\n");
    files.write("one.jsonl", "{\"q\": \"p\", \"c\": [\"x\"], \"a\": 0}");
    let ask = "data: q.csv\nmetric: exact_match\nprompt: q\nanswer: a\n";
    let choose = ask.replace("exact_match", "multiple_choice");
    let cases = [
        (ask.replace("prompt", "promt"), "unknown field `promt`"),
        (ask.replace("prompt", "promt"), "expected one of name, data, metric, prompt, answer, choices"),
        (ask.replace("exact_match", "bleu"), "unknown variant `bleu`, expected one of perplexity, multiple_choice"),
        (ask.replace("answer: a\n", ""), "task.yaml: `answer` is missing; the metric exact_match needs it"),
        (format!("{ask}choices: c\n"), "task.yaml: `choices` has no use for the metric exact_match"),
        (format!("{ask}system: s\n"), "task.yaml: `system` needs `chat: true`"),
        (format!("{ask}limit: 0\n"), "task.yaml: `limit` must be at least 1"),
        (format!("{ask}stop: [\"\"]\n"), "`stop` holds an empty text"),
        (format!("{ask}few_shot: {{ k: 4 }}\n"), "q.csv:2: `few_shot` asks for 4 examples, and there are only 3 other rows"),
        (format!("{ask}few_shot: {{ k: 1, n: 2 }}\n"), "unknown field `n`"),
        (ask.replace("prompt: q", "prompt: question"), "q.csv:2: `prompt`: there is no field `question`; the row has `q`, `a`"),
        (
            ask.replace("prompt: q", "prompt: \"{{ q }}\\n{{ x }}\""),
            "q.csv:2: `prompt`: `x` is undefined (line 2 of the template); the row has `q`, `a`",
        ),
        (ask.replace("prompt: q", "prompt: \"{{ q }}\\n{% if %}\""), "task.yaml: the template of `prompt` does not compile: "),
        (ask.replace("q.csv", "none.csv"), "none.csv: "),
        (ask.replace("q.csv", "empty.jsonl"), "empty.jsonl: holds no examples"),
        (format!("{choose}choices: [x]\n"), "task.yaml: `choices` needs at least two, found 1"),
        (format!("{choose}choices: [x, y]\n"), "q.csv:3: `answer`: \"2\" is neither one of the 2 choices nor the number of one, from 0"),
        (format!("{choose}choices: 3\n"), "expected a list of texts, or the name of a field that holds one"),
        (format!("{choose}choices: \"{{{{ q }}}}\"\n"), "`choices` must be a list of texts, or the name of a field that holds one"),
        (format!("{choose}choices: c\n").replace("q.csv", "one.jsonl"), "one.jsonl:1: `choices`: needs at least two choices, found 1"),
        (
            format!("{choose}choices: c\n").replace("multiple_choice", "classification"),
            "classification needs the same `choices` in every row",
        ),
    ];
    for (task, expected) in cases {
        let found = files.prepare(&task).err().unwrap_or_else(|| panic!("this must fail:\n{task}"));
        assert!(found.contains(expected), "{expected}\nis not in\n{found}");
    }
}

#[test]
fn classes_are_scored_and_the_choices_of_several_rows_share_batches() {
    let files = Files::new();
    let words = ["badu", "solina", "keto", "miru", "papi", "duno"];
    let rows = words.map(|word| json!({ "word": word, "kind": usize::from(word.len() > 4) }).to_string());
    files.write("rows.jsonl", rows.join("\n"));
    let task = "data: rows.jsonl\nmetric: classification\nprompt: \"count: {{ word }} = \"\nchoices: [\"4\", \"6\"]\nanswer: \"{{ [4, 6][kind] }}\"\n";
    let (model, tokenizer) = model();
    let job = files.prepare(task).unwrap();
    let report = job.run(&model, &tokenizer, |_, _| {}).unwrap();
    let result = report.to_json();
    assert_eq!((&result["accuracy"], &result["f1"], &result["matthews"]), (&json!(1.0), &json!(1.0), &json!(1.0)));
    assert_eq!(result["confusion"], json!([[5, 0], [0, 1]]));
    assert_eq!((&result["classes"][1]["label"], &result["classes"][1]["support"]), (&json!("6"), &json!(1)));

    // Whatever shares a batch, a choice has the same likelihood.
    let alone = Job { answering: peft_train::evaluate::Answering { batch_size: 1, ..job.answering.clone() }, ..job };
    let alone = alone.run(&model, &tokenizer, |_, _| {}).unwrap();
    for (a, b) in report.predictions.iter().zip(&alone.predictions) {
        let pairs = numbers(&a["log_likelihoods"]).into_iter().zip(numbers(&b["log_likelihoods"]));
        pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} and {b}"));
    }
}

#[test]
fn an_answer_ends_at_the_first_stop_string() {
    let files = Files::new();
    files.write("rows.jsonl", json!({ "word": "badu" }).to_string());
    let task = |stop: &str| {
        format!("data: rows.jsonl\nmetric: exact_match\nprompt: \"copy: {{{{ word }}}} = \"\nanswer: \"{{{{ 'b' }}}}\"\n{stop}")
    };
    let (model, tokenizer) = model();
    let output = |stop: &str| {
        let report = files.prepare(&task(stop)).unwrap().run(&model, &tokenizer, |_, _| {}).unwrap();
        report.predictions[0]["output"].as_str().unwrap().to_string()
    };
    assert_eq!(output(""), "badu");
    assert_eq!(output("stop: [\"du\", \"ad\"]\n"), "b");
}

#[test]
fn the_tasks_that_come_with_the_project_can_be_read() {
    let mut found = 0;
    for entry in std::fs::read_dir(workspace().join("tasks")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            Task::read(&path).unwrap();
            found += 1;
        }
    }
    assert!(found >= 3, "{found} tasks");
}
