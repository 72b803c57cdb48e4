//! Merging adapters: what must hold whatever the numbers, and what is refused.

mod common;

use common::{difference, numbers, write_file};
use peft_core::files::{Checkpoint, Dtype, TensorSource, float_bytes};
use peft_core::{CONFIG_FILE, TENSOR_FILE};
use peft_merge::adapters::{AdapterMerge, COMBINATIONS, Combination, Factors, Lora, Settings};
use peft_merge::rules::{Majority, Pruning, WeightedSum, merge};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;

const ROWS: usize = 6;
const COLUMNS: usize = 10;

type Tensor = (String, Vec<usize>, Vec<f32>);

fn config(rank: usize) -> Value {
    json!({ "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q", "v"], "base_model_name_or_path": "base" })
}

fn matrices(module: &str, rank: usize, seed: u32) -> Vec<Tensor> {
    let key = |name: &str| format!("base_model.model.{module}.{name}.weight");
    vec![
        (key("lora_A"), vec![rank, COLUMNS], numbers(rank * COLUMNS, seed)),
        (key("lora_B"), vec![ROWS, rank], numbers(ROWS * rank, seed + 1)),
    ]
}

fn write(dir: &Path, config: &Value, tensors: Vec<Tensor>) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join(CONFIG_FILE), config.to_string()).unwrap();
    let source = |(key, shape, values): Tensor| {
        TensorSource::new(key, Dtype::F32, &shape, move || Ok(Cow::Owned(float_bytes(&values, Dtype::F32).unwrap())))
    };
    write_file(&dir.join(TENSOR_FILE), tensors.into_iter().map(source));
}

/// An adapter of two modules.
fn adapter(dir: &Path, rank: usize, seed: u32) -> Lora {
    write(dir, &config(rank), [matrices("model.q", rank, seed), matrices("model.v", rank, seed + 7)].concat());
    open(dir)
}

fn open(dir: &Path) -> Lora {
    Lora::open(&dir.file_name().unwrap().to_string_lossy(), dir).unwrap()
}

fn settings(name: &str, weights: &[f64]) -> Settings {
    let combination = Combination::named(name).unwrap();
    Settings { density: combination.drops().then_some(1.0), ..Settings::new(combination, weights.into()) }
}

fn written(adapters: Vec<Lora>, settings: Settings, dir: &Path) -> Lora {
    let merge = AdapterMerge::new(adapters, settings).unwrap();
    std::fs::create_dir_all(dir).unwrap();
    merge.write(dir, &|| ()).unwrap();
    open(dir)
}

/// The change that an adapter makes at a module.
fn change(adapter: &Lora, module: &str) -> Vec<f32> {
    let Some(site) = adapter.sites.get(module) else { return vec![0.0; ROWS * COLUMNS] };
    let Factors { a, b } = adapter.factors(module).unwrap();
    let entry = |at: usize| {
        let (row, column) = (at / site.columns, at % site.columns);
        let sum: f32 = (0..site.rank).map(|k| b[row * site.rank + k] * a[k * site.columns + column]).sum();
        sum * site.scaling as f32
    };
    (0..site.rows * site.columns).map(entry).collect()
}

fn sum(adapters: &[(&Lora, f32)], module: &str) -> Vec<f32> {
    let mut sum = vec![0.0; ROWS * COLUMNS];
    for (adapter, weight) in adapters {
        sum.iter_mut().zip(change(adapter, module)).for_each(|(sum, x)| *sum += weight * x);
    }
    sum
}

#[test]
fn one_adapter_with_weight_one_comes_back() {
    let place = tempfile::tempdir().unwrap();
    for combination in COMBINATIONS {
        let first = adapter(&place.path().join("a"), 3, 1);
        let expected = ["model.q", "model.v"].map(|module| change(&first, module));
        let merged = written(vec![first], settings(combination.name, &[1.0]), &place.path().join(combination.name));
        for (module, expected) in ["model.q", "model.v"].iter().zip(&expected) {
            let found = difference(&change(&merged, module), expected);
            assert!(found < 1e-5, "{}: {found:e}", combination.name);
        }
    }
}

#[test]
fn side_by_side_and_decomposed_at_full_rank_are_the_sum_of_the_changes() {
    let place = tempfile::tempdir().unwrap();
    let (a, b) = (place.path().join("a"), place.path().join("b"));
    let (first, second) = (adapter(&a, 2, 1), adapter(&b, 3, 40));
    for (name, rank) in [("cat", None), ("svd", Some(5)), ("magnitude_prune_svd", Some(6))] {
        let settings = Settings { svd_rank: rank, ..settings(name, &[0.7, -1.5]) };
        let merged = written(vec![open(&a), open(&b)], settings, &place.path().join(name));
        for module in ["model.q", "model.v"] {
            let found = difference(&change(&merged, module), &sum(&[(&first, 0.7), (&second, -1.5)], module));
            assert!(found < 1e-6, "{name}: {found:e}");
        }
    }
}

#[test]
fn a_decomposition_leaves_the_closest_change_of_its_rank() {
    let place = tempfile::tempdir().unwrap();
    let (a, b) = (place.path().join("a"), place.path().join("b"));
    let (first, second) = (adapter(&a, 2, 1), adapter(&b, 3, 40));
    let expected = sum(&[(&first, 1.0), (&second, 1.0)], "model.q");
    let distance = |dir: &str, name: &str, svd_rank: usize, iterations: Option<usize>| {
        let settings = Settings { svd_rank: Some(svd_rank), svd_iterations: iterations, ..settings(name, &[1.0, 1.0]) };
        let merged = written(vec![open(&a), open(&b)], settings, &place.path().join(dir));
        assert!(merged.sites["model.q"].rank == svd_rank, "{dir}");
        change(&merged, "model.q").iter().zip(&expected).map(|(x, y)| (x - y).powi(2)).sum::<f32>().sqrt()
    };
    let of_thin = [1, 2, 3, 4].map(|rank| distance(&format!("svd{rank}"), "svd", rank, None));
    assert!(of_thin.windows(2).all(|pair| pair[1] < pair[0]), "{of_thin:?}");
    for (i, rank) in [1, 2, 3, 4].into_iter().enumerate() {
        let of_whole = distance(&format!("whole{rank}"), "magnitude_prune_svd", rank, None);
        let iterated = distance(&format!("iterated{rank}"), "magnitude_prune_svd", rank, Some(8));
        assert!((of_whole - of_thin[i]).abs() < 1e-4 * of_thin[0], "{of_whole} {of_thin:?}");
        assert!((iterated - of_thin[i]).abs() < 1e-3 * of_thin[0], "{iterated} {of_thin:?}");
    }
}

#[test]
fn ties_keeps_what_agrees_with_the_elected_sign() {
    let rule =
        |majority| WeightedSum { weights: vec![1.0, 2.0, 1.0], pruning: Pruning::None, majority: Some(majority), seed: 0, masks: None };
    let inputs: [&[f32]; 3] = [&[3.0, 0.0, 1.0, -1.0], &[-1.0, 0.0, 1.0, 1.0], &[-1.0, -2.0, -2.0, 0.0]];
    let merged = |majority| merge(&rule(majority), "w", &[4], None, &inputs).unwrap();
    // The sums are 1, -2, 0 and 0: a sum of 0 is positive.
    assert_eq!(merged(Majority::Total), [3.0, -2.0, 1.5, 2.0]);
    // Most signs are -, -, + and none.
    assert_eq!(merged(Majority::Frequency), [-1.5, -2.0, 1.5, 2.0]);
}

#[test]
fn magnitudes_keep_their_share_and_dare_the_mean() {
    let x = numbers(30_000, 5);
    let rule = |pruning, seed| WeightedSum { weights: vec![1.0], pruning, majority: None, seed, masks: None };
    let run = |pruning, seed| merge(&rule(pruning, seed), "w", &[30_000], None, &[&x]).unwrap();
    let kept = run(Pruning::Magnitude(0.3), 0);
    assert_eq!(kept.iter().filter(|x| **x != 0.0).count(), 9_000);
    let (smallest, dropped) = kept.iter().zip(&x).fold((f32::MAX, 0f32), |(smallest, dropped), (kept, x)| match *kept == 0.0 {
        true => (smallest, dropped.max(x.abs())),
        false => (smallest.min(x.abs()), dropped),
    });
    assert!(smallest >= dropped);

    let drawn = run(Pruning::Random(0.25), 1);
    assert_eq!(drawn, run(Pruning::Random(0.25), 1));
    assert_ne!(drawn, run(Pruning::Random(0.25), 2));
    assert!(drawn.iter().zip(&x).all(|(drawn, x)| *drawn == 0.0 || *drawn == x / 0.25));
    let count = drawn.iter().filter(|x| **x != 0.0).count() as f64;
    assert!((count - 7_500.0).abs() < 4.0 * (30_000.0f64 * 0.25 * 0.75).sqrt(), "{count}");
    // The mean over many draws of each number is the number: all within five standard errors.
    let (seeds, mut mean) = (400, vec![0f64; 300]);
    for seed in 0..seeds {
        let drawn = merge(&rule(Pruning::Random(0.25), seed), "w", &[300], None, &[&x[..300]]).unwrap();
        mean.iter_mut().zip(drawn).for_each(|(mean, x)| *mean += f64::from(x) / seeds as f64);
    }
    for (mean, x) in mean.iter().zip(&x) {
        let error = f64::from(x.abs()) * (3.0 / seeds as f64).sqrt();
        assert!((mean - f64::from(*x)).abs() <= 5.0 * error, "{mean} {x}");
    }
}

#[test]
fn the_seed_decides_what_is_dropped() {
    let place = tempfile::tempdir().unwrap();
    let (a, b) = (place.path().join("a"), place.path().join("b"));
    adapter(&a, 2, 1);
    adapter(&b, 2, 40);
    let run = |seed: u64, dir: &str| {
        let settings = Settings { density: Some(0.5), seed, ..settings("dare_linear", &[1.0, 1.0]) };
        written(vec![open(&a), open(&b)], settings, &place.path().join(dir)).factors("model.q").unwrap().a
    };
    assert_eq!(run(1, "x"), run(1, "y"));
    assert_ne!(run(1, "x"), run(2, "z"));
}

#[test]
fn modules_of_some_adapters_and_ranks_of_single_modules_are_written_for_both_readers() {
    let place = tempfile::tempdir().unwrap();
    let (a, b) = (place.path().join("a"), place.path().join("b"));
    write(&a, &config(2), [matrices("model.q", 2, 1), matrices("model.v", 2, 3)].concat());
    let mut second = config(3);
    second["target_modules"] = json!(["q", "up"]);
    second["use_rslora"] = true.into();
    write(&b, &second, [matrices("model.q", 3, 5), matrices("model.up", 3, 9)].concat());
    let merged = written(vec![open(&a), open(&b)], settings("cat", &[1.0, 0.5]), &place.path().join("out"));
    let config: Value = serde_json::from_slice(&std::fs::read(place.path().join("out").join(CONFIG_FILE)).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"], &config["use_rslora"]), (&json!(5), &json!(5), &json!(false)));
    assert_eq!(config["target_modules"], json!(["q", "up", "v"]));
    assert_eq!(config["rank_pattern"], json!({ "^model\\.up": 3, "^model\\.v": 2 }));
    assert_eq!(config["alpha_pattern"], config["rank_pattern"]);
    assert_eq!(config["base_model_name_or_path"], "base");
    let (first, second) = (open(&a), open(&b));
    for module in ["model.q", "model.v", "model.up"] {
        assert_eq!(merged.sites[module].scaling, 1.0);
        let found = difference(&change(&merged, module), &sum(&[(&first, 1.0), (&second, 0.5)], module));
        assert!(found < 1e-6, "{module}: {found:e}");
    }
    assert!(std::fs::read_to_string(place.path().join("out/README.md")).unwrap().contains("- `b`, weight 0.5"));
}

#[test]
fn a_list_that_cannot_be_united_becomes_the_paths_of_the_modules() {
    let place = tempfile::tempdir().unwrap();
    let (a, b) = (place.path().join("a"), place.path().join("b"));
    adapter(&a, 2, 1);
    let mut second = config(2);
    second["target_modules"] = json!(".*q");
    second["layers_to_transform"] = json!(null);
    write(&b, &second, matrices("model.q", 2, 5));
    written(vec![open(&a), open(&b)], settings("linear", &[1.0, 1.0]), &place.path().join("out"));
    let config: Value = serde_json::from_slice(&std::fs::read(place.path().join("out").join(CONFIG_FILE)).unwrap()).unwrap();
    assert_eq!(config["target_modules"], json!(["model.q", "model.v"]));
}

#[test]
fn convolutions_keep_the_axes_of_their_kernels() {
    let place = tempfile::tempdir().unwrap();
    for (name, seed) in [("a", 1), ("b", 9)] {
        let tensors = vec![
            ("base_model.model.conv.lora_A.weight".into(), vec![2, 3, 2, 2], numbers(24, seed)),
            ("base_model.model.conv.lora_B.weight".into(), vec![5, 2, 1, 1], numbers(10, seed + 1)),
        ];
        let convolution = json!({ "peft_type": "LORA", "r": 2, "target_modules": ["conv"] });
        write(&place.path().join(name), &convolution, tensors);
    }
    for (name, rank) in [("linear", 2), ("cat", 4), ("svd", 2)] {
        let adapters = ["a", "b"].map(|name| open(&place.path().join(name))).into();
        let out = place.path().join(name);
        written(adapters, settings(name, &[1.0, 1.0]), &out);
        let file = Checkpoint::open_file(&out.join(TENSOR_FILE)).unwrap();
        assert_eq!(file.info("base_model.model.conv.lora_A.weight").unwrap().shape, [rank, 3, 2, 2]);
        assert_eq!(file.info("base_model.model.conv.lora_B.weight").unwrap().shape, [5, rank, 1, 1]);
    }
}

#[test]
fn copies_of_the_base_are_kept_if_they_agree() {
    let place = tempfile::tempdir().unwrap();
    let copy = |values: Vec<f32>| ("base_model.model.emb.base_layer.weight".to_owned(), vec![7, 4], values);
    let embedding = |seed| {
        vec![
            ("base_model.model.emb.lora_embedding_A".into(), vec![2, 7], numbers(14, seed)),
            ("base_model.model.emb.lora_embedding_B".into(), vec![4, 2], numbers(8, seed)),
        ]
    };
    let names = ["a", "b", "c"];
    for (name, values) in names.iter().zip([numbers(28, 3), numbers(28, 3), numbers(28, 4)]) {
        let on_embedding = json!({ "peft_type": "LORA", "r": 2, "target_modules": ["emb"] });
        write(&place.path().join(name), &on_embedding, [embedding(1), vec![copy(values)]].concat());
    }
    let [a, b, c] = names.map(|name| place.path().join(name));
    let out = place.path().join("out");
    written(vec![open(&a), open(&b)], settings("svd", &[1.0, 1.0]), &out);
    let file = Checkpoint::open_file(&out.join(TENSOR_FILE)).unwrap();
    assert_eq!(file.f32s("base_model.model.emb.base_layer.weight").unwrap(), numbers(28, 3));
    let error = AdapterMerge::new(vec![open(&a), open(&c)], settings("svd", &[1.0, 1.0])).unwrap_err().to_string();
    assert!(error.contains("`base_model.model.emb.base_layer.weight`") && error.contains("as a has it"), "{error}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let (a, b) = (place.path().join("a"), place.path().join("b"));
    adapter(&a, 2, 1);
    adapter(&b, 2, 40);
    let error = |settings: Settings| AdapterMerge::new(vec![open(&a), open(&b)], settings).unwrap_err().to_string();
    let two = |name: &str| Settings::new(Combination::named(name).unwrap(), vec![1.0, 1.0]);
    assert!(error(Settings { weights: vec![1.0], ..two("cat") }).contains("number of weights is 1, that of adapters 2"));
    assert!(error(Settings { weights: vec![1.0, f64::NAN], ..two("cat") }).contains("not NaN"));
    assert!(error(two("ties")).contains("ties needs a density"));
    for density in [0.0, -0.5, 1.5, f64::NAN] {
        assert!(error(Settings { density: Some(density), ..two("ties") }).contains("density: above 0 and at most 1"), "{density}");
    }
    assert!(error(Settings { density: Some(0.5), ..two("svd") }).contains("svd drops nothing"));
    assert!(error(Settings { majority: Some(Majority::Total), ..two("cat") }).contains("cat elects no signs"));
    assert!(error(Settings { svd_rank: Some(2), ..two("linear") }).contains("linear decomposes nothing"));
    assert!(error(Settings { svd_rank: Some(0), ..two("svd") }).contains("svd_rank: at least 1"));
    assert!(error(Settings { svd_iterations: Some(2), ..two("svd") }).contains("not for svd"));
    assert!(AdapterMerge::new(vec![], Settings::new(COMBINATIONS[0], vec![])).unwrap_err().to_string().contains("no adapter"));
    let unknown = Combination::named("tise").unwrap_err().to_string();
    assert!(COMBINATIONS.iter().all(|combination| unknown.contains(combination.name)), "{unknown}");
}

#[test]
fn adapters_that_do_not_fit_each_other_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| place.path().join(name));
    adapter(&a, 2, 1);
    adapter(&b, 3, 40);
    for name in ["linear", "ties", "dare_ties", "dare_linear", "magnitude_prune"] {
        let error = AdapterMerge::new(vec![open(&a), open(&b)], settings(name, &[1.0, 1.0])).unwrap_err().to_string();
        assert!(error.contains("`model.q` has rank 2 in a and 3 in b") && error.contains("cat, svd"), "{error}");
    }
    write(
        &c,
        &config(2),
        vec![
            ("base_model.model.model.q.lora_A.weight".into(), vec![2, 4], numbers(8, 1)),
            ("base_model.model.model.q.lora_B.weight".into(), vec![ROWS, 2], numbers(12, 1)),
        ],
    );
    let error = AdapterMerge::new(vec![open(&a), open(&c)], settings("cat", &[1.0, 1.0])).unwrap_err().to_string();
    assert!(error.contains("`model.q`: expected a change of 6 by 10 as in a, found 6 by 4"), "{error}");
    let mut other = config(2);
    other["fan_in_fan_out"] = true.into();
    write(&d, &other, matrices("model.q", 2, 1));
    let error = AdapterMerge::new(vec![open(&a), open(&d)], settings("cat", &[1.0, 1.0])).unwrap_err().to_string();
    assert!(error.contains("fan_in_fan_out"), "{error}");
}

/// The error of opening, or of merging, an adapter with this configuration.
fn error_of(change: impl FnOnce(&mut Value, &mut Vec<Tensor>)) -> String {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("bad");
    let (mut config, mut tensors) = (config(2), matrices("model.q", 2, 1));
    change(&mut config, &mut tensors);
    write(&dir, &config, tensors);
    let merged = Lora::open("bad", &dir).and_then(|adapter| AdapterMerge::new(vec![adapter], settings("linear", &[1.0])));
    let error = merged.and_then(|merge| merge.write(place.path(), &|| ())).unwrap_err().to_string();
    assert!(error.contains("bad") || error.contains("merged adapter"), "{error}");
    error
}

#[test]
fn adapters_that_are_more_than_matrices_are_refused_with_a_way_out() {
    let with = |field: &str, value: Value| error_of(|config, _| config[field] = value);
    for (field, value, said) in [
        ("use_dora", json!(true), "use_dora"),
        ("lora_bias", json!(true), "lora_bias"),
        ("bias", json!("all"), "bias: all"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save (lm_head)"),
    ] {
        let error = with(field, value);
        assert!(error.contains(said) && error.contains("adapter_config.json") && error.contains("peft merge-adapter"), "{error}");
    }
    let error = error_of(|config, _| *config = json!({ "peft_type": "IA3", "target_modules": ["q"] }));
    assert!(error.contains("peft_type is `IA3`") && error.contains("peft merge-adapter"), "{error}");
    // What no command reads is refused by all with the same words.
    for (field, value) in [("target_parameters", json!(["experts"])), ("trainable_token_indices", json!([1, 2]))] {
        let error = with(field, value);
        assert!(error.contains(&format!("adapter_config.json: `{field}` is not supported")), "{error}");
    }
    let error = with("init_lora_weights", json!("pissa"));
    assert!(error.contains("`pissa`") && error.contains("convert"), "{error}");
    for harmless in
        [("bias", json!("none")), ("modules_to_save", json!([])), ("init_lora_weights", json!("gaussian")), ("rank_pattern", json!(null))]
    {
        let place = tempfile::tempdir().unwrap();
        let mut config = config(2);
        config[harmless.0] = harmless.1;
        write(&place.path().join("a"), &config, matrices("model.q", 2, 1));
        written(vec![open(&place.path().join("a"))], settings("linear", &[1.0]), &place.path().join("out"));
    }
}

#[test]
fn tensors_that_are_missing_foreign_or_no_numbers_are_named() {
    let key = "base_model.model.model.q.lora_B.weight";
    let error = error_of(|_, tensors| drop(tensors.remove(1)));
    assert!(error.contains(key) && error.contains("nothing"), "{error}");
    let error = error_of(|_, tensors| tensors.push(("base_model.model.model.q.lora_magnitude_vector".into(), vec![1], vec![1.0])));
    assert!(error.contains("`base_model.model.model.q.lora_magnitude_vector`") && error.contains("plain LoRA"), "{error}");
    let error = error_of(|_, tensors| tensors.push(("model.q.weight".into(), vec![1], vec![1.0])));
    assert!(error.contains("`model.q.weight`"), "{error}");
    let error = error_of(|_, tensors| tensors.clear());
    assert!(error.contains("no matrices of LoRA"), "{error}");
    let error = error_of(|config, _| config["r"] = 3.into());
    assert!(error.contains("expected rank 3") && error.contains("[2, 10]"), "{error}");
    let error = error_of(|_, tensors| tensors[1].1 = vec![12, 1]);
    assert!(error.contains(key) && error.contains("expected shape [12, 2]"), "{error}");
    for bad in [f32::NAN, f32::INFINITY] {
        let error = error_of(|_, tensors| tensors[1].2[3] = bad);
        assert!(error.contains(key) && error.contains("not a finite number"), "{error}");
    }
    let error = error_of(|_, tensors| tensors.iter_mut().for_each(|(_, _, values)| values.fill(3e38)));
    assert!(error.contains("`model.q` of the merged adapter"), "{error}");
    let error = error_of(|config, _| config["rank_pattern"] = json!({ "(": 3 }));
    assert!(error.contains("regular expression"), "{error}");
}

#[test]
fn what_is_no_adapter_is_told() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("config.json"), "{}").unwrap();
    let error = Lora::open("x", place.path()).unwrap_err().to_string();
    assert!(error.contains("is no adapter: it has no adapter_config.json"), "{error}");
    std::fs::write(place.path().join(CONFIG_FILE), "{").unwrap();
    assert!(Lora::open("x", place.path()).unwrap_err().to_string().contains("adapter_config.json"));
    adapter(&place.path().join("a"), 2, 1);
    let file = place.path().join("a").join(TENSOR_FILE);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 8]).unwrap();
    let error = Lora::open("a", &place.path().join("a")).unwrap_err().to_string();
    assert!(error.contains(TENSOR_FILE), "{error}");
}
