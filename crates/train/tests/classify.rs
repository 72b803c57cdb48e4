//! Labelled texts: tokens as transformers makes them, the set of labels, rows and batches.

use burn::tensor::Tensor;
use peft_core::{Error, device};
use peft_train::data::{Classified, Label, Labelled, LabelledBatch, Labels, Targets, TextTokenizer, read_labelled};
use serde::Deserialize;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/encoders").join(name)
}

/// A text or a pair and what transformers makes of it.
#[derive(Deserialize)]
struct Case {
    text: String,
    text_pair: Option<String>,
    max_tokens: Option<usize>,
    ids: Vec<u32>,
    type_ids: Vec<u32>,
}

#[test]
fn texts_and_pairs_become_the_tokens_of_transformers() {
    // tokenizer.json; vocab.txt in lower case; vocab.txt in upper and lower case; byte-level pieces.
    for name in ["bert", "bert-classifier", "bert-tokens", "roberta"] {
        let tokenizer = TextTokenizer::load(fixture(name)).unwrap();
        let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(fixture(name).join("cases.json")).unwrap()).unwrap();
        assert!(cases.len() > 60);
        for case in cases {
            let Case { text, text_pair, max_tokens, ids, type_ids } = case;
            let found = tokenizer.encode_texts(&text, text_pair.as_deref(), max_tokens.unwrap_or(1000)).unwrap();
            assert_eq!((found.ids, found.type_ids), (ids, type_ids), "{name}: {text:?} {text_pair:?} {max_tokens:?}");
        }
    }
}

#[test]
fn truncation_is_reported() {
    let tokenizer = TextTokenizer::load(fixture("bert")).unwrap();
    assert!(!tokenizer.encode_texts("the cat sat", None, 5).unwrap().truncated);
    assert!(tokenizer.encode_texts("the cat sat", None, 4).unwrap().truncated);
    let error = tokenizer.encode_texts("the cat", Some("sat"), 3).unwrap_err();
    assert_eq!(error.to_string(), "invalid configuration: max_length = 3 leaves no room for a text beside 3 special tokens");
}

#[test]
fn a_vocabulary_of_another_tokenizer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vocab.txt"), "a\nb\n[UNK]\n").unwrap();
    let error = TextTokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("vocab.txt: has no `[CLS]`: not the vocabulary of a BERT tokenizer; provide a tokenizer.json"), "{error}");
}

fn examples(lines: &str) -> Result<Vec<Labelled>, Error> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.jsonl");
    std::fs::write(&file, lines).unwrap();
    read_labelled(file)
}

fn labels(values: &[&str]) -> Vec<Labelled> {
    let lines: Vec<_> = values.iter().map(|label| format!(r#"{{"text": "a", "label": {label}}}"#)).collect();
    examples(&lines.join("\n")).unwrap()
}

fn names(values: &[&str]) -> Vec<String> {
    values.iter().map(|name| name.to_string()).collect()
}

fn collected(values: &[&str], known: &[&str]) -> (Vec<String>, Vec<Label>) {
    let examples = labels(values);
    let labels = Labels::collect(&examples, &names(known)).unwrap();
    let learned = examples.iter().map(|example| labels.of(example).unwrap()).collect();
    (labels.names(), learned)
}

#[test]
fn labels_are_ordered_by_number_or_by_the_alphabet() {
    let class = Label::Class;
    assert_eq!(collected(&["10", "2", "-1", "2"], &[]), (names(&["-1", "2", "10"]), vec![class(2), class(1), class(0), class(1)]));
    assert_eq!(collected(&[r#""pos""#, r#""neg""#], &[]), (names(&["neg", "pos"]), vec![class(1), class(0)]));
}

#[test]
fn labels_that_the_checkpoint_knows_keep_their_places() {
    let class = Label::Class;
    let known = ["pos", "neutral", "neg"];
    assert_eq!(collected(&[r#""neg""#, r#""pos""#], &known), (names(&known), vec![class(2), class(0)]));
    assert_eq!(collected(&["2", "0"], &known), (names(&known), vec![class(2), class(0)]));
    assert_eq!(collected(&["1", "3"], &known).0, names(&["1", "3"]), "3 is none of three");
    assert_eq!(collected(&[r#""good""#, r#""pos""#], &known).0, names(&["good", "pos"]));
    assert_eq!(collected(&["1", "2"], &["1", "2", "3"]).1, [class(0), class(1)], "by name before by number");
    assert_eq!(collected(&["0", "1"], &["1", "2", "3"]).0, names(&["0", "1"]));
}

#[test]
fn a_point_makes_numbers_of_all_labels() {
    assert_eq!(collected(&["3", "2.5", "1e1"], &["a", "b"]).1, [3.0, 2.5, 10.0].map(Label::Number));
}

#[test]
fn labels_that_cannot_be_learned_are_told_with_their_line() {
    let mixed = Labels::collect(&labels(&["1", r#""a""#, "2"]), &[]).unwrap_err().to_string();
    assert!(mixed.ends_with("data.jsonl:2: `label` `a` is of another kind than 1 in line 1"), "{mixed}");
    let one = Labels::collect(&labels(&["1", "1"]), &[]).unwrap_err().to_string();
    assert!(one.ends_with("data.jsonl:1: all examples have the label 1; a classifier needs at least two"), "{one}");
    let known = Labels::collect(&labels(&[r#""a""#, r#""b""#]), &[]).unwrap();
    let new = known.of(&labels(&[r#""c""#])[0]).unwrap_err().to_string();
    assert!(new.ends_with("data.jsonl:1: `label` `c` is none of the labels that are learned: a, b"), "{new}");
}

#[test]
fn messages_are_read_as_one_text() {
    let lines = r#"{"messages": [{"role": "user", "content": "good film"}], "label": "pos", "text_pair": null}
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}], "label": "neg"}
        {"text": [{"role": "user", "content": "c"}], "text_pair": [{"role": "assistant", "content": "d"}], "label": "neg"}
        {"text": null, "conversations": [{"from": "human", "value": "e"}, {"from": "gpt", "value": "f"}], "label": "pos"}"#;
    let read = examples(lines).unwrap();
    let texts: Vec<_> = read.iter().map(|example| (example.text.as_str(), example.pair.as_deref())).collect();
    assert_eq!(texts, [("good film", None), ("user: a\nassistant: b", None), ("c", Some("d")), ("user: e\nassistant: f", None)]);
    let array = lines.replace("}\n", "},\n");
    assert_eq!(examples(&format!("[{array}]")).unwrap().len(), 4);
}

#[test]
fn lines_that_are_no_examples_are_told_why() {
    let reason = |line: &str| {
        let error = examples(&format!("\n{line}\n")).unwrap_err().to_string();
        error.split("data.jsonl:2: ").nth(1).unwrap_or_else(|| panic!("{error}")).to_string()
    };
    assert_eq!(reason(r#"{"label": 1}"#), "`text` is missing");
    assert_eq!(reason(r#"{"text": "a"}"#), "`label` is missing");
    assert_eq!(reason(r#"{"text": "a", "label": [1]}"#), "`label` must be a string or a number, found a list");
    assert_eq!(reason(r#"{"text": "a", "text_pair": 1, "label": 1}"#), "`text_pair` must be a string, found a number");
    assert_eq!(reason("3"), "expected one JSON object per line, found a number");
    assert_eq!(reason("[{}]"), "`text` is missing");
    assert!(reason(r#"{"text": "a""#).starts_with("not valid JSON"));
    assert!(examples("\n").unwrap_err().to_string().ends_with("holds no examples"));
}

#[test]
fn rows_become_a_padded_batch() {
    let tokenizer = TextTokenizer::load(fixture("bert")).unwrap();
    let lines = "{\"text\": \"the cat\", \"text_pair\": \"sat\", \"label\": \"b\"}\n{\"text\": \"a dog was there\", \"label\": \"a\"}\n";
    let examples = examples(lines).unwrap();
    let labels = Labels::collect(&examples, &[]).unwrap();
    let (rows, stats) = Classified::all(&examples, &tokenizer, &labels, 5).unwrap();
    assert_eq!((stats.examples, stats.tokens, stats.truncated), (2, 10, 2));
    assert_eq!((rows[0].ids.clone(), rows[0].type_ids.clone()), (vec![3, 6, 4, 25, 4], vec![0, 0, 0, 1, 1]));
    let (rows, _) = Classified::all(&examples, &tokenizer, &labels, 100).unwrap();
    let batch = LabelledBatch::new(&rows[..], 0, &device::host());
    assert_eq!((batch.rows(), batch.tokens(), batch.texts.ids.dims()), (2, 12, [2, 6]));
    assert_eq!(batch.texts.lengths, [6, 6]);
    let Targets::Classes(classes) = batch.targets else { panic!("names are classes") };
    assert_eq!(classes.into_data().iter::<i64>().collect::<Vec<_>>(), [1, 0]);
    let number = |value| Classified { label: Label::Number(value), ..rows[1].clone() };
    let batch = LabelledBatch::new(&[number(1.5), number(2.0)], 0, &device::host());
    let Targets::Numbers(numbers) = batch.targets else { panic!("numbers are numbers") };
    assert_eq!(Tensor::try_into_vec_as::<f32>(numbers).unwrap(), [1.5, 2.0]);
}
