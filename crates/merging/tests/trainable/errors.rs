//! Mistakes, and what is said of them.

use super::net::{Batch, Net, Problem, autodiff, parameters};
use burn::nn::LinearConfig;
use peft_core::device;
use peft_merge::adaptive::{AdaMerging, AdaMergingConfig};
use peft_merge::atlas::{Atlas, AtlasConfig, Objective};
use peft_merge::concrete::{Concrete, ConcreteConfig};
use peft_merge::{Coefficient, Loss, TaskVectors};

fn error<T>(result: peft_core::Result<T>) -> String {
    result.err().expect("it must fail").to_string()
}

#[test]
fn models_that_do_not_fit_the_base_are_listed_by_parameter() {
    let problem = Problem::read();
    let other = Net { b: LinearConfig::new(7, 8).with_bias(false).init(&device::host()), ..problem.net("task0", &device::host()) };
    let message = error(TaskVectors::new(problem.base(), vec![("cars".into(), other)], |_| true));
    assert!(
        message.contains("task `cars` does not fit the base: `b.weight` ([7, 8] here, [7, 6] in the base), `b.bias` (missing)"),
        "{message}"
    );
    let base = Net { b: LinearConfig::new(7, 6).with_bias(false).init(&autodiff()), ..problem.base() };
    let message = error(TaskVectors::new(base, vec![("cars".into(), problem.net("task0", &device::host()))], |_| true));
    assert!(message.contains("`b.bias` (not in the base)"), "{message}");
}

#[test]
fn nothing_to_merge_is_an_error() {
    let problem = Problem::read();
    let model = || ("t".to_string(), problem.net("task0", &device::host()));
    assert!(error(TaskVectors::new(problem.base(), vec![], |_| true)).contains("there are no task vectors"));
    assert!(error(TaskVectors::new(problem.base(), vec![model()], |_| false)).contains("no parameter of the base model is merged"));
    assert!(error(TaskVectors::new(problem.base(), vec![model(), model()], |_| true)).contains("two task vectors are called `t`"));
    let plain = problem.net("base", &device::host());
    assert!(error(TaskVectors::new(plain, vec![model()], |_| true)).contains("a device with autodiff"));
}

#[test]
fn settings_outside_their_range_name_it() {
    let problem = Problem::read();
    let atlas = |config: AtlasConfig| error(Atlas::new(problem.vectors(), config));
    let default = AtlasConfig::default;
    assert!(atlas(AtlasConfig { partition: Some(0), ..default() }).contains("partition: from 1 to 65535, not 0"));
    assert!(atlas(AtlasConfig { select_top: Some(4), ..default() }).contains("select_top: from 1 to the number of task vectors, 3, not 4"));
    assert!(atlas(AtlasConfig { lp_reg: Some(3), ..default() }).contains("lp_reg: 1 or 2, not 3"));
    assert!(atlas(AtlasConfig { lr: -1.0, ..default() }).contains("lr: above 0, not -1"));
    assert!(atlas(AtlasConfig { objective: Objective::Negation, ..default() }).contains("one vector, not of 3"));

    let concrete = |config: ConcreteConfig| error(Concrete::new(problem.vectors(), config));
    assert!(concrete(ConcreteConfig { temperature: 0.0, ..ConcreteConfig::default() }).contains("temperature: above 0, not 0"));
    let adaptive = |config: AdaMergingConfig| error(AdaMerging::new(problem.vectors(), config));
    assert!(adaptive(AdaMergingConfig { trim: Some(1.5), ..AdaMergingConfig::default() }).contains("trim: above 0 and at most 1, not 1.5"));
    assert!(adaptive(AdaMergingConfig { trim: Some(1e-4), ..AdaMergingConfig::default() }).contains("of 90 entries keeps none"));
}

#[test]
fn a_run_without_data_is_an_error() {
    let problem = Problem::read();
    let mut adaptive = AdaMerging::new(problem.vectors(), AdaMergingConfig::default()).unwrap();
    assert!(error(adaptive.train(&mut [], &problem.entropy(), |_| {})).contains("there are no data to learn from"));
    let mut concrete = Concrete::new(problem.vectors(), ConcreteConfig::default()).unwrap();
    assert!(error(concrete.train(&mut [], &problem.entropy(), |_| {})).contains("there are no data to learn from"));
    let config = AtlasConfig { objective: Objective::Negation, ..AtlasConfig::default() };
    let mut atlas = Atlas::new(problem.vectors_of(&[0]), config).unwrap();
    let message = error(atlas.train(&mut problem.streams(&[0]), &problem.ce(), |_| {}));
    assert!(message.contains("two streams of data: the target to unlearn, then the control to keep; there are 1"), "{message}");
}

#[test]
fn a_loss_that_is_no_number_is_told_with_task_and_step_and_the_last_good_coefficients_stay() {
    let problem = Problem::read();
    let calls = std::cell::Cell::new(0);
    let breaks = |net: &Net, batch: &Batch| -> Loss {
        calls.set(calls.get() + 1);
        let loss = problem.ce()(net, batch).value;
        if calls.get() == 6 { (loss * f64::NAN).into() } else { loss.into() }
    };
    let mut merge = Atlas::new(problem.vectors(), AtlasConfig { steps: 9, ..AtlasConfig::default() }).unwrap();
    let message = error(merge.train(&mut problem.streams(&[0, 1]), &breaks, |_| {}));
    assert_eq!(message, "the loss of task `task1` in step 3: not a finite number");

    let mut good = Atlas::new(problem.vectors(), AtlasConfig { steps: 2, ..AtlasConfig::default() }).unwrap();
    good.train(&mut problem.streams(&[0, 1]), &problem.ce(), |_| {}).unwrap();
    assert_eq!(merge.coefficients(), good.coefficients());
    assert_eq!(parameters(&merge.merged()), parameters(&good.merged()));
}

#[test]
fn a_gradient_that_is_no_number_leaves_the_last_good_coefficients() {
    let problem = Problem::read();
    // Finite, but its derivative is not.
    let broken = |net: &Net, batch: &Batch| -> Loss {
        let y = net.forward(batch.x.clone());
        ((y.clone() - y.detach()).sum() * 1e38 * 1e38).into()
    };
    let mut merge = AdaMerging::new(problem.vectors(), AdaMergingConfig::default()).unwrap();
    let before = merge.coefficients();
    let message = error(merge.train(&mut problem.streams(&[0]), &broken, |_| {}));
    assert_eq!(message, "a coefficient after step 1: not a finite number");
    assert_eq!(merge.coefficients(), before);

    let mut concrete = Concrete::new(problem.vectors(), ConcreteConfig::default()).unwrap();
    let message = error(concrete.train(&mut problem.streams(&[0]), &broken, |_| {}));
    assert_eq!(message, "the logits of the mask after step 1: not a finite number");
    assert!(concrete.logits(0).abs().max().into_scalar::<f32>() == 0.0);
}

#[test]
fn a_coefficient_of_another_merge_is_an_error() {
    let problem = Problem::read();
    let mut merge = Atlas::new(problem.vectors(), AtlasConfig::default()).unwrap();
    let strange = Coefficient { task: "task0".into(), block: Some("c.weight".into()), part: None, value: 0.5 };
    assert!(error(merge.set_coefficients(&[strange])).contains("task `task0` has no coefficient for c.weight"));
}
