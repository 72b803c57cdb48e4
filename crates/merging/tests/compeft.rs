//! Compressed task vectors: what is kept, what comes back, what numpy says, and what is refused.

mod common;

use common::write_file;
use peft_core::files::{Checkpoint, Dtype, TensorSource, float_bytes};
use peft_core::{CONFIG_FILE, TENSOR_FILE};
use peft_merge::compeft::{Content, Expert, Mode, Scope, Settings, TaskVector};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/compeft");

/// Name, type, shape and numbers of a tensor.
type Tensor<'a> = (&'a str, Dtype, &'a [usize], Vec<f32>);

fn write(file: &Path, tensors: &[Tensor]) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let sources = tensors.iter().map(|(name, dtype, shape, numbers)| {
        TensorSource::new(*name, *dtype, shape, || Ok(Cow::Owned(float_bytes(numbers, *dtype).unwrap())))
    });
    write_file(file, sources);
}

fn adapter(dir: &Path, config: Value, tensors: &[Tensor]) -> PathBuf {
    write(&dir.join(TENSOR_FILE), tensors);
    std::fs::write(dir.join(CONFIG_FILE), config.to_string()).unwrap();
    dir.into()
}

fn lora() -> Value {
    json!({ "peft_type": "LORA", "r": 4 })
}

/// Numbers around 0 that a sum of uniform ones gives.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| (0..4).map(|_| rng.random_range(-0.01..0.01f32)).sum()).collect()
}

fn compress(dir: &Path, density: f64, mode: Mode) -> Expert {
    TaskVector::of_adapter(dir).unwrap().compress(&Settings { density, alpha: 1.0, mode, ..Settings::default() }).unwrap()
}

#[test]
fn numbers_are_those_of_numpy() {
    let cases: Vec<Settings> = serde_json::from_slice(&std::fs::read(Path::new(FIXTURE).join("cases.json")).unwrap()).unwrap();
    let expected = Checkpoint::open_file(&Path::new(FIXTURE).join("expected.safetensors")).unwrap();
    let vector = TaskVector::of_adapter(Path::new(FIXTURE)).unwrap();
    for (i, settings) in cases.iter().enumerate() {
        let tensors = vector.compress(settings).unwrap().tensors(None, Path::new("memory")).unwrap();
        for name in tensors.keys() {
            let (found, expected) = (tensors.f32s(name).unwrap(), expected.f32s(&format!("{i}/{name}")).unwrap());
            for (at, (x, y)) in found.iter().zip(&expected).enumerate() {
                assert!((x - y).abs() <= 1e-6 * y.abs(), "{settings:?}: {name}[{at}] is {x}, numpy has {y}");
            }
        }
    }
    assert_eq!(cases.len(), 16);
}

#[test]
fn exactly_the_largest_are_kept_with_their_signs_and_one_magnitude() {
    let dir = tempfile::tempdir().unwrap();
    // More than a block, odd, of several types, and an empty one.
    let (a, b) = (noise(5003, 1), noise(64, 2));
    let tensors: [Tensor; 3] = [
        ("m.lora_A.weight", Dtype::F32, &[1, 5003], a.clone()),
        ("m.lora_B.weight", Dtype::F32, &[64, 1], b.clone()),
        ("n.lora_A.weight", Dtype::F32, &[0, 7], vec![]),
    ];
    let dir = adapter(dir.path(), lora(), &tensors);
    let numbers = [a, b].concat();
    let mut sorted: Vec<f32> = numbers.iter().map(|x| x.abs()).collect();
    sorted.sort_by(f32::total_cmp);
    for density in [0.0005, 0.05, 0.2, 0.5, 0.999, 1.0] {
        let expert = compress(&dir, density, Mode::Compeft);
        let keep = (density * numbers.len() as f64).floor() as usize;
        assert_eq!(expert.kept(), keep as u64, "density {density}");
        let tensors = expert.tensors(None, Path::new("memory")).unwrap();
        let found = [tensors.f32s("m.lora_A.weight").unwrap(), tensors.f32s("m.lora_B.weight").unwrap()].concat();
        let scale = found.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let smallest = sorted[numbers.len() - keep];
        for (x, y) in numbers.iter().zip(&found) {
            let expected = if x.abs() >= smallest { scale.copysign(*x) } else { 0.0 };
            assert_eq!(*y, expected, "density {density}");
        }
    }
}

#[test]
fn of_equal_entries_the_first_are_kept_and_zeros_never() {
    let dir = tempfile::tempdir().unwrap();
    let equal: Vec<f32> = (0..100).map(|i| if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
    let tensors: [Tensor; 2] = [
        ("a.lora_A.weight", Dtype::BF16, &[100], equal),
        ("b.lora_A.weight", Dtype::BF16, &[100], [vec![0.5; 60], vec![0.0; 40]].concat()),
    ];
    let dir = adapter(dir.path(), lora(), &tensors);
    let expert = compress(&dir, 0.6, Mode::Stc);
    let counts: Vec<usize> = expert.ternaries().unwrap().iter().map(|(_, ternary)| ternary.count()).collect();
    assert_eq!(counts, [100, 20]);
    let second = expert.ternary("b.lora_A.weight").unwrap();
    assert_eq!(second.signs().map(|(at, _)| at).collect::<Vec<_>>(), (0..20).collect::<Vec<u64>>());
    assert_eq!(second.scale(), 0.5, "the mean of the magnitudes");
    assert_eq!(compress(&dir, 1.0, Mode::Stc).kept(), 160, "forty are 0");
}

#[test]
fn a_ternary_adapter_comes_back_to_the_bit() {
    let place = tempfile::tempdir().unwrap();
    for (dtype, name) in [(Dtype::F32, "f32"), (Dtype::BF16, "bf16"), (Dtype::F16, "f16"), (Dtype::F64, "f64")] {
        let numbers: Vec<f32> = noise(777, 3).iter().map(|x| if x.abs() > 0.01 { 0.0371f32.copysign(*x) } else { 0.0 }).collect();
        let tensors: [Tensor; 2] = [("m.lora_A.weight", dtype, &[7, 111], numbers), ("m.lora_magnitude_vector", dtype, &[5], noise(5, 4))];
        let first = adapter(&place.path().join(name), lora(), &tensors);
        let (file, again) = (place.path().join(format!("{name}.cpft")), place.path().join(format!("{name}-again")));
        compress(&first, 1.0, Mode::Stc).write(&file).unwrap();
        Expert::read(&file).unwrap().restore(None, &again).unwrap();
        let (first, again) =
            (Checkpoint::open_file(&first.join(TENSOR_FILE)).unwrap(), Checkpoint::open_file(&again.join(TENSOR_FILE)).unwrap());
        for key in ["m.lora_A.weight", "m.lora_magnitude_vector"] {
            assert_eq!(first.bytes(key).unwrap(), again.bytes(key).unwrap(), "{name} {key}");
            assert_eq!(first.info(key), again.info(key));
        }
    }
}

#[test]
fn what_is_restored_has_the_signs_that_were_kept_and_compresses_to_the_same() {
    let place = tempfile::tempdir().unwrap();
    let dir = adapter(&place.path().join("a"), lora(), &[("m.lora_A.weight", Dtype::F32, &[30, 41], noise(1230, 5))]);
    for scope in [Scope::Global, Scope::PerTensor] {
        let settings = Settings { density: 0.3, alpha: 2.5, scope, ..Settings::default() };
        let expert = TaskVector::of_adapter(&dir).unwrap().compress(&settings).unwrap();
        let again = place.path().join(format!("{scope:?}"));
        expert.restore(None, &again).unwrap();
        let settings = Settings { density: 1.0, alpha: 1.0, mode: Mode::Stc, scope };
        let second = TaskVector::of_adapter(&again).unwrap().compress(&settings).unwrap();
        assert_eq!(second.ternaries().unwrap(), expert.ternaries().unwrap());
    }
    let config: Value = serde_json::from_slice(&std::fs::read(place.path().join("Global").join(CONFIG_FILE)).unwrap()).unwrap();
    assert_eq!(config, lora());
}

#[test]
fn scales_of_ia3_are_changes_from_one() {
    let place = tempfile::tempdir().unwrap();
    let scales: Vec<f32> = (0..10)
        .map(|i| {
            if i == 3 {
                1.5
            } else if i == 7 {
                0.5
            } else {
                1.0 + 0.001 * i as f32
            }
        })
        .collect();
    let dir = adapter(place.path(), json!({ "peft_type": "IA3" }), &[("m.ia3_l", Dtype::F32, &[10, 1], scales)]);
    let tensors = compress(&dir, 0.2, Mode::Stc).tensors(None, Path::new("memory")).unwrap();
    let found = tensors.f32s("m.ia3_l").unwrap();
    assert_eq!(found, [1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0]);
}

#[test]
fn a_file_is_many_times_smaller_than_bf16() {
    let place = tempfile::tempdir().unwrap();
    let dir = adapter(&place.path().join("a"), lora(), &[("m.lora_A.weight", Dtype::BF16, &[400, 500], noise(200_000, 6))]);
    for (density, times) in [(0.05, 45.0), (0.1, 26.5), (0.2, 16.5), (0.3, 13.2), (0.5, 10.4)] {
        let expert = compress(&dir, density, Mode::Compeft);
        let bytes = expert.write(&place.path().join("a.cpft")).unwrap();
        let found = expert.bf16_bytes() as f64 / bytes as f64;
        assert!(found > times, "density {density}: {found} times");
    }
}

#[test]
fn a_checkpoint_comes_back_on_its_base_and_on_no_other() {
    let place = tempfile::tempdir().unwrap();
    let [tuned, base, other, out] = ["tuned", "base", "other", "out"].map(|name| place.path().join(name));
    let (weights, embedding) = (noise(900, 7), noise(5000, 8));
    let changed: Vec<f32> = weights.iter().enumerate().map(|(i, x)| if i % 10 == 0 { x + 0.25 } else { *x }).collect();
    let model = |dir: &Path, weights: &[f32], dtype| {
        let tensors: [Tensor; 4] = [
            ("embed.weight", dtype, &[50, 100], embedding.clone()),
            ("lm_head.weight", dtype, &[50, 100], embedding.clone()),
            ("layer.weight", dtype, &[30, 30], weights.to_vec()),
            ("norm.weight", dtype, &[3], vec![1.0; 3]),
        ];
        write(&dir.join("model.safetensors"), &tensors);
    };
    model(&tuned, &changed, Dtype::F32);
    model(&base, &weights, Dtype::F32);
    model(&other, &changed, Dtype::F32);
    std::fs::write(tuned.join("config.json"), r#"{"dtype":"float32"}"#).unwrap();
    let vector = TaskVector::of_checkpoint(&tuned, &base).unwrap();
    assert_eq!(vector.elements(), 5903, "a tied tensor counts once");
    let expert = vector.compress(&Settings { density: 0.1, alpha: 1.0, mode: Mode::Stc, ..Settings::default() }).unwrap();
    assert_eq!(expert.kept(), 90);
    assert!(expert.entries.iter().any(|entry| matches!(entry.content, Content::Copy(_))));
    let file = place.path().join("change.cpft");
    expert.write(&file).unwrap();
    let expert = Expert::read(&file).unwrap();
    expert.restore(Some(&Checkpoint::open(&base).unwrap()), &out).unwrap();
    let restored = Checkpoint::open(&out).unwrap();
    let distance = restored.f32s("layer.weight").unwrap().iter().zip(&changed).fold(0f32, |most, (x, y)| most.max((x - y).abs()));
    assert!(distance < 1e-6, "{distance}");
    assert_eq!(restored.f32s("lm_head.weight").unwrap(), embedding);
    assert!(out.join("config.json").exists());

    let reason = expert.restore(Some(&Checkpoint::open(&other).unwrap()), &place.path().join("x")).unwrap_err().to_string();
    assert!(reason.contains("`layer.weight`") && reason.contains("checksum"), "{reason}");
    let reason = expert.restore(None, &place.path().join("x")).unwrap_err().to_string();
    assert!(reason.contains("base"), "{reason}");
}

#[test]
fn checkpoints_that_do_not_fit_are_refused_with_the_tensors() {
    let place = tempfile::tempdir().unwrap();
    let [tuned, base] = ["tuned", "base"].map(|name| place.path().join(name));
    let tensor = |name: &'static str, shape: &'static [usize]| (name, Dtype::F32, shape, vec![0.5; shape.iter().product()]);
    write(&tuned.join("model.safetensors"), &[tensor("a", &[2, 3]), tensor("b", &[4]), tensor("only.here", &[1])]);
    write(&base.join("model.safetensors"), &[tensor("a", &[3, 2]), tensor("b", &[4]), tensor("only.there", &[2])]);
    let reason = TaskVector::of_checkpoint(&tuned, &base).unwrap_err().to_string();
    for part in ["`a` ([2, 3] here, [3, 2] in the base)", "`only.here` ([1] here, nothing", "`only.there` (nothing here"] {
        assert!(reason.contains(part), "{reason}");
    }
    let reason = TaskVector::of_checkpoint(&base, &base).unwrap().compress(&Settings::default()).unwrap_err().to_string();
    assert!(reason.contains("nothing was changed"), "{reason}");
}

#[test]
fn what_cannot_be_compressed_is_refused_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let mut numbers = noise(3000, 9);
    let reason = |config: Value, numbers: Vec<f32>, settings: Settings| {
        let len = numbers.len();
        let dir = adapter(place.path(), config, &[("m.lora_A.weight", Dtype::F32, &[len], numbers)]);
        TaskVector::of_adapter(&dir).and_then(|vector| vector.compress(&settings)).unwrap_err().to_string()
    };
    let with = |density: f64, alpha: f64| Settings { density, alpha, ..Settings::default() };
    for density in [0.0, -0.1, 1.1, f64::NAN] {
        assert!(reason(lora(), numbers.clone(), with(density, 1.0)).contains("density"), "{density}");
    }
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(reason(lora(), numbers.clone(), with(0.2, alpha)).contains("alpha"), "{alpha}");
    }
    assert!(reason(lora(), numbers.clone(), with(0.0001, 1.0)).contains("keeps none of 3000"));
    assert!(reason(lora(), vec![0.0; 100], with(0.2, 1.0)).contains("nothing was changed"));
    assert!(reason(lora(), vec![0.1; 5000], with(0.2, 1.0)).contains("alike"));
    assert!(reason(json!({ "peft_type": "VERA" }), numbers.clone(), with(0.2, 1.0)).contains("`VERA`"));
    assert!(reason(json!({ "peft_type": "LORA", "init_lora_weights": "pissa" }), numbers.clone(), with(0.2, 1.0)).contains("PiSSA"));
    for bad in [f32::NAN, f32::INFINITY] {
        numbers[2500] = bad;
        let reason = reason(lora(), numbers.clone(), with(0.2, 1.0));
        assert!(reason.contains("`m.lora_A.weight`") && reason.contains("not a finite number"), "{reason}");
    }
    let kept = [("m.lora_A.weight", Dtype::F32, &[3][..], vec![0.1, -0.3, 0.2]), ("m.bias", Dtype::F32, &[2][..], vec![1.0, f32::NAN])];
    let bias = adapter(place.path(), lora(), &kept);
    let reason = TaskVector::of_adapter(&bias).unwrap().compress(&Settings::default()).unwrap_err().to_string();
    assert!(reason.contains("tensor `m.bias`: not a finite number"), "what is kept as it is too: {reason}");
    let none = adapter(place.path(), lora(), &[("m.bias", Dtype::F32, &[2], vec![1.0; 2])]);
    assert!(TaskVector::of_adapter(&none).unwrap_err().to_string().contains("no tensor that can be compressed"));
}
