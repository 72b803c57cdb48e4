//! The trainer on a small random decoder.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use peft_adapters::low_rank::{Init, LoraConfig};
use peft_core::{Context, Error, Names, adapt};
use peft_models::{CausalLm, DecoderConfig};
use peft_train::data::{EncodeConfig, Encoded, TextTokenizer, stream_examples};
use peft_train::{Hook, OptimizerConfig, TrainConfig, Trained, Trainer};
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
    let device = peft_core::device::host().autodiff();
    let model = CausalLm::init(DecoderConfig::parse(CONFIG).unwrap(), &device, 1);
    let lora = LoraConfig { r: 2, init_lora_weights: Init::Flag(false), ..LoraConfig::for_modules(Names::list(["q_proj", "v_proj"])) };
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
    let trainer = Trainer::new(config, data(), dir.path(), 0).on_step(move |progress| seen.lock().unwrap().push(progress.loss));
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
    let trained = Trainer::new(config(), data(), dir.path(), 0).hook(Freeze(steps.clone())).run(model()).unwrap();
    assert_eq!(parameters(&trained.model), parameters(&model()), "without gradients nothing moves");
    assert_eq!(*steps.lock().unwrap(), 3);
}

#[test]
fn a_loss_that_is_not_a_number_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let optimizer = OptimizerConfig { lr: 1e30, ..config().optimizer };
    let result = Trainer::new(TrainConfig { max_steps: Some(20), optimizer, ..config() }, data(), dir.path(), 0).run(model());
    assert!(matches!(result, Err(Error::NonFinite { .. })));
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
    let trainer = Trainer::new(config, examples, dir.path(), 0).on_step(move |progress| {
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
