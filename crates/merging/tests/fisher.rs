//! Fisher information that can be known without a computer, and merges by it.

mod common;

use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, TensorData};
use common::{checkpoint, computed, difference, numbers, plan_in};
use peft_core::{Error, device, seed};
use peft_merge::fisher::{Estimator, FISHER_FILE, Fisher, FisherConfig, FisherFile, FisherMeta, Prediction, model_hash, write};
use peft_merge::rules::{self, merge};
use std::collections::BTreeMap;
use std::path::Path;

const IN: usize = 4;
const CLASSES: usize = 3;
const EXAMPLES: usize = 6;

fn linear() -> Linear {
    let device = device::host().autodiff();
    let draw = |path: &str, rows: usize| seed::normal([rows, CLASSES], 0.8, &mut seed::rng(5, path), &device);
    let mut linear = LinearConfig::new(IN, CLASSES).init(&device);
    linear.weight = Param::from_tensor(draw("weight", IN));
    linear.bias = Some(Param::from_tensor(draw("bias", 1).flatten(0, 1)));
    linear
}

fn inputs() -> Vec<Vec<f32>> {
    numbers(IN * EXAMPLES, 9).chunks(IN).map(<[f32]>::to_vec).collect()
}

fn row(x: &[f32]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(x.to_vec(), [1, x.len()]), &device::host().autodiff())
}

fn estimate<M: Module>(model: M, config: FisherConfig, predict: impl Fn(&M, &[f32]) -> Prediction) -> peft_core::Result<Fisher<M>> {
    let mut fisher = Fisher::new(model, config, |_| true)?;
    for x in inputs() {
        fisher.add(|model| predict(model, &x))?;
    }
    Ok(fisher)
}

fn found<M: Module>(fisher: &Fisher<M>) -> BTreeMap<String, Vec<f32>> {
    fisher.diagonal().unwrap().into_iter().map(|(path, numbers)| (path, numbers.try_into_vec_as().unwrap())).collect()
}

fn logits(model: &Linear, x: &[f32]) -> Prediction {
    Prediction::logits(model.forward(row(x)))
}

fn sampled(samples: usize, seed: u64) -> FisherConfig {
    FisherConfig { estimator: Estimator::Sampled { samples }, per_row: false, seed }
}

fn probabilities(x: &[f32]) -> Vec<f32> {
    softmax(linear().forward(row(x)), 1).try_into_vec_as().unwrap()
}

/// `F[i, c] = mean x_i² p_c (1 − p_c)`.
fn of_softmax_regression() -> Vec<f32> {
    let mut expected = vec![0.0; IN * CLASSES];
    for x in inputs() {
        let p = probabilities(&x);
        for (place, sum) in expected.iter_mut().enumerate() {
            let (i, c) = (place / CLASSES, place % CLASSES);
            *sum += x[i] * x[i] * p[c] * (1.0 - p[c]) / EXAMPLES as f32;
        }
    }
    expected
}

#[test]
fn softmax_regression_has_its_closed_form() {
    let exact = found(&estimate(linear(), FisherConfig::default(), logits).unwrap());
    assert!(difference(&exact["weight"], &of_softmax_regression()) < 1e-5);
}

#[test]
fn many_draws_come_to_what_all_classes_give() {
    let drawn = found(&estimate(linear(), sampled(2000, 1), logits).unwrap());
    let (total, expected): (f32, f32) = (drawn["weight"].iter().sum(), of_softmax_regression().iter().sum());
    assert!((total / expected - 1.0).abs() < 0.05, "{total} {expected}");
    assert!(difference(&drawn["weight"], &of_softmax_regression()) < 0.05);
}

#[test]
fn draws_repeat_with_the_seed() {
    let draw = |seed| found(&estimate(linear(), sampled(1, seed), logits).unwrap());
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
}

#[test]
fn numbers_have_the_squares_of_their_derivatives() {
    let means = |model: &Linear, x: &[f32]| Prediction::numbers(model.forward(row(x)));
    let exact = found(&estimate(linear(), FisherConfig::default(), means).unwrap());
    let square = |i: usize| inputs().iter().map(|x| x[i] * x[i]).sum::<f32>() / EXAMPLES as f32;
    let expected: Vec<f32> = (0..IN * CLASSES).map(|place| square(place / CLASSES)).collect();
    assert!(difference(&exact["weight"], &expected) < 1e-5);
    assert!(difference(&exact["bias"], &[1.0; CLASSES]) < 1e-5);
    let drawn = found(&estimate(linear(), sampled(3000, 0), means).unwrap());
    assert!(difference(&drawn["weight"], &expected) < 0.08);
}

#[test]
fn labels_give_the_empirical_information_which_is_another() {
    let labelled = |model: &Linear, x: &[f32]| Prediction::Classes { logits: model.forward(row(x)), labels: Some(vec![2]) };
    let config = FisherConfig { estimator: Estimator::Empirical, ..FisherConfig::default() };
    let empirical = found(&estimate(linear(), config, labelled).unwrap());
    let mut expected = vec![0.0; IN * CLASSES];
    for x in inputs() {
        let p = probabilities(&x);
        for (place, sum) in expected.iter_mut().enumerate() {
            let (i, c) = (place / CLASSES, place % CLASSES);
            let target = if c == 2 { 1.0 } else { 0.0 };
            *sum += (x[i] * (target - p[c])).powi(2) / EXAMPLES as f32;
        }
    }
    assert!(difference(&empirical["weight"], &expected) < 1e-5);
    assert!(difference(&expected, &of_softmax_regression()) > 0.1);
}

#[test]
fn squares_are_of_one_example_and_not_of_a_batch() {
    let exact = found(&estimate(linear(), FisherConfig::default(), logits).unwrap());
    // All examples as one: as if they were the tokens of one text, of which the gradient of the whole is squared.
    let config = FisherConfig { estimator: Estimator::Empirical, ..FisherConfig::default() };
    let together = |per_row| {
        let mut fisher = Fisher::new(linear(), FisherConfig { per_row, ..config.clone() }, |_| true).unwrap();
        let batch = || Tensor::cat(inputs().iter().map(|x| row(x)).collect(), 0);
        let add = |model: &Linear| Prediction::Classes { logits: model.forward(batch()), labels: Some(vec![2; EXAMPLES]) };
        fisher.add(add).unwrap();
        found(&fisher)["weight"].clone()
    };
    let labelled = |model: &Linear, x: &[f32]| Prediction::Classes { logits: model.forward(row(x)), labels: Some(vec![2]) };
    let apart = found(&estimate(linear(), config.clone(), labelled).unwrap())["weight"].clone();
    let rows: Vec<f32> = together(true).iter().map(|x| x / EXAMPLES as f32).collect();
    assert!(difference(&rows, &apart) < 1e-5, "rows apart are examples apart");
    assert!(difference(&together(false), &together(true)) > 0.2, "the square of a sum is no sum of squares");
    assert!(exact["weight"].iter().chain(&apart).all(|x| *x >= 0.0));
}

/// A layer behind dropout, and one that nothing depends on.
#[derive(Module, Debug)]
struct Net {
    dropout: Dropout,
    linear: Linear,
    unused: Linear,
}

#[test]
fn dropout_is_switched_off_and_unused_parameters_have_no_information() {
    let net = Net { dropout: DropoutConfig::new(0.5).init(), linear: linear(), unused: linear() };
    let through = |net: &Net, x: &[f32]| Prediction::logits(net.linear.forward(net.dropout.forward(row(x))));
    let found = found(&estimate(net, FisherConfig::default(), through).unwrap());
    assert!(difference(&found["linear.weight"], &of_softmax_regression()) < 1e-5);
    assert!(found["unused.weight"].iter().all(|x| *x == 0.0));
}

#[test]
fn parameters_that_are_not_selected_stay_as_they_are() {
    let mut fisher = Fisher::new(linear(), FisherConfig::default(), |site| site.field == "weight").unwrap();
    fisher.add(|model| logits(model, &inputs()[0])).unwrap();
    assert_eq!(fisher.paths().collect::<Vec<_>>(), ["weight"]);
    let expected = found(&fisher);
    assert_eq!(expected.len(), 1);
    let norm = expected["weight"].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    assert!((fisher.norm().unwrap() / norm - 1.0).abs() < 1e-5);
    let model = fisher.into_model().unwrap();
    let values: Vec<f32> = model.weight.val().try_into_vec_as().unwrap();
    assert_eq!(values, expected["weight"]);
    let bias = |linear: &Linear| linear.bias.as_ref().unwrap().val().try_into_vec_as::<f32>().unwrap();
    assert_eq!(bias(&model), bias(&linear()));
}

#[test]
fn an_estimate_goes_on_where_it_was_cut() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("sums");
    let whole = found(&estimate(linear(), sampled(2, 7), logits).unwrap());
    let mut first = Fisher::new(linear(), sampled(2, 7), |_| true).unwrap();
    inputs()[..2].iter().for_each(|x| first.add(|model| logits(model, x)).unwrap());
    first.save(&file, "this run").unwrap();

    let mut second = Fisher::new(linear(), sampled(2, 7), |_| true).unwrap();
    assert!(!second.restore(&file, "another run").unwrap());
    assert_eq!(second.examples(), 0);
    assert!(second.restore(&file, "this run").unwrap());
    assert_eq!(second.examples(), 2);
    inputs()[2..].iter().for_each(|x| second.add(|model| logits(model, x)).unwrap());
    assert_eq!(found(&second), whole);
}

#[test]
fn what_cannot_be_estimated_is_refused_with_the_reason() {
    let refused = |result: peft_core::Result<Fisher<Linear>>| result.unwrap_err().to_string();
    let nothing = Fisher::new(linear(), FisherConfig::default(), |_| true).unwrap();
    assert!(nothing.diagonal().unwrap_err().to_string().contains("at least one example"));
    assert!(refused(Fisher::new(linear(), sampled(0, 0), |_| true)).contains("samples: at least one"));
    assert!(refused(Fisher::new(linear(), FisherConfig::default(), |_| false)).contains("no parameter"));
    assert!(refused(Fisher::new(linear().valid(), FisherConfig::default(), |_| true)).contains("device.autodiff()"));

    let wide = |_: &Linear, x: &[f32]| Prediction::logits(linear().forward(row(x)).repeat_dim(1, 400));
    let untracked = refused(estimate(linear(), FisherConfig::default(), |_, x| Prediction::logits(row(x))));
    assert!(untracked.contains("do not depend on the parameters"), "{untracked}");
    let many = refused(estimate(linear(), FisherConfig::default(), wide));
    assert!(many.contains("1200 classes") && many.contains("sampled"), "{many}");
    let nan = refused(estimate(linear(), FisherConfig::default(), |model, x| Prediction::logits(model.forward(row(x)) * f32::NAN)));
    assert!(nan.contains("outputs for example 0") && nan.contains("not a finite number"), "{nan}");

    let empirical = FisherConfig { estimator: Estimator::Empirical, ..FisherConfig::default() };
    let with = |labels: Option<Vec<usize>>| {
        refused(estimate(linear(), empirical.clone(), |model, x| Prediction::Classes {
            logits: model.forward(row(x)),
            labels: labels.clone(),
        }))
    };
    assert!(with(None).contains("needs labels"));
    assert!(with(Some(vec![3])).contains("label 3 is none of 3 classes"));
    assert!(with(Some(vec![0, 1])).contains("2 labels for 1 rows"));
}

fn rule(coefficients: &[f64], floors: &[f64], target: usize) -> rules::Fisher {
    rules::Fisher { coefficients: coefficients.to_vec(), floors: floors.to_vec(), target, undecided: Default::default() }
}

/// Numbers from 0 on over some orders of magnitude.
fn information(len: usize, seed: u32) -> Vec<f32> {
    numbers(len, seed).iter().map(|x| 10f32.powf(4.0 * x - 4.0)).collect()
}

const LEN: usize = 40_000;

#[test]
fn two_parabolas_are_merged_at_the_minimum_of_their_sum() {
    // Σ ½ h (θ − θ_m)²: its derivative Σ h (θ − θ_m) is zero at the merged parameters.
    let (a, b) = (numbers(LEN, 1), numbers(LEN, 2));
    let (h, k) = (information(LEN, 3), information(LEN, 4));
    let merged = merge(&rule(&[1.0, 1.0], &[0.0, 0.0], 0), "w", &[LEN], None, &[&a, &b, &h, &k]).unwrap();
    for i in 0..LEN {
        let slope = f64::from(h[i]) * f64::from(merged[i] - a[i]) + f64::from(k[i]) * f64::from(merged[i] - b[i]);
        assert!(slope.abs() < 1e-6 * f64::from(h[i] + k[i]), "{i}: {slope:e}");
    }
}

#[test]
fn merged_numbers_lie_between_those_of_the_models() {
    let (a, b, h, k) = (numbers(LEN, 1), numbers(LEN, 2), information(LEN, 3), information(LEN, 4));
    let merged = merge(&rule(&[0.3, 0.7], &[0.0, 0.0], 0), "w", &[LEN], None, &[&a, &b, &h, &k]).unwrap();
    assert!((0..LEN).all(|i| merged[i] >= a[i].min(b[i]) && merged[i] <= a[i].max(b[i])));
    let same = merge(&rule(&[0.3, 0.7], &[1e-6, 0.0], 0), "w", &[LEN], None, &[&a, &a, &h, &k]).unwrap();
    assert_eq!(same, a, "a model merged with itself");
    let target = merge(&rule(&[0.5, 0.0], &[1e-6, 0.0], 0), "w", &[LEN], None, &[&a, &b, &h, &k]).unwrap();
    assert_eq!(target, a, "a donor that counts nothing");
}

#[test]
fn equal_information_gives_the_weighted_average() {
    let (a, b, flat) = (numbers(LEN, 1), numbers(LEN, 2), vec![0.02; LEN]);
    let merged = merge(&rule(&[0.25, 0.75], &[0.0, 0.0], 0), "w", &[LEN], None, &[&a, &b, &flat, &flat]).unwrap();
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| 0.25 * a + 0.75 * b).collect();
    assert!(difference(&merged, &expected) < 1e-6);
}

/// Models with Fisher information beside them, and a head that belongs to each task.
fn models(root: &Path) {
    for (name, seed, labels) in [("a", 1, 2), ("b", 2, 3), ("c", 3, 2)] {
        let dir = root.join(name);
        checkpoint(
            &dir,
            &[
                ("model.embed_tokens.weight", &[4, 3], numbers(12, seed)),
                ("model.layers.0.w.weight", &[3, 3], numbers(9, seed + 10)),
                ("classifier.weight", &[labels, 3], numbers(3 * labels, seed + 20)),
            ],
        );
        information_file(
            &dir,
            &[
                ("model.embed_tokens.weight", &[4, 3], information(12, seed + 30)),
                ("model.layers.0.w.weight", &[3, 3], information(9, seed + 40)),
            ],
        );
    }
}

fn information_file(dir: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let side = dir.join("side");
    checkpoint(&side, tensors);
    std::fs::rename(side.join("model.safetensors"), dir.join(FISHER_FILE)).unwrap();
}

fn recipe(weights: [f64; 2], parameters: &str) -> String {
    let [a, b] = weights;
    format!(
        "merge_method: fisher\nmodels:\n  - {{model: a, parameters: {{weight: {a}}}}}\n  - {{model: b, parameters: {{weight: {b}}}}}\nparameters: {{{parameters}}}\n"
    )
}

/// What the recipe ends with, of models that `change` has damaged.
fn error(recipe: &str, change: impl FnOnce(&Path)) -> String {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    change(place.path());
    plan_in(place.path(), recipe).unwrap_err().to_string()
}

const LAYER: &str = "model.layers.0.w.weight";

#[test]
fn the_target_keeps_its_head() {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    for (target, seed, labels) in [("a", 1, 2), ("b", 2, 3)] {
        let plan = plan_in(place.path(), &format!("base_model: {target}\n{}", recipe([0.5, 0.5], ""))).unwrap();
        assert_eq!(computed(&plan, "classifier.weight"), numbers(3 * labels, seed + 20), "{target}");
        let names: Vec<&str> = plan.weights.iter().map(|weight| weight.name.as_str()).collect();
        assert_eq!(names, ["classifier.weight", "model.embed_tokens.weight", LAYER]);
    }
    // Of equal shape, but without information: still each task's own.
    let plan = plan_in(place.path(), &recipe([0.5, 0.5], "").replace("model: b", "model: c")).unwrap();
    assert_eq!(computed(&plan, "classifier.weight"), numbers(6, 21));
    assert_ne!(computed(&plan, LAYER), numbers(9, 11));
}

#[test]
fn heads_that_only_a_donor_has_are_left_out() {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    let body = |seed| [("model.embed_tokens.weight", &[4usize, 3][..], numbers(12, seed)), (LAYER, &[3, 3][..], numbers(9, seed + 10))];
    let [embedding, layer] = body(2);
    checkpoint(&place.path().join("b"), &[embedding, layer, ("cls.predictions.bias", &[4], numbers(4, 1))]);
    let plan = plan_in(place.path(), &recipe([0.5, 0.5], "")).unwrap();
    let names: Vec<&str> = plan.weights.iter().map(|weight| weight.name.as_str()).collect();
    assert_eq!(names, ["classifier.weight", "model.embed_tokens.weight", LAYER]);
}

#[test]
fn the_scale_of_a_models_information_does_not_matter_when_it_is_normalised() {
    let merged = |factor: f32, parameters: &str| {
        let place = tempfile::tempdir().unwrap();
        models(place.path());
        let scaled = |len, seed| information(len, seed).iter().map(|x| x * factor).collect();
        information_file(
            &place.path().join("b"),
            &[("model.embed_tokens.weight", &[4, 3], scaled(12, 32)), (LAYER, &[3, 3], scaled(9, 42))],
        );
        computed(&plan_in(place.path(), &recipe([0.5, 0.5], parameters)).unwrap(), LAYER)
    };
    assert!(difference(&merged(100.0, "fisher_floor: 0"), &merged(1.0, "fisher_floor: 0")) < 1e-6);
    assert!(difference(&merged(100.0, "normalize: false"), &merged(1.0, "normalize: false")) > 0.01);
}

#[test]
fn where_nobody_knows_the_target_or_the_average_is_taken() {
    let with = |parameters: &str| {
        let place = tempfile::tempdir().unwrap();
        models(place.path());
        for model in ["a", "b"] {
            let mut some = information(12, 5);
            some[1] = 0.0;
            information_file(&place.path().join(model), &[("model.embed_tokens.weight", &[4, 3], some), (LAYER, &[3, 3], vec![0.0; 9])]);
        }
        let plan = plan_in(place.path(), &recipe([0.5, 0.5], parameters)).unwrap();
        let merged = computed(&plan, LAYER);
        computed(&plan, "model.embed_tokens.weight");
        (merged, plan.undecided())
    };
    let (a, b) = (numbers(9, 11), numbers(9, 12));
    let average: Vec<f32> = a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect();
    assert_eq!(with(""), (a.clone(), 0), "the target has a floor");
    let (merged, undecided) = with("favor_target: false");
    assert!(difference(&merged, &average) < 1e-6 && undecided == 0, "both have a floor");
    assert_eq!(with("fisher_floor: 0"), (a, 10), "nobody has a floor");
}

#[test]
fn a_search_tries_weights_without_reading_anything_again() {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    let plan = plan_in(place.path(), &recipe([0.9, 0.1], "fisher_floor: 0")).unwrap();
    let expected = plan_in(place.path(), &recipe([0.2, 0.8], "fisher_floor: 0")).unwrap();
    ["a", "b"].iter().for_each(|model| std::fs::remove_file(place.path().join(model).join(FISHER_FILE)).unwrap());
    let other = plan.weigh(&[0.2, 0.8]).unwrap();
    assert_eq!(other.in_memory().unwrap().f32s(LAYER).unwrap(), computed(&expected, LAYER));
    assert!(other.weigh(&[1.0]).unwrap_err().to_string().contains("1 weights for 2 models"));
}

#[test]
fn mistakes_in_fisher_files_are_named() {
    let other = |tensors: &'static [(&'static str, &'static [usize])]| {
        error(&recipe([0.5, 0.5], ""), |root| {
            let tensors: Vec<(&str, &[usize], Vec<f32>)> =
                tensors.iter().map(|(name, shape)| (*name, *shape, vec![1.0; shape.iter().product()])).collect();
            information_file(&root.join("b"), &tensors);
        })
    };
    let missing = other(&[(LAYER, &[3, 3])]);
    assert!(missing.contains("b/fisher.safetensors: tensor `model.embed_tokens.weight`") && missing.contains("found nothing"), "{missing}");
    let shape = other(&[(LAYER, &[3, 2]), ("model.embed_tokens.weight", &[4, 3])]);
    assert!(shape.contains("weight of shape [3, 3], found shape [3, 2]"), "{shape}");
    let none = error(&recipe([0.5, 0.5], ""), |root| std::fs::remove_file(root.join("b").join(FISHER_FILE)).unwrap());
    assert!(none.contains("b/fisher.safetensors: there is no such file") && none.contains("peft fisher --model"), "{none}");
    for (bad, said) in
        [(-0.25, "squares of gradients, from 0 on, found -0.25"), (f32::NAN, "not a finite number"), (f32::INFINITY, "not a finite number")]
    {
        let error = error(&recipe([0.5, 0.5], ""), |root| {
            let mut numbers = information(9, 1);
            numbers[4] = bad;
            information_file(&root.join("b"), &[("model.embed_tokens.weight", &[4, 3], information(12, 1)), (LAYER, &[3, 3], numbers)]);
        });
        assert!(error.contains("b/fisher.safetensors: tensor `model.layers.0.w.weight`") && error.contains(said), "{error}");
    }
}

#[test]
fn mistakes_in_recipes_are_named() {
    let said = |recipe: &str| error(recipe, |_| ());
    assert!(said(&recipe([0.0, 0.0], "")).contains("above 0 for at least one model"));
    assert!(said(&recipe([-0.5, 1.5], "")).contains("weight: from 0 on"));
    assert!(said(&recipe([0.5, 0.5], "fisher_floor: -1")).contains("fisher_floor: from 0 on"));
    assert!(said(&recipe([0.5, 0.5], "favor_target: 2")).contains("favor_target is true or false"));
    assert!(said(&format!("{}tokenizer_source: base\n", recipe([0.5, 0.5], ""))).contains("one vocabulary"));
    assert!(said("merge_method: fisher\nmodels: [{model: a+lora, parameters: {weight: 1}}]\n").contains("peft merge-adapter"));
    let sliced = "merge_method: fisher\nparameters: {weight: 1}\nslices: [{sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]}]\n";
    assert!(said(sliced).contains("whole models"));
    let other = "merge_method: linear\nmodels: [{model: a, fisher: x, parameters: {weight: 1}}]\n";
    assert!(said(other).contains("linear reads no Fisher information"));
    assert!(
        said(&format!("base_model: c\n{}", recipe([0.5, 0.5], "")))
            .contains("c: `model.embed_tokens.weight`: fisher needs the parameter weight")
    );
}

#[test]
fn another_architecture_is_an_error() {
    let missing = error(&recipe([0.5, 0.5], ""), |root| {
        checkpoint(&root.join("b"), &[("model.embed_tokens.weight", &[4, 3], numbers(12, 1))]);
    });
    assert!(missing.contains("b: tensor `model.layers.0.w.weight`: expected a tensor, as a has it"), "{missing}");
    let vocabulary = error(&recipe([0.5, 0.5], ""), |root| {
        checkpoint(&root.join("b"), &[("model.embed_tokens.weight", &[5, 3], numbers(15, 1)), (LAYER, &[3, 3], numbers(9, 1))]);
    });
    assert!(vocabulary.contains("`model.embed_tokens.weight`: expected shape [4, 3] as in a"), "{vocabulary}");
}

#[test]
fn a_file_says_what_it_is_of() {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    let open = |name: &str| peft_core::files::Checkpoint::open(&place.path().join(name)).unwrap();
    let (a, b) = (open("a"), open("b"));
    assert_ne!(model_hash(&a).unwrap(), model_hash(&b).unwrap());
    let meta =
        FisherMeta { n_examples: 3, estimator: "exact".into(), samples: 0, norm: 0.5, data: "d".into(), model: model_hash(&a).unwrap() };
    let file = place.path().join("x");
    write(&file, [], &meta).unwrap();
    let read = FisherFile::open(&file).unwrap();
    assert_eq!(read.meta.as_ref(), Some(&meta));
    assert_eq!((read.is_of(&a).unwrap(), read.is_of(&b).unwrap()), (Some(true), Some(false)));
    assert_eq!(FisherFile::open(&place.path().join("a").join(FISHER_FILE)).unwrap().is_of(&a).unwrap(), None, "it does not say");
}

#[test]
fn a_rule_needs_information_for_each_model() {
    let a = [1.0, 2.0];
    let error = merge(&rule(&[0.5, 0.5], &[0.0, 0.0], 0), "w", &[2], None, &[&a, &a]).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig(ref reason) if reason.contains("2 models need as many weights")), "{error}");
}
