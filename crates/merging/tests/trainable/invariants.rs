//! What must hold whatever the numbers are.

use super::net::{Net, Problem, TASKS, autodiff, difference, numbers, parameters, relative};
use burn::tensor::Tensor;
use peft_core::device;
use peft_merge::adaptive::{AdaMerging, AdaMergingConfig, Granularity, Trim};
use peft_merge::atlas::{Atlas, AtlasConfig, Choice, Objective, Schedule, Span};
use peft_merge::concrete::{Algorithm, Concrete, ConcreteConfig, EvalMask};
use peft_merge::{Coefficient, Loss, Stream, TaskVectors, read_coefficients, write_coefficients};

fn ones(merge: &Atlas<Net>, task: &str) -> Vec<Coefficient> {
    let mut all = merge.coefficients();
    all.iter_mut().for_each(|coefficient| coefficient.value = if coefficient.task == task { 1.0 } else { 0.0 });
    all
}

/// `θ⁰ + λ Σ τ_i`.
fn task_arithmetic(problem: &Problem, lambda: f32) -> Net {
    let vectors = problem.vectors();
    vectors.compose(|block| vectors.deltas(block).into_iter().reduce(|a, b| a + b).map(|sum| sum * lambda))
}

#[test]
fn atlas_of_zeros_is_the_base_to_the_bit_and_of_a_one_that_model() {
    let problem = Problem::read();
    for partition in [None, Some(4)] {
        let config = AtlasConfig { partition, partition_1d: true, ..AtlasConfig::default() };
        let mut merge = Atlas::new(problem.vectors(), config).unwrap();
        assert_eq!(parameters(&merge.merged()), parameters(&problem.base()));
        let one = ones(&merge, "task1");
        merge.set_coefficients(&one).unwrap();
        assert!(difference(&merge.merged(), &problem.net("task1", &autodiff())) < 1e-6);
    }
}

#[test]
fn atlas_has_a_coefficient_for_each_vector_block_and_part() {
    let problem = Problem::read();
    let count = |config: AtlasConfig| Atlas::new(problem.vectors(), config).unwrap().num_coefficients();
    let default = AtlasConfig::default;
    assert_eq!(count(default()), TASKS * 4);
    assert_eq!(count(AtlasConfig { granularity: Span::Global, ..default() }), TASKS);
    assert_eq!(count(AtlasConfig { partition: Some(10), ..default() }), TASKS * 2 * 10, "vectors have no parts");
    assert_eq!(count(AtlasConfig { partition: Some(10), partition_1d: true, ..default() }), TASKS * (2 * 10 + 2));
    assert_eq!(count(AtlasConfig { partition: Some(1), ..default() }), TASKS * 4);
}

#[test]
fn global_atlas_is_task_arithmetic() {
    let problem = Problem::read();
    let mut merge = Atlas::new(problem.vectors(), AtlasConfig { granularity: Span::Global, ..AtlasConfig::default() }).unwrap();
    let all: Vec<_> = merge.coefficients().into_iter().map(|c| Coefficient { value: 0.4, ..c }).collect();
    merge.set_coefficients(&all).unwrap();
    assert!(difference(&merge.merged(), &task_arithmetic(&problem, 0.4)) < 1e-6);
}

#[test]
fn coefficients_return_from_their_file() {
    let problem = Problem::read();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("coefficients.json");
    let mut merge = Atlas::new(problem.vectors(), AtlasConfig { steps: 3, partition: Some(2), ..AtlasConfig::default() }).unwrap();
    merge.train(&mut problem.streams(&[0, 1]), &problem.ce(), |_| {}).unwrap();
    write_coefficients(&file, &merge.coefficients()).unwrap();
    let mut again = Atlas::new(problem.vectors(), AtlasConfig { partition: Some(2), ..AtlasConfig::default() }).unwrap();
    again.set_coefficients(&read_coefficients(&file).unwrap()).unwrap();
    assert_eq!(parameters(&again.merged()), parameters(&merge.merged()));
}

/// For a linear model and squared loss the best coefficients are those of a least-squares problem.
#[test]
fn atlas_finds_the_least_squares_solution_of_a_linear_model() {
    use burn::nn::{Linear, LinearConfig};
    let device = autodiff();
    let linear = |seed: u64| -> Linear {
        let mut rng = peft_core::seed::rng(seed, "linear");
        let model = LinearConfig::new(4, 3).with_bias(false).init(&device);
        peft_core::with_parameters(model, |_, _| Some(peft_core::seed::uniform([12], 1.0, &mut rng, &device::host())))
    };
    let (base, models) = (linear(0), [linear(1), linear(2)]);
    let mut rng = peft_core::seed::rng(9, "data");
    let [x, y] = [[20, 4], [20, 3]].map(|shape| peft_core::seed::uniform(shape, 1.0, &mut rng, &device));
    let named = models.iter().enumerate().map(|(i, model)| (i.to_string(), model.clone())).collect();
    let vectors = TaskVectors::new(base.clone(), named, |_| true).unwrap();
    let config = AtlasConfig { lr: 0.03, steps: 1500, weight_decay: 0.0, clip: None, schedule: Schedule::Cosine, ..AtlasConfig::default() };
    let mut merge = Atlas::new(vectors, config).unwrap();
    let squared = |model: &Linear, _: &()| -> Loss { (model.forward(x.clone()) - y.clone()).square().mean().into() };
    merge.train(&mut [Stream::new("t", || ())], &squared, |_| {}).unwrap();

    // The normal equations of r = y − x W⁰ on the columns x τ_i.
    let out = |model: &Linear| numbers(model.forward(x.clone()).without_autodiff().reshape([60]));
    let (b, y) = (out(&base), numbers(y.without_autodiff().reshape([60])));
    let columns = models.map(|model| out(&model).iter().zip(&b).map(|(a, b)| f64::from(a - b)).collect::<Vec<_>>());
    let r: Vec<f64> = y.iter().zip(&b).map(|(y, b)| f64::from(y - b)).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (aa, ab, bb) = (dot(&columns[0], &columns[0]), dot(&columns[0], &columns[1]), dot(&columns[1], &columns[1]));
    let (ar, br) = (dot(&columns[0], &r), dot(&columns[1], &r));
    let determinant = aa * bb - ab * ab;
    let expected = [(bb * ar - ab * br) / determinant, (aa * br - ab * ar) / determinant];
    for (found, expected) in merge.coefficients().iter().zip(expected) {
        assert!((f64::from(found.value) - expected).abs() < 1e-3, "{} {expected}", found.value);
    }
}

#[test]
fn select_top_keeps_the_vectors_with_the_largest_gradients() {
    let problem = Problem::read();
    let config = AtlasConfig { select_top: Some(1), steps: 1, weight_decay: 0.0, ..AtlasConfig::default() };
    let mut merge = Atlas::new(problem.vectors(), config).unwrap();
    merge.train(&mut problem.streams(&[2]), &problem.ce(), |_| {}).unwrap();
    assert_eq!(merge.num_coefficients(), 4, "one for each block");
    // A difference quotient along each vector of a block says the same.
    let vectors = problem.vectors();
    let loss = |task: usize, block: usize, step: f32| {
        let model = vectors.compose(|b| (b == block).then(|| vectors.delta(task, b) * step));
        (problem.ce())(&model, &problem.batch(2, 0)).value.into_scalar::<f32>()
    };
    for (block, kept) in merge.vectors().blocks().map(|site| site.path()).enumerate() {
        let slope = |task: usize| ((loss(task, block, 1e-2) - loss(task, block, -1e-2)) / 2e-2).abs();
        let slopes = [0, 1, 2].map(slope);
        let steepest = (0..3).max_by(|a, b| slopes[*a].total_cmp(&slopes[*b])).unwrap();
        let found = merge.coefficients().into_iter().find(|c| c.block.as_ref() == Some(&kept)).unwrap();
        assert_eq!(found.task, format!("task{steepest}"), "{kept}: {slopes:?}");
    }
}

#[test]
fn a_negation_keeps_the_lowest_target_that_leaves_the_control() {
    let problem = Problem::read();
    let config = AtlasConfig { objective: Objective::Negation, steps: 6, lr: 0.1, ..AtlasConfig::default() };
    // Accuracies that the test makes up: (target, control) before the run and after each step.
    let told = [[0.9, 0.8], [0.7, 0.79], [0.5, 0.77], [0.6, 0.78], [0.1, 0.75], [0.0, 0.8]];
    let mut merge = Atlas::new(problem.vectors_of(&[0]), config.clone()).unwrap();
    let (mut asked, mut seen) = (0, Vec::new());
    let accuracies = |model: &Net| {
        seen.push(parameters(model));
        asked += 1;
        Ok(told[asked - 1])
    };
    let found = merge.negate(1, &mut problem.streams(&[0, 1]), &problem.ce(), accuracies, &mut |_| {}).unwrap();
    assert_eq!(found, [0.5, 0.77]);
    assert_eq!(asked, 5, "0.75 is below 95 % of 0.8, and ends the run");
    assert_eq!(parameters(&merge.merged()), seen[2]);

    // The target's loss rises.
    let mut merge = Atlas::new(problem.vectors_of(&[0]), config).unwrap();
    let mut losses = Vec::new();
    merge.train(&mut [problem.stream(0), problem.stream(0)], &problem.ce(), |step| losses.push(step.loss())).unwrap();
    let value = |net: &Net| (problem.ce())(net, &problem.batch(0, 0)).value.into_scalar::<f32>();
    assert!(value(&merge.merged()).is_finite() && losses.len() == 6);
}

#[test]
fn the_best_of_a_run_can_be_chosen() {
    let problem = Problem::read();
    let mut merge = Atlas::new(problem.vectors(), AtlasConfig { steps: 4, ..AtlasConfig::default() }).unwrap();
    let mut seen = Vec::new();
    let judge = |model: &Net| {
        seen.push(parameters(model));
        Ok(if seen.len() == 2 { Choice::Best } else { Choice::Other })
    };
    merge.train_choosing(1, &mut problem.streams(&[0]), &problem.ce(), judge, &mut |_| {}).unwrap();
    assert_eq!((seen.len(), parameters(&merge.merged())), (4, seen[1].clone()));
}

/// Inputs without labels, of which some have a trusted pseudo-label, learn from themselves.
#[test]
fn pseudo_labels_make_a_model_surer() {
    use peft_merge::atlas::ufm::{MixedIndices, trusted};
    use peft_objectives::{confident_cross_entropy, entropies};
    let problem = Problem::read();
    let inputs: Vec<_> = (0..14).map(|round| problem.batch(0, round).x).collect();
    let x: Tensor<2> = Tensor::cat(inputs, 0);
    let (rows, classes) = (x.dims()[0], 4);
    let logits = |net: &Net, x: Tensor<2>| {
        let (weight, bias) = &problem.heads[0];
        net.forward(x).matmul(weight.clone()) + bias.clone().unsqueeze()
    };
    let softmax = |logits: Tensor<2>| burn::tensor::activation::softmax(logits, 1);
    let zero_shot = numbers(softmax(logits(&problem.base(), x.clone())).without_autodiff().reshape([rows * classes]));
    let labels = trusted(&zero_shot, classes, 100).unwrap();
    assert!(labels.iter().any(Option::is_some));

    let mut mixed = MixedIndices::new(&labels, 16, 0, "t").unwrap();
    let stream = Stream::new("t", || mixed.next_batch());
    let pick = |indices: &[usize]| {
        let indices: Vec<i32> = indices.iter().map(|index| *index as i32).collect();
        x.clone().select(0, Tensor::from_ints(indices.as_slice(), &autodiff()))
    };
    let one_hot = |indices: &[usize]| {
        let row = |index: &usize| (0..classes).map(|class| if labels[*index] == Some(class) { 1.0f32 } else { 0.0 }).collect::<Vec<_>>();
        let values: Vec<f32> = indices.iter().flat_map(row).collect();
        Tensor::<1>::from_floats(values.as_slice(), &autodiff()).reshape([indices.len(), classes])
    };
    // The weak view is the input itself, the strong one a fainter one.
    let objective = |net: &Net, [plain, sure]: &[Vec<usize>; 2]| -> Loss {
        let targets = Tensor::cat(vec![softmax(logits(net, pick(plain))), one_hot(sure)], 0);
        let strong = Tensor::cat(vec![pick(plain), pick(sure)], 0) * 0.9;
        confident_cross_entropy(logits(net, strong), targets, 0.8).into()
    };
    let unsure = |net: &Net| entropies(logits(net, x.clone())).mean().into_scalar::<f32>();
    let config = AtlasConfig { objective: Objective::Ufm, steps: 80, lr: 0.02, schedule: Schedule::Cosine, ..AtlasConfig::default() };
    let mut merge = Atlas::new(problem.vectors(), config).unwrap();
    merge.train(&mut [stream], &objective, |_| {}).unwrap();
    let (before, after) = (unsure(&problem.base()), unsure(&merge.merged()));
    assert!(after < before, "{before} {after}");
}

#[test]
fn adamerging_starts_as_task_arithmetic_and_lowers_the_entropy() {
    let problem = Problem::read();
    for granularity in [Granularity::Task, Granularity::Layer] {
        let config = AdaMergingConfig { granularity, steps: 60, lr: 0.02, ..AdaMergingConfig::default() };
        let mut merge = AdaMerging::new(problem.vectors(), config).unwrap();
        assert!(difference(&merge.merged(), &task_arithmetic(&problem, 0.3)) < 1e-6);
        let mut losses = Vec::new();
        merge.train(&mut problem.streams(&[0, 1, 2]), &problem.entropy(), |step| losses.push(step.loss())).unwrap();
        assert!(losses[55..].iter().sum::<f64>() < losses[..5].iter().sum::<f64>(), "{losses:?}");
    }
}

#[test]
fn a_clamped_coefficient_outside_its_bounds_does_not_move() {
    let problem = Problem::read();
    for (scaling, clamp) in [(1.5, true), (-0.5, true), (1.5, false)] {
        let config = AdaMergingConfig { scaling, clamp, steps: 3, lr: 0.1, ..AdaMergingConfig::default() };
        let mut merge = AdaMerging::new(problem.vectors(), config).unwrap();
        let before = merge.coefficients();
        merge.train(&mut problem.streams(&[0, 1, 2]), &problem.entropy(), |_| {}).unwrap();
        assert_eq!(merge.coefficients() == before, clamp, "{scaling}");
    }
}

#[test]
fn trimmed_vectors_keep_their_share_and_agree_in_sign() {
    let problem = Problem::read();
    let vectors = problem.vectors();
    let trim = Trim::new(&vectors, 0.25).unwrap();
    let mut kept = [0; TASKS];
    for block in 0..vectors.blocks().len() {
        let found: Vec<Vec<f32>> = trim.apply(vectors.deltas(block)).into_iter().map(numbers).collect();
        for (task, found) in found.iter().enumerate() {
            let whole = numbers(vectors.delta(task, block));
            assert!(found.iter().zip(&whole).all(|(kept, x)| *kept == 0.0 || kept == x));
            kept[task] += found.iter().filter(|x| **x != 0.0).count();
        }
        for entry in 0..found[0].len() {
            let signs: Vec<bool> = found.iter().map(|found| found[entry]).filter(|x| *x != 0.0).map(|x| x > 0.0).collect();
            assert!(signs.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
    let all = 5 * 7 + 7 + 7 * 6 + 6;
    assert!(kept.iter().all(|kept| *kept <= all / 4 && *kept > all / 8), "{kept:?} of {all}");
}

#[test]
fn an_expected_mask_of_equal_logits_is_no_mask() {
    let problem = Problem::read();
    for initial_logits in [0.0, -1.7] {
        let merge = Concrete::new(problem.vectors(), ConcreteConfig { initial_logits, ..ConcreteConfig::default() }).unwrap();
        assert!(difference(&merge.merged(), &task_arithmetic(&problem, 0.3)) < 1e-6);
        assert!(difference(&merge.individual(2, EvalMask::Expected), &problem.net("task2", &autodiff())) < 1e-6);
    }
}

#[test]
fn tasks_may_change_places_with_their_data() {
    let problem = Problem::read();
    let merged = |order: &[usize]| {
        let config =
            ConcreteConfig { steps: 6, lr: 0.05, algorithm: Algorithm::AdaMerging, adamerging_steps: 3, ..ConcreteConfig::default() };
        let mut merge = Concrete::new(problem.vectors_of(order), config).unwrap();
        merge.train(&mut problem.streams(order), &problem.entropy(), |_| {}).unwrap();
        merge.merged()
    };
    assert!(difference(&merged(&[0, 1, 2]), &merged(&[2, 0, 1])) < 1e-5);
}

#[test]
fn a_run_repeats_with_its_seed_and_differs_with_another() {
    let problem = Problem::read();
    let merged = |seed: u64| {
        let mut merge = Concrete::new(problem.vectors(), ConcreteConfig { steps: 3, seed, ..ConcreteConfig::default() }).unwrap();
        merge.train(&mut problem.streams(&[0, 1, 2]), &problem.entropy(), |_| {}).unwrap();
        parameters(&merge.merged_with(EvalMask::Continuous))
    };
    assert_eq!(merged(1), merged(1));
    assert_ne!(merged(1), merged(2));
}

#[test]
fn the_mask_is_written_with_the_shapes_of_the_parameters() {
    let problem = Problem::read();
    let merge = Concrete::new(problem.vectors(), ConcreteConfig { initial_logits: 0.25, ..ConcreteConfig::default() }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mask.safetensors");
    merge.write_mask(&file).unwrap();
    let read = peft_core::files::Checkpoint::open_file(&file).unwrap();
    assert_eq!(read.info("mask_logits.a.weight").unwrap().shape, [5, 7]);
    assert!(read.f32s("mask_logits.b.bias").unwrap().iter().all(|x| *x == 0.25));
}

#[test]
fn what_is_not_merged_stays_the_base_s_and_may_differ() {
    let problem = Problem::read();
    let models = vec![("t".into(), problem.net("task0", &device::host()))];
    let vectors = TaskVectors::new(problem.base(), models, |site| site.module == "a").unwrap();
    assert_eq!(vectors.blocks().map(|site| site.path()).collect::<Vec<_>>(), ["a.weight", "a.bias"]);
    let merge = AdaMerging::new(vectors, AdaMergingConfig { scaling: 1.0, ..AdaMergingConfig::default() }).unwrap();
    let (merged, base, tuned) = (parameters(&merge.merged()), parameters(&problem.base()), parameters(&problem.net("task0", &autodiff())));
    assert_eq!(merged[2..], base[2..]);
    assert!(relative(&merged[0].1, &tuned[0].1) < 1e-6);
}

#[test]
fn models_of_16_bits_are_task_vectors_too() {
    let problem = Problem::read();
    let half = peft_core::with_parameters(problem.net("task0", &device::host()), |_, value| Some(value));
    let half = to_half(half);
    let vectors = TaskVectors::new(problem.base(), vec![("t".into(), half)], |_| true).unwrap();
    let merge = AdaMerging::new(vectors, AdaMergingConfig { scaling: 1.0, ..AdaMergingConfig::default() }).unwrap();
    let found = difference(&merge.merged(), &problem.net("task0", &autodiff()));
    assert!(found > 1e-5 && found < 4e-3, "rounded to half precision: {found}");
}

fn to_half(net: Net) -> Net {
    use burn::module::{Module, ModuleMapper, Param};
    struct Half;
    impl ModuleMapper for Half {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            Param::initialized(param.id, param.val().cast(device::host_half()))
        }
    }
    net.map(&mut Half)
}

#[test]
fn early_stop_ends_a_run_that_gets_worse_at_its_best() {
    let problem = Problem::read();
    let config = AdaMergingConfig { steps: 1000, lr: 1e-3, early_stop: true, ..AdaMergingConfig::default() };
    let mut merge = AdaMerging::new(problem.vectors(), config).unwrap();
    let mut step = 0;
    let counted = std::cell::Cell::new(0);
    // A loss that rises whatever the coefficients are.
    let rising = |net: &Net, batch: &super::net::Batch| -> Loss {
        counted.set(counted.get() + 1);
        (net.forward(batch.x.clone()).square().mean() * 0.01 + counted.get() as f64).into()
    };
    merge.train(&mut problem.streams(&[0]), &rising, |seen| step = seen.step).unwrap();
    assert!((200..260).contains(&step), "{step}");
    assert!(merge.coefficients().iter().all(|c| (c.value - 0.3).abs() < 1e-6), "the best was the start");
}
