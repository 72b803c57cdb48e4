//! The trainer on a small random decoder.

mod resuming;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use peft_adapters::low_rank::{Init, LoraConfig};
use peft_core::{Context, Error, Names, adapt};
use peft_models::{CausalLm, DecoderConfig};
use peft_train::data::{EncodeConfig, Encoded, TextTokenizer, stream_examples};
use peft_train::{CheckpointDir, Hook, LanguageModelling, OptimizerConfig, TrainConfig, Trained, Trainer};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": true}"#;

/// A decoder for the vocabulary of the tiny tokenizer, with LoRA.
fn wider() -> CausalLm {
    let device = peft_core::device::host().autodiff();
    let config = DecoderConfig::parse(&CONFIG.replace("\"vocab_size\": 23", "\"vocab_size\": 100")).unwrap();
    let lora = LoraConfig::for_modules(Names::list(["q_proj", "v_proj"]));
    adapt(CausalLm::init(config, &device, 1), &lora, &Context::seeded(3)).unwrap().0
}

/// A decoder with LoRA whose factors are both random, so that both have gradients from the first step.
fn model() -> CausalLm {
    dropping(0.0)
}

/// The same with dropout before the factors.
fn dropping(lora_dropout: f64) -> CausalLm {
    let device = peft_core::device::host().autodiff();
    let model = CausalLm::init(DecoderConfig::parse(CONFIG).unwrap(), &device, 1);
    let lora = LoraConfig {
        r: 2,
        lora_dropout,
        init_lora_weights: Init::Flag(false),
        ..LoraConfig::for_modules(Names::list(["q_proj", "v_proj"]))
    };
    adapt(model, &lora, &Context::seeded(3)).unwrap().0
}

/// Sequences of different lengths.
fn data() -> Vec<Encoded> {
    let row = |i: u32| {
        let ids: Vec<u32> = (0..4 + i % 5).map(|t| (3 * i + 7 * t) % 23).collect();
        let labels_mask = (0..ids.len()).map(|t| t > 0).collect();
        Encoded { ids, labels_mask }
    };
    (0..12).map(row).collect()
}

fn config() -> TrainConfig {
    let optimizer = OptimizerConfig { lr: 1e-3, max_grad_norm: 0.0, ..OptimizerConfig::default() };
    TrainConfig { max_steps: Some(3), batch_size: 4, seed: 5, optimizer, ..TrainConfig::default() }
}

fn train(config: TrainConfig) -> (Trained<CausalLm>, Vec<f64>) {
    let dir = tempfile::tempdir().unwrap();
    let losses = Arc::new(Mutex::new(Vec::new()));
    let seen = losses.clone();
    let trainer = Trainer::new(config, LanguageModelling::new(data(), 0), dir.path())
        .on_step(move |progress| seen.lock().unwrap().push(progress.loss));
    let trained = trainer.run(model()).unwrap();
    let losses = losses.lock().unwrap().clone();
    (trained, losses)
}

/// All float parameters by path.
fn parameters<M: Module>(model: &M) -> BTreeMap<String, Vec<f32>> {
    struct Collect(Vec<String>, BTreeMap<String, Vec<f32>>);
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.insert(self.0.join("."), param.base().into_data().try_into_vec().unwrap());
        }
    }
    let mut collect = Collect(Vec::new(), BTreeMap::new());
    model.visit(&mut collect);
    collect.1
}

/// Largest change of a parameter.
fn moved(before: &[f32], after: &[f32]) -> f32 {
    before.iter().zip(after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn only_the_adapter_moves() {
    let before = parameters(&model());
    let after = parameters(&train(config()).0.model);
    for (path, values) in &before {
        let moved = moved(values, &after[path]);
        assert_eq!(moved > 0.0, path.contains(".peft."), "{path} moved by {moved}");
    }
}

#[test]
fn loraplus_trains_b_faster_by_its_ratio() {
    let optimizer = OptimizerConfig { loraplus_lr_ratio: Some(16.0), ..config().optimizer };
    let before = parameters(&model());
    let after = parameters(&train(TrainConfig { max_steps: Some(1), optimizer, ..config() }).0.model);
    for (path, values) in before.iter().filter(|(path, _)| path.contains(".peft.")) {
        // Adam's first step moves each number by the learning rate.
        let expected = if path.ends_with("lora_b") { 16e-3 } else { 1e-3 };
        let moved = moved(values, &after[path]);
        assert!((moved / expected - 1.0).abs() < 0.01, "{path} moved by {moved}, expected {expected}");
    }
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    let (_, whole) = train(config());
    let (_, parts) = train(TrainConfig { batch_size: 2, gradient_accumulation_steps: 2, ..config() });
    for (step, (a, b)) in whole.iter().zip(&parts).enumerate() {
        assert!((a - b).abs() < 1e-5, "step {}: {a} and {b}", step + 1);
    }
}

/// Losses of steps over all data, in which the order of examples plays no part.
fn losses_of_whole_epochs(config: TrainConfig) -> Vec<f64> {
    train(TrainConfig { batch_size: 12, max_steps: Some(4), ..config }).1
}

#[test]
fn packed_rows_train_as_rows_of_one_example() {
    let packed = losses_of_whole_epochs(TrainConfig { packing: Some(16), ..config() });
    for (step, (a, b)) in losses_of_whole_epochs(config()).iter().zip(&packed).enumerate() {
        assert!((a - b).abs() < 1e-5, "step {}: {a} and {b}", step + 1);
    }
}

#[test]
fn accumulated_packed_batches_weigh_every_token_the_same() {
    // 5 rows in batches of 2: each step of three batches sees all data.
    let rows = TrainConfig { packing: Some(16), batch_size: 2, gradient_accumulation_steps: 3, max_steps: Some(4), ..config() };
    let parts = train(rows).1;
    for (step, (a, b)) in losses_of_whole_epochs(config()).iter().zip(&parts).enumerate() {
        assert!((a - b).abs() < 1e-5, "step {}: {a} and {b}", step + 1);
    }
}

#[test]
fn grouping_by_length_changes_the_order_alone() {
    let grouped = TrainConfig { group_by_length: true, ..config() };
    assert_ne!(train(grouped.clone()).1, train(config()).1);
    for (a, b) in losses_of_whole_epochs(grouped).iter().zip(losses_of_whole_epochs(config())) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
}

#[test]
fn two_devices_learn_as_one_with_twice_the_batches() {
    let device = peft_core::device::host().autodiff();
    let losses = Arc::new(Mutex::new(Vec::new()));
    let seen = losses.clone();
    let dir = tempfile::tempdir().unwrap();
    let config = TrainConfig { batch_size: 2, ..config() };
    let together = Trainer::new(config.clone(), LanguageModelling::new(data(), 0), dir.path())
        .devices(vec![device.clone(), device])
        .on_step(move |progress| seen.lock().unwrap().push(progress.loss))
        .run(model())
        .unwrap();
    let (alone, expected) = train(TrainConfig { gradient_accumulation_steps: 2, ..config });
    for (step, (a, b)) in expected.iter().zip(losses.lock().unwrap().iter()).enumerate() {
        assert!((a - b).abs() < 1e-5, "step {}: {a} and {b}", step + 1);
    }
    assert_eq!(alone.report.tokens, together.report.tokens);
    let found = parameters(&together.model);
    for (path, values) in parameters(&alone.model) {
        assert!(moved(&values, &found[&path]) < 1e-5, "{path}");
    }
}

#[test]
fn recomputed_blocks_learn_as_kept_ones() {
    let losses = |recompute: bool| {
        let (dir, losses) = (tempfile::tempdir().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let seen = losses.clone();
        let task = LanguageModelling::new(data(), 0);
        let trainer = Trainer::new(config(), task, dir.path()).on_step(move |progress| seen.lock().unwrap().push(progress.loss));
        let trained = trainer.run(model().gradient_checkpointing(recompute)).unwrap();
        (losses.lock().unwrap().clone(), parameters(&trained.model))
    };
    let ((kept, expected), (recomputed, found)) = (losses(false), losses(true));
    for (a, b) in kept.iter().zip(&recomputed) {
        assert!((a - b).abs() < 1e-6, "{a} and {b}");
    }
    for (path, values) in &expected {
        assert!(moved(values, &found[path]) < 1e-6, "{path}");
    }
}

/// A run that is evaluated after each step.
fn evaluated(config: TrainConfig, resume: bool, dir: &std::path::Path) -> (Trained<CausalLm>, Vec<f64>) {
    let losses = Arc::new(Mutex::new(Vec::new()));
    let seen = losses.clone();
    let task = LanguageModelling::new(data(), 0).eval(data()[..3].to_vec());
    let trainer = Trainer::new(TrainConfig { eval_steps: Some(1), ..config }, task, dir).resume(resume);
    let trainer = trainer.on_step(move |progress| seen.lock().unwrap().extend(progress.evaluation.as_ref().map(|e| e.eval_loss)));
    let trained = trainer.run(model()).unwrap();
    let losses = losses.lock().unwrap().clone();
    (trained, losses)
}

#[test]
fn the_best_evaluation_can_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    // So high a rate that the loss rises again.
    let optimizer = OptimizerConfig { lr: 0.3, ..config().optimizer };
    let config = TrainConfig { max_steps: Some(12), load_best_model_at_end: true, optimizer, ..config() };
    let (trained, losses) = evaluated(config, false, dir.path());
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(best < *losses.last().unwrap(), "{losses:?}");
    assert_eq!(trained.report.evaluation.unwrap().eval_loss, best);
    assert_eq!(trained.report.best_step, losses.iter().position(|loss| *loss == best).map(|index| index + 1));
}

#[test]
fn a_run_that_gets_no_better_ends_early() {
    let dir = tempfile::tempdir().unwrap();
    let optimizer = OptimizerConfig { lr: 0.3, ..config().optimizer };
    let config = TrainConfig { max_steps: Some(60), early_stopping_patience: Some(2), optimizer, ..config() };
    let (trained, losses) = evaluated(config.clone(), false, dir.path());
    let best = losses.iter().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    assert_eq!((trained.report.steps, losses.len()), (best + 3, best + 3));
    assert!(trained.report.steps < 60);
    let error = TrainConfig { metric_for_best_model: "accuracy".into(), eval_steps: Some(1), ..config };
    let task = LanguageModelling::new(data(), 0).eval(data());
    let error = Trainer::new(error, task, dir.path()).run(model()).err().unwrap().to_string();
    assert!(error.contains("metric_for_best_model is `accuracy`; this task has `loss`"), "{error}");
}

#[test]
fn a_run_that_is_told_to_stop_saves_and_goes_on_later_as_if_nothing_had_happened() {
    let config = TrainConfig { max_steps: Some(7), ..config() };
    let expected = train(config.clone()).1;
    let dir = tempfile::tempdir().unwrap();
    let losses = Arc::new(Mutex::new(Vec::new()));
    let run = |stop_at: usize, resume: bool| {
        let (seen, stop) = (losses.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let told = stop.clone();
        let trainer = Trainer::new(config.clone(), LanguageModelling::new(data(), 0), dir.path()).stop(stop).resume(resume);
        let trainer = trainer.on_step(move |progress| {
            seen.lock().unwrap().push(progress.loss);
            told.store(progress.step == stop_at, std::sync::atomic::Ordering::SeqCst);
        });
        trainer.run(model()).unwrap().report
    };
    let stopped = run(2, false);
    assert_eq!((stopped.steps, stopped.interrupted), (2, Some(dir.path().canonicalize().unwrap().join("checkpoints/step-2"))));
    assert_eq!(run(5, true).steps, 5);
    let report = run(0, true);
    assert_eq!((report.steps, report.interrupted), (7, None));
    assert_eq!(*losses.lock().unwrap(), expected);
    assert!(dir.path().join("checkpoints/step-5").exists(), "until the caller has saved the model, nothing else holds what it has learned");
    CheckpointDir::new(dir.path().join("checkpoints")).clear().unwrap();
    assert!(!dir.path().join("checkpoints").exists());
}

#[test]
fn as_many_checkpoints_are_kept_as_asked_for() {
    let kept = |save_total_limit| {
        let dir = tempfile::tempdir().unwrap();
        let config = TrainConfig { max_steps: Some(7), save_steps: Some(1), save_total_limit, ..config() };
        Trainer::new(config, LanguageModelling::new(data(), 0), dir.path()).run(model()).unwrap();
        let entries = std::fs::read_dir(dir.path().join("checkpoints"));
        let mut names: Vec<_> = entries.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(kept(None), ["step-6"]);
    assert_eq!(kept(Some(2)), ["step-5", "step-6"]);
}

#[test]
fn the_same_seed_gives_the_same_losses_and_another_seed_others() {
    assert_eq!(train(config()).1, train(config()).1);
    assert_ne!(train(config()).1, train(TrainConfig { seed: 6, ..config() }).1);
}

#[test]
fn epochs_count_all_examples() {
    let (trained, losses) = train(TrainConfig { max_steps: None, epochs: 2, batch_size: 5, ..config() });
    assert_eq!((trained.report.steps, losses.len()), (6, 6), "12 examples make 3 batches of at most 5");
    assert_eq!(trained.report.tokens, 2 * data().iter().map(|row| row.ids.len()).sum::<usize>());
}

#[test]
fn a_hook_edits_gradients_and_model() {
    struct Freeze(Arc<Mutex<usize>>);
    impl Hook<CausalLm> for Freeze {
        fn gradients(&mut self, _: &CausalLm, _: burn::optim::GradientsParams, _: usize) -> burn::optim::GradientsParams {
            burn::optim::GradientsParams::new()
        }
        fn after_step(&mut self, model: CausalLm, step: usize) -> CausalLm {
            *self.0.lock().unwrap() = step;
            model
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let steps = Arc::new(Mutex::new(0));
    let trained = Trainer::new(config(), LanguageModelling::new(data(), 0), dir.path()).hook(Freeze(steps.clone())).run(model()).unwrap();
    assert_eq!(parameters(&trained.model), parameters(&model()), "without gradients nothing moves");
    assert_eq!(*steps.lock().unwrap(), 3);
}

#[test]
fn a_loss_that_is_not_a_number_ends_the_run() {
    // The learning rate is to blame: it has moved parameters.
    let dir = tempfile::tempdir().unwrap();
    let optimizer = OptimizerConfig { lr: 1e30, ..config().optimizer };
    let config = TrainConfig { max_steps: Some(20), save_steps: Some(1), optimizer, ..config() };
    let result = Trainer::new(config, LanguageModelling::new(data(), 0), dir.path()).run(model());
    let Err(Error::NonFinite { what }) = result else { panic!("it must not end well") };
    let (_, last) = CheckpointDir::new(dir.path().join("checkpoints")).latest().unwrap();
    assert!(what.contains(&format!("the last good checkpoint is {}", last.display())), "{what}");
    assert!(what.contains("a lower learning rate often helps"), "{what}");
}

#[test]
fn a_streamed_file_that_changes_ends_the_run_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.jsonl");
    let lines: String = (0..200).map(|i| format!("{{\"text\": \"copy: {i}\"}}\n")).collect();
    std::fs::write(&file, &lines).unwrap();
    let tokenizer = TextTokenizer::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/assets/tiny")).unwrap();
    let (examples, _) = stream_examples(&file, tokenizer, None, EncodeConfig::default(), |_, _| {}).unwrap();
    let changed = file.clone();
    let steps = Arc::new(Mutex::new(0));
    let taken = steps.clone();
    let config = TrainConfig { max_steps: None, batch_size: 2, ..config() };
    let trainer = Trainer::new(config, LanguageModelling::new(examples, 0), dir.path()).on_step(move |progress| {
        *taken.lock().unwrap() = progress.step;
        std::fs::write(&changed, "").unwrap();
    });
    let error = trainer.run(wider()).err().expect("the file is gone").to_string();
    assert!(error.ends_with("data.jsonl: has changed since the run began; a file that is streamed must stay as it is"), "{error}");
    assert!((1..=5).contains(&*steps.lock().unwrap()), "batches that were ready are used");
}

#[test]
fn settings_out_of_range_are_named() {
    let message = |config: TrainConfig| config.validate().unwrap_err().to_string();
    assert_eq!(message(TrainConfig { batch_size: 0, ..config() }), "invalid configuration: batch_size must be at least 1");
    let both = TrainConfig { packing: Some(8), group_by_length: true, ..config() };
    assert_eq!(message(both), "invalid configuration: packing leaves nothing to group by length; choose one of them");
    let optimizer = OptimizerConfig { lr: -1.0, ..config().optimizer };
    assert_eq!(message(TrainConfig { optimizer, ..config() }), "invalid configuration: lr is -1; it must be above 0");
}
