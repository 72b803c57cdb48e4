//! Runs that go on: with several devices, dropout and few threads, and after damage.

use super::{config, data, dropping, model, moved, parameters};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use peft_core::{Error, Result};
use peft_models::CausalLm;
use peft_train::{CheckpointDir, LanguageModelling, OptimizerConfig, TrainConfig, Trained, Trainer};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Train from where `dir` stands, on so many devices, to the end or until the step `stop_at` was taken; also the losses.
fn train(
    config: &TrainConfig,
    model: CausalLm,
    devices: usize,
    dir: &Path,
    resume: bool,
    stop_at: usize,
) -> Result<(Trained<CausalLm>, Vec<f64>)> {
    let (losses, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let (seen, told) = (losses.clone(), stop.clone());
    let device = peft_core::device::host().autodiff();
    let trainer = Trainer::new(config.clone(), LanguageModelling::new(data(), 0), dir).devices(vec![device; devices]);
    let trainer = trainer.resume(resume).stop(stop).on_step(move |progress| {
        seen.lock().unwrap().push(progress.loss);
        told.store(progress.step == stop_at, Ordering::SeqCst);
    });
    let trained = trainer.run(model)?;
    let losses = losses.lock().unwrap().clone();
    Ok((trained, losses))
}

fn small() -> TrainConfig {
    TrainConfig { max_steps: Some(7), batch_size: 2, ..config() }
}

fn in_a_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn a_resumed_run_is_the_whole_one_whatever_the_devices_dropout_and_threads() {
    let cases = [(1, 0.3, 1, false), (1, 0.3, 2, true), (2, 0.0, 2, false), (2, 0.3, 1, true), (2, 0.3, 3, false), (3, 0.3, 2, true)];
    for (devices, dropout, threads, recompute) in cases {
        in_a_pool(threads, || {
            let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let run = |dir: &Path, resume, stop_at| {
                let model = dropping(dropout).gradient_checkpointing(recompute);
                train(&small(), model, devices, dir, resume, stop_at).unwrap()
            };
            let (expected, all) = run(whole.path(), false, 0);
            let (_, first) = run(parts.path(), false, 3);
            let (found, rest) = run(parts.path(), true, 0);
            assert_eq!([first, rest].concat(), all, "{devices} devices, dropout {dropout}, {threads} threads, {recompute}");
            assert_eq!(parameters(&found.model), parameters(&expected.model));
        });
    }
}

#[test]
fn dropout_on_several_devices_is_that_of_one_with_as_many_accumulated_batches() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let accumulated = TrainConfig { gradient_accumulation_steps: 2, ..small() };
    let (expected, losses) = train(&accumulated, dropping(0.3), 1, one.path(), false, 0).unwrap();
    let (found, together) = train(&small(), dropping(0.3), 2, two.path(), false, 0).unwrap();
    for (a, b) in losses.iter().zip(&together) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
    let found = parameters(&found.model);
    for (path, values) in parameters(&expected.model) {
        assert!(moved(&values, &found[&path]) < 1e-5, "{path}");
    }
}

/// What a run says that cannot go on from `dir`.
fn refusal(config: &TrainConfig, model: CausalLm, dir: &Path) -> String {
    train(config, model, 1, dir, true, 0).err().expect("it is refused").to_string()
}

#[test]
fn a_checkpoint_of_other_settings_is_refused_with_what_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    train(&small(), model(), 1, dir.path(), false, 3).unwrap();
    let optimizer = OptimizerConfig { lr: 0.5, ..config().optimizer };
    let message = refusal(&TrainConfig { optimizer, seed: 9, ..small() }, model(), dir.path());
    assert!(message.ends_with("belongs to a run with other settings: `lr` is 0.5 and was 0.001; `seed` is 9 and was 5"), "{message}");
    let message = refusal(&small(), super::wider(), dir.path());
    assert!(message.contains("belongs to a run that did not train `"), "{message}");
    let device = peft_core::device::host().autodiff();
    let other = LanguageModelling::new(data()[1..].to_vec(), 0);
    let message = Trainer::new(small(), other, dir.path()).devices(vec![device]).resume(true).run(model()).err().unwrap().to_string();
    assert!(message.contains("belongs to a run with other training data"), "{message}");
}

#[test]
fn a_damaged_checkpoint_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    train(&small(), model(), 1, dir.path(), false, 3).unwrap();
    let step = dir.path().join("checkpoints/step-3");
    for name in ["trained.bpk", "optimizer.bpk", "state.json", "checksums.json"] {
        let file = step.join(name);
        let whole = std::fs::read(&file).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            bytes
        };
        let cut = whole[..whole.len() / 2].to_vec();
        for bytes in [vec![], cut, flipped(0), flipped(whole.len() / 3), flipped(whole.len() / 2)] {
            std::fs::write(&file, bytes).unwrap();
            let message = refusal(&small(), model(), dir.path());
            assert!(message.contains("step-3"), "{name}: {message}");
        }
        std::fs::write(&file, whole).unwrap();
    }
    // Where it stands is not taken from a number that was changed.
    let state = std::fs::read_to_string(step.join("state.json")).unwrap();
    std::fs::write(step.join("state.json"), state.replace("\"step\": 3", "\"step\": 4")).unwrap();
    assert!(refusal(&small(), model(), dir.path()).contains("state.json: is damaged: its content is not what was written"));
    std::fs::write(step.join("state.json"), state).unwrap();
    assert_eq!(train(&small(), model(), 1, dir.path(), true, 0).unwrap().1.len(), 4, "undamaged, it goes on");
}

#[test]
fn a_checkpoint_that_lacks_a_file_is_passed_over() {
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = TrainConfig { save_steps: Some(2), save_total_limit: Some(3), ..small() };
    let (_, all) = train(&config, model(), 1, whole.path(), false, 0).unwrap();
    train(&config, model(), 1, broken.path(), false, 5).unwrap();
    let checkpoints = broken.path().join("checkpoints");
    std::fs::remove_file(checkpoints.join("step-5/optimizer.bpk")).unwrap();
    // What kills leave while directories are written and removed.
    for left in [".step-4.removed", ".step-6.partial-1-abc", ".best-2.replaced-1-abc"] {
        std::fs::create_dir(checkpoints.join(left)).unwrap();
        std::fs::write(checkpoints.join(left).join("trained.bpk"), "half").unwrap();
    }
    assert_eq!(CheckpointDir::new(&checkpoints).latest().unwrap().0, 4);
    assert_eq!(train(&config, model(), 1, broken.path(), true, 0).unwrap().1, all[4..]);
    let hidden = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().to_string_lossy().starts_with('.');
    assert!(!std::fs::read_dir(&checkpoints).unwrap().any(hidden), "what was left is gone");
    let lines = std::fs::read_to_string(broken.path().join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 7);
}

#[test]
fn a_new_run_begins_without_the_checkpoints_of_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    train(&small(), model(), 1, dir.path(), false, 6).unwrap();
    std::fs::write(dir.path().join("checkpoints/notes.txt"), "mine").unwrap();
    let other = TrainConfig { seed: 9, save_steps: Some(2), ..small() };
    train(&other, model(), 1, dir.path(), false, 3).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir.path().join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["notes.txt", "step-3"], "files of others stay");
    assert_eq!(train(&other, model(), 1, dir.path(), true, 0).unwrap().1.len(), 4);
}

#[test]
fn the_best_parameters_are_those_that_the_checkpoint_knows() {
    let optimizer = OptimizerConfig { lr: 0.3, ..config().optimizer };
    let config = TrainConfig { max_steps: Some(8), eval_steps: Some(1), load_best_model_at_end: true, optimizer, ..config() };
    let run = |dir: &Path, resume: bool, stop_at: usize, eval_steps: usize| {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let task = LanguageModelling::new(data(), 0).eval(data()[..3].to_vec());
        let config = TrainConfig { eval_steps: Some(eval_steps), ..config.clone() };
        let trainer = Trainer::new(config, task, dir).resume(resume).stop(stop);
        trainer.on_step(move |progress| told.store(progress.step == stop_at, Ordering::SeqCst)).run(model()).unwrap()
    };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = run(whole.path(), false, 0, 1);
    let best = expected.report.best_step.unwrap();
    assert!(best < 6, "the rate is so high that the loss rises again");
    run(parts.path(), false, 6, 1);
    // From here on it is evaluated at its end alone.
    let found = run(parts.path(), true, 0, 100);
    assert_eq!(found.report.best_step, Some(best));
    assert_eq!(parameters(&found.model), parameters(&expected.model));
}

#[test]
fn a_run_that_was_killed_after_it_had_ended_early_ends_there_again() {
    let optimizer = OptimizerConfig { lr: 0.3, ..config().optimizer };
    let config = TrainConfig { eval_steps: Some(1), save_steps: Some(1), early_stopping_patience: Some(2), optimizer, ..config() };
    let config = TrainConfig { max_steps: Some(60), ..config };
    let dir = tempfile::tempdir().unwrap();
    let run = |resume| {
        let task = LanguageModelling::new(data(), 0).eval(data()[..3].to_vec());
        Trainer::new(config.clone(), task, dir.path()).resume(resume).run(model()).unwrap().report
    };
    let (ended, again) = (run(false), run(true));
    assert!(ended.steps < 60);
    assert_eq!((again.steps, again.evaluation, again.train_loss_last), (ended.steps, ended.evaluation, ended.train_loss_last));
}

/// A model with one value that is not a number in the parameters that are trained, or in the others.
fn broken(trained: bool) -> CausalLm {
    struct Break(bool, bool);
    impl ModuleMapper for Break {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.1 || param.is_require_grad() != self.0 {
                return param;
            }
            self.1 = true;
            param.map(|tensor| {
                let device: Device = tensor.device().without_autodiff();
                let nan = Tensor::<D>::full(tensor.shape(), f32::NAN, &device);
                let tensor_is_trained = tensor.is_require_grad();
                let nan = Tensor::from_inner(nan);
                if tensor_is_trained { nan.require_grad() } else { nan }
            })
        }
    }
    model().map(&mut Break(trained, false))
}

#[test]
fn a_loss_that_is_not_a_number_at_the_first_step_is_not_blamed_on_the_learning_rate() {
    let what = |model: CausalLm| {
        let dir = tempfile::tempdir().unwrap();
        let result = train(&small(), model, 1, dir.path(), false, 0);
        let Err(Error::NonFinite { what }) = result else { panic!("it must not end well") };
        assert!(!what.contains("a lower learning rate"), "{what}");
        what
    };
    assert!(what(broken(false)).contains("step 1 is NaN; the base weight `"), "{}", what(broken(false)));
    assert!(what(broken(true)).contains("was not a finite number before training began"), "{}", what(broken(true)));
}
