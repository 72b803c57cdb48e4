//! What must hold for each method, whatever the numbers.

mod common;

use common::{difference, numbers};
use peft_merge::rules::{Karcher, Linear, ModelStock, MultiSlerp, NuSlerp, Over, Rule, Sce, Slerp, Sparse, Sparsity, TaskVectors, merge};

const SHAPE: [usize; 2] = [300, 70];
const LEN: usize = 21_000;

fn run(rule: &dyn Rule, base: Option<&[f32]>, others: &[&[f32]]) -> Vec<f32> {
    merge(rule, "w", &SHAPE, base, others).unwrap()
}

fn vectors(sparsity: Sparsity, consensus: bool, weights: &[f64], density: f64) -> TaskVectors {
    let model = |weight: &f64| Sparse { weight: *weight, density, gamma: 0.0, epsilon: 0.15 };
    TaskVectors {
        sparsity,
        consensus,
        models: weights.iter().map(model).collect(),
        normalize: false,
        rescale: false,
        lambda: 1.0,
        seed: 3,
        masks: None,
    }
}

#[test]
fn merging_copies_of_one_model_returns_it() {
    let (base, x) = (numbers(LEN, 1), numbers(LEN, 2));
    let ties = TaskVectors { normalize: true, ..vectors(Sparsity::Magnitude, true, &[0.5, 2.0, 1.0], 1.0) };
    let rules: [(&dyn Rule, bool); 6] = [
        (&Linear { weights: vec![0.5, 2.0, 1.0], normalize: true }, false),
        (&MultiSlerp { weights: vec![0.2, 0.5, 0.3], eps: 1e-8 }, false),
        (&Karcher { max_iter: 10, tol: 1e-5 }, false),
        (&ModelStock { filter_wise: false }, true),
        (&Sce { select_topk: 1.0 }, true),
        (&ties, true),
    ];
    for (rule, with_base) in rules {
        let merged = run(rule, with_base.then_some(base.as_slice()), &[&x, &x, &x]);
        assert!(difference(&merged, &x) < 1e-6, "{rule:?}");
    }
    assert!(difference(&run(&Slerp { t: 0.3 }, Some(&x), &[&x]), &x) < 1e-6);
    let row_wise = NuSlerp { t: 0.3, over: Over::LastAxis };
    assert!(difference(&run(&row_wise, None, &[&x, &x]), &x) < 1e-6);
}

#[test]
fn slerp_ends_at_its_models_and_is_symmetric() {
    let (a, b) = (numbers(LEN, 1), numbers(LEN, 2));
    assert!(difference(&run(&Slerp { t: 0.0 }, Some(&a), &[&b]), &a) < 1e-6);
    assert!(difference(&run(&Slerp { t: 1.0 }, Some(&a), &[&b]), &b) < 1e-6);
    let (there, back) = (run(&Slerp { t: 0.3 }, Some(&a), &[&b]), run(&Slerp { t: 0.7 }, Some(&b), &[&a]));
    assert!(difference(&there, &back) < 1e-6);
}

#[test]
fn the_order_of_models_does_not_matter() {
    let (base, x) = (numbers(LEN, 1), [2, 3, 4].map(|seed| numbers(LEN, seed)));
    let rules: [&dyn Rule; 4] = [
        &Karcher { max_iter: 10, tol: 1e-5 },
        &ModelStock { filter_wise: true },
        &Sce { select_topk: 0.4 },
        &vectors(Sparsity::Magnitude, true, &[1.0; 3], 0.3),
    ];
    for (i, rule) in rules.into_iter().enumerate() {
        let base = (i > 0).then_some(base.as_slice());
        let (one, other) = (run(rule, base, &[&x[0], &x[1], &x[2]]), run(rule, base, &[&x[2], &x[0], &x[1]]));
        // A sum so near to zero that rounding decides its sign may move single numbers.
        let differing = one.iter().zip(&other).filter(|(a, b)| (*a - *b).abs() > 1e-5).count();
        assert!(differing <= 2, "{rule:?}: {differing}");
    }
}

#[test]
fn a_single_task_vector_at_full_weight_is_the_model() {
    let (base, x) = (numbers(LEN, 1), numbers(LEN, 2));
    assert!(difference(&run(&vectors(Sparsity::None, false, &[1.0], 1.0), Some(&base), &[&x]), &x) < 1e-6);
}

#[test]
fn trimming_keeps_exactly_the_share_that_was_asked_for_also_among_equals() {
    let base = vec![0.0; LEN];
    let distinct: Vec<f32> = (0..LEN as u32).map(|i| (i.wrapping_mul(48_271) % 65_537 + 1) as f32).collect();
    let coarse: Vec<f32> = distinct.iter().map(|x| (x / 4096.0).ceil()).collect();
    for x in [&distinct, &coarse] {
        for density in [0.1, 0.5, 0.993] {
            let kept = run(&vectors(Sparsity::Magnitude, false, &[1.0], density), Some(&base), &[x]);
            assert_eq!(kept.iter().filter(|x| **x != 0.0).count(), (density * LEN as f64) as usize, "{density}");
        }
    }
}

#[test]
fn breadcrumbs_drop_the_largest_and_the_smallest() {
    let base = vec![0.0; LEN];
    let x: Vec<f32> = (1..=LEN as u32).map(|i| i as f32).collect();
    let mut rule = vectors(Sparsity::Outliers, false, &[1.0], 0.5);
    rule.models[0].gamma = 0.1;
    let kept: Vec<f32> = run(&rule, Some(&base), &[&x]).into_iter().filter(|x| *x != 0.0).collect();
    assert_eq!((kept.len(), kept[0], kept[kept.len() - 1]), (LEN / 2, 8401.0, 18_900.0));
    rule.models[0].gamma = 0.0;
    assert_eq!(
        run(&rule, Some(&base), &[&x]).iter().filter(|x| **x != 0.0).count(),
        LEN / 2,
        "no outliers to drop is no reason to drop all"
    );
}

#[test]
fn random_masks_keep_their_share_and_repeat_with_the_seed() {
    let (base, x) = (vec![0.0; LEN], vec![1.0; LEN]);
    for sparsity in [Sparsity::Random, Sparsity::Della] {
        let rule = vectors(sparsity, false, &[1.0], 0.4);
        let kept = run(&rule, Some(&base), &[&x]);
        let share = kept.iter().filter(|x| **x != 0.0).count() as f64 / LEN as f64;
        assert!((share - 0.4).abs() < 0.01, "{sparsity:?}: {share}");
        assert_eq!(kept, run(&rule, Some(&base), &[&x]));
        assert_ne!(kept, run(&TaskVectors { seed: 4, ..rule.clone() }, Some(&base), &[&x]));
        let other_weight = merge(&rule, "v", &SHAPE, Some(&base), &[&x]).unwrap();
        assert_ne!(kept, other_weight, "each weight has its own numbers");
    }
}

#[test]
fn rescaled_dare_is_right_on_average() {
    let (base, x) = (vec![0.0; 400], numbers(400, 5));
    let mut sum = vec![0f64; 400];
    for seed in 0..1000 {
        let rule = TaskVectors { rescale: true, seed, ..vectors(Sparsity::Random, false, &[1.0], 0.25) };
        let merged = merge(&rule, "w", &[20, 20], Some(&base), &[&x]).unwrap();
        sum.iter_mut().zip(merged).for_each(|(sum, x)| *sum += f64::from(x));
    }
    // Keeping with p and dividing by p has the deviation |x| √((1−p)/p), here √3 |x|.
    let far = sum
        .iter()
        .zip(&x)
        .filter(|(sum, x)| (*sum / 1000.0 - f64::from(**x)).abs() > 4.0 * 3f64.sqrt() * f64::from(x.abs()) / 1000f64.sqrt());
    assert!(far.count() <= 4);
}

#[test]
fn larger_numbers_of_a_row_are_kept_more_often_by_della() {
    let (base, x) = (vec![0.0; LEN], (0..LEN).map(|i| (i % 70 + 1) as f32).collect::<Vec<_>>());
    let kept = run(&vectors(Sparsity::Della, false, &[1.0], 0.4), Some(&base), &[&x]);
    let share = |column: usize| (0..300).filter(|row| kept[row * 70 + column] != 0.0).count() as f64 / 300.0;
    assert!((share(0) - 0.25).abs() < 0.1 && (share(69) - 0.55).abs() < 0.1, "{} {}", share(0), share(69));
}

#[test]
fn model_stock_of_changes_at_right_angles_is_the_base() {
    let base = numbers(4, 1);
    let x: Vec<f32> = vec![base[0] + 1.0, base[1], base[2], base[3]];
    let y: Vec<f32> = vec![base[0], base[1] + 1.0, base[2], base[3]];
    let merged = merge(&ModelStock { filter_wise: false }, "w", &[4], Some(&base), &[&x, &y]).unwrap();
    assert!(difference(&merged, &base) < 1e-6);
}
