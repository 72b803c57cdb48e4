//! What PyTorch makes of the same steps with autograd through the composed model: `xtask/parity/trainable.py` wrote the fixtures.

use super::net::{Net, Problem, fixtures, numbers, parameters, relative};
use peft_core::files::{Checkpoint, read_json};
use peft_merge::adaptive::{AdaMerging, AdaMergingConfig};
use peft_merge::atlas::{Atlas, AtlasConfig};
use peft_merge::concrete::{Concrete, ConcreteConfig, EvalMask};
use peft_merge::{Coefficient, Step};
use serde_json::Value;

const TOLERANCE: f32 = 2e-5;

/// Other devices are less exact in each `exp` and `ln`, which the steps of Concrete add up, and Adam divides the gradient of a mask's logit
/// by its size: there, differences are held to this, save that of one number in a tensor, whose gradient may be near zero.
const ELSEWHERE: f32 = 5e-4;

struct Expected {
    file: Checkpoint,
    case: String,
    settings: Value,
}

impl Expected {
    fn of(method: &str, name: &str) -> Self {
        let cases: Value = read_json(&fixtures().join("cases.json")).unwrap();
        let file = Checkpoint::open_file(&fixtures().join("expected.safetensors")).unwrap();
        Self { file, case: format!("{method}/{name}"), settings: cases[method][name].clone() }
    }

    fn check(&self, key: &str, found: &[f32]) {
        let case = &self.case;
        let expected = self.file.f32s(&format!("{case}/{key}")).unwrap();
        let difference = relative(found, &expected);
        if peft_core::device::host_is_cpu() || !case.starts_with("concrete/") {
            return assert!(difference <= TOLERANCE, "{case}/{key}: {difference:e}");
        }
        let scale = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let beyond = found.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > ELSEWHERE * scale).count();
        assert!(beyond <= 1 && difference <= 3e-2, "{case}/{key}: {difference:e}, {beyond} numbers beyond {ELSEWHERE:e}");
    }

    fn check_model(&self, prefix: &str, net: &Net) {
        parameters(net).iter().for_each(|(path, values)| self.check(&format!("{prefix}{path}"), values));
    }
}

fn values(coefficients: &[Coefficient]) -> Vec<f32> {
    coefficients.iter().map(|coefficient| coefficient.value).collect()
}

/// The losses of all steps.
#[derive(Default)]
struct Losses(Vec<f32>);

impl Losses {
    fn add(&mut self, step: &Step) {
        self.0.extend(step.losses.iter().map(|(_, loss)| *loss));
    }
}

#[test]
fn adamerging_goes_the_way_of_pytorch() {
    let problem = Problem::read();
    for name in ["layer", "task", "trimmed"] {
        let expected = Expected::of("adamerging", name);
        let config: AdaMergingConfig = serde_json::from_value(expected.settings.clone()).unwrap();
        let mut merge = AdaMerging::new(problem.vectors(), config).unwrap();
        let mut losses = Losses::default();
        merge.train(&mut problem.streams(&[0, 1, 2]), &problem.entropy(), |step| losses.add(step)).unwrap();
        expected.check("losses", &losses.0);
        expected.check("lambda", &values(&merge.coefficients()));
        expected.check_model("", &merge.merged());
    }
}

#[test]
fn concrete_goes_the_way_of_pytorch_under_the_same_masks() {
    let problem = Problem::read();
    for name in ["task_arithmetic", "layer", "task"] {
        let expected = Expected::of("concrete", name);
        let config: ConcreteConfig = serde_json::from_value(expected.settings.clone()).unwrap();
        let mut merge = Concrete::new(problem.vectors(), config).unwrap();
        let mut losses = Losses::default();
        merge.train(&mut problem.streams(&[0, 1, 2]), &problem.entropy(), |step| losses.add(step)).unwrap();
        expected.check("losses", &losses.0);
        expected.check("lambda", &values(&merge.coefficients()));
        for (block, site) in merge.vectors().blocks().enumerate() {
            expected.check(&format!("logits.{}", site.path()), &numbers(merge.logits(block)));
        }
        for (kind, prefix) in [(EvalMask::Expected, "expected."), (EvalMask::Continuous, "continuous."), (EvalMask::Discrete, "discrete.")]
        {
            expected.check_model(prefix, &merge.merged_with(kind));
        }
    }
}

#[test]
fn atlas_goes_the_way_of_pytorch() {
    let problem = Problem::read();
    for name in ["block", "global", "parts", "negation"] {
        let expected = Expected::of("atlas", name);
        let mut settings = expected.settings.clone();
        let object = settings.as_object_mut().unwrap();
        let (parts, negation) = (object.remove("parts"), object.remove("negation").is_some());
        object.extend(parts.map(|parts| ("partition".into(), parts)));
        object.extend(negation.then(|| ("objective".into(), "negation".into())));
        let config: AtlasConfig = serde_json::from_value(settings).unwrap();
        let vectors = if negation { problem.vectors_of(&[0]) } else { problem.vectors() };
        let mut merge = Atlas::new(vectors, config).unwrap();
        let mut losses = Losses::default();
        let tasks: &[usize] = if negation { &[0, 1] } else { &[0, 1, 2] };
        merge.train(&mut problem.streams(tasks), &problem.ce(), |step| losses.add(step)).unwrap();
        expected.check("losses", &losses.0);
        expected.check("coef", &values(&merge.coefficients()));
        expected.check_model("", &merge.merged());
    }
}
