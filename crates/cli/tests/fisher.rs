//! `peft fisher` and merges by what it writes, as a user runs them.

mod common;

use common::{Place, TINY, failure, peft, result};
use peft_core::files::Checkpoint;
use serde_json::json;
use std::path::Path;

const BERT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/encoders/bert");

/// Texts whose label is a word of theirs.
fn labelled(place: &Place, name: &str, words: [&str; 2]) -> String {
    let nouns = ["cat", "dog", "house", "tree", "river"];
    let line = |i: usize| {
        let (noun, label) = (nouns[i % 5], if i.is_multiple_of(2) { "yes" } else { "no" });
        json!({ "text": format!("the {noun} is {}", words[i % 2]), "label": label }).to_string()
    };
    place.write(name, &(0..20).map(line).collect::<Vec<_>>().join("\n"))
}

/// A classifier trained on the data.
fn classifier(place: &Place, name: &str, data: &str) -> String {
    let out = place.path(name);
    result(&[
        "finetune",
        "--model",
        BERT,
        "--data",
        data,
        "--method",
        "full",
        "--lr",
        "5e-3",
        "--epochs",
        "3",
        "--batch-size",
        "4",
        "--out",
        &out,
    ]);
    out
}

#[test]
fn classifiers_are_merged_by_their_information() {
    let place = Place::new();
    let (first, second) = (labelled(&place, "first.jsonl", ["good", "bad"]), labelled(&place, "second.jsonl", ["big", "small"]));
    let (a, b) = (classifier(&place, "a", &first), classifier(&place, "b", &second));

    // Labels are not needed.
    let texts = place.write("texts.jsonl", &["the cat is good", "a dog"].map(|text| json!({ "text": text }).to_string()).join("\n"));
    let made = result(&["fisher", "--model", &a, "--data", &texts]);
    assert_eq!((&made["n_examples"], &made["estimator"], &made["samples"]), (&json!(2), &json!("exact"), &json!(0)));
    assert!(made["norm"].as_f64().unwrap() > 0.0);
    let (information, model) =
        (Checkpoint::open_file(&Path::new(&a).join("fisher.safetensors")).unwrap(), Checkpoint::open(Path::new(&a)).unwrap());
    for key in model.keys() {
        let found = information.info(key);
        assert_eq!(found.is_some(), !key.starts_with("classifier."), "{key}: heads are left out");
        assert!(found.is_none_or(|info| info.shape == model.info(key).unwrap().shape), "{key}");
    }
    assert!(failure(&["fisher", "--model", &a, "--data", &texts]).contains("exists already"));
    result(&["fisher", "--model", &b, "--data", &second, "--estimator", "sampled", "--samples", "2", "--n-examples", "6"]);

    let recipe = |weights: [f64; 2]| {
        let models: Vec<_> =
            [&a, &b].iter().zip(weights).map(|(model, weight)| json!({ "model": model, "parameters": { "weight": weight } })).collect();
        place.write("recipe.yaml", &json!({ "merge_method": "fisher", "base_model": a, "models": models }).to_string())
    };
    let out = place.path("merged");
    let merged = result(&["merge", &recipe([0.5, 0.5]), "--out", &out]);
    assert_eq!((&merged["method"], &merged["undecided"]), (&json!("fisher"), &json!(0)));
    let scores = result(&["eval", "--model", &out, "--data", &first, "--metric", "classification"]);
    assert_eq!(scores["examples"], 20);
    let merged = Checkpoint::open(Path::new(&out)).unwrap();
    assert_eq!(merged.f32s("classifier.weight").unwrap(), model.f32s("classifier.weight").unwrap(), "the target's head");

    let found = result(&["merge", &recipe([0.5, 0.5]), "--out", &place.path("searched"), "--evaluate", &first, "--candidates", "5"]);
    let tried = found["search"]["tried"].as_array().unwrap();
    let best = tried.iter().map(|tried| tried["score"].as_f64().unwrap()).fold(0.0, f64::max);
    assert_eq!((tried.len(), found["search"]["score"].as_f64().unwrap()), (5, best));
    assert_eq!(found["search"]["metric"], "accuracy");
    let written = std::fs::read_to_string(Path::new(&place.path("searched")).join("merge_recipe.yaml")).unwrap();
    assert!(written.contains("# weights chosen by accuracy"), "{written}");

    // The information of one model beside another.
    std::fs::copy(Path::new(&a).join("fisher.safetensors"), Path::new(&b).join("fisher.safetensors")).unwrap();
    let output = peft(&["merge", &recipe([0.5, 0.5]), "--out", &place.path("warned")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("is the Fisher information of another model"), "{said}");
}

#[test]
fn a_decoder_has_information_too() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("tiny.fisher"));
    let made = result(&["fisher", "--model", TINY, "--data", &data, "--out", &out, "--n-examples", "3"]);
    assert_eq!((&made["n_examples"], &made["estimator"], &made["samples"]), (&json!(3), &json!("sampled"), &json!(1)));
    let (information, model) = (Checkpoint::open_file(Path::new(&out)).unwrap(), Checkpoint::open(Path::new(TINY)).unwrap());
    assert_eq!(information.keys().collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
    let again = place.path("again.fisher");
    result(&["fisher", "--model", TINY, "--data", &data, "--out", &again, "--n-examples", "3"]);
    let key = "model.norm.weight";
    assert_eq!(Checkpoint::open_file(Path::new(&again)).unwrap().f32s(key).unwrap(), information.f32s(key).unwrap(), "the same seed");
    let per_token =
        result(&["fisher", "--model", TINY, "--data", &data, "--out", &again, "--per-token", "--overwrite", "--n-examples", "1"]);
    assert_eq!(per_token["n_examples"], 1);

    let models: Vec<_> = [TINY].iter().map(|model| json!({ "model": model, "fisher": out, "parameters": { "weight": 1 } })).collect();
    let recipe = place.write("recipe.yaml", &json!({ "merge_method": "fisher", "models": models }).to_string());
    result(&["merge", &recipe, "--out", &place.path("merged")]);
    let merged = Checkpoint::open(Path::new(&place.path("merged"))).unwrap();
    assert_eq!(merged.f32s(key).unwrap(), model.f32s(key).unwrap(), "a model merged with nothing");
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let place = Place::new();
    let (data, out) = (place.data(), place.path("out"));
    let said = |model: &str, extra: &[&str]| failure(&[&["fisher", "--model", model, "--data", &data, "--out", &out], extra].concat());
    assert!(said(TINY, &["--n-examples", "0"]).contains("at least one example"));
    assert!(said(TINY, &["--estimator", "exact", "--samples", "2"]).contains("--samples is for --estimator sampled"));
    assert!(said(TINY, &["--include-head"]).contains("--include-head is for encoders"));
    assert!(said(BERT, &[]).contains("holds no classifier"));
    assert!(said(BERT, &["--per-token"]).contains("--per-token is for decoders"));
}

#[test]
fn weights_of_decoders_are_chosen_by_perplexity() {
    let place = Place::new();
    let (data, first) = (place.data(), place.file("first"));
    std::fs::rename(place.checkpoint(), &first).unwrap();
    let second = place.checkpoint();
    let models = [Path::new(TINY), &first, &second];
    let search = |method: &str, count: usize, out: &str| {
        let models: Vec<_> = models[..count].iter().map(|model| json!({ "model": model, "parameters": { "weight": 1 } })).collect();
        let recipe = json!({ "merge_method": method, "base_model": models[0]["model"], "models": models }).to_string();
        [place.write("recipe.yaml", &recipe), place.path(out)]
    };
    let [recipe, out] = search("linear", 2, "two");
    let found = result(&["merge", &recipe, "--out", &out, "--evaluate", &data, "--candidates", "3"])["search"].clone();
    let weights: Vec<_> = found["tried"].as_array().unwrap().iter().map(|tried| tried["weights"].clone()).collect();
    assert_eq!(weights, [json!([0.0, 1.0]), json!([0.5, 0.5]), json!([1.0, 0.0])]);
    // The models are the same one: the first of equal candidates is taken.
    assert_eq!((&found["metric"], &found["weights"]), (&json!("perplexity"), &json!([0.0, 1.0])));

    let [recipe, out] = search("linear", 3, "three");
    let found = result(&["merge", &recipe, "--out", &out, "--evaluate", &data, "--candidates", "2", "--limit", "2"])["search"].clone();
    for tried in found["tried"].as_array().unwrap() {
        let weights: Vec<f64> = tried["weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap()).collect();
        assert!(weights.len() == 3 && (weights.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{tried}");
    }
    let [recipe, out] = search("ties", 3, "ties");
    let said = failure(&["merge", &recipe, "--out", &out, "--evaluate", &data]);
    assert!(said.contains("weights are searched for the methods fisher and linear, not for ties"), "{said}");
}
