//! What HF PEFT makes of the same adapters: `xtask/parity/merge_adapters.py` wrote the fixtures.

mod common;

use burn::tensor::{Tensor, TensorData};
use common::difference;
use peft_core::files::Checkpoint;
use peft_core::linalg::svd;
use peft_merge::adapters::{AdapterMerge, Combination, Factors, Lora, MergedModule, Settings};
use peft_merge::rules::{Majority, Pruning, WeightedSum, merge};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Of matrices that are added up.
const TOLERANCE: f32 = 1e-6;
/// Of decompositions in f32.
const DECOMPOSED: f32 = 1e-5;

#[derive(Deserialize)]
struct Case {
    combination: String,
    adapters: Vec<String>,
    weights: Vec<f64>,
    density: Option<f64>,
    majority: Option<String>,
    svd_rank: Option<usize>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/merge-adapters")
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_slice(&std::fs::read(fixtures().join("cases.json")).unwrap()).unwrap()
}

impl Case {
    fn merge(&self) -> AdapterMerge {
        let open = |name: &String| Lora::open(name, &fixtures().join("adapters").join(name)).unwrap();
        let settings = Settings {
            density: self.density,
            majority: self.majority.as_ref().map(|_| Majority::Frequency),
            svd_rank: self.svd_rank,
            ..Settings::new(Combination::named(&self.combination).unwrap(), self.weights.clone())
        };
        AdapterMerge::new(self.adapters.iter().map(open).collect(), settings).unwrap()
    }

    fn expected(&self, name: &str) -> Checkpoint {
        Checkpoint::open_file(&fixtures().join(format!("expected/{name}.safetensors"))).unwrap()
    }
}

/// `B A`, transposed for an embedding, as PEFT has it.
fn product(factors: &Factors, module: &MergedModule) -> Vec<f32> {
    let site = &module.site;
    let entry = |row: usize, column: usize| -> f32 {
        (0..site.rank).map(|k| factors.b[row * site.rank + k] * factors.a[k * site.columns + column]).sum()
    };
    match site.embedding {
        true => (0..site.columns).flat_map(|column| (0..site.rows).map(move |row| (row, column))).map(|(r, c)| entry(r, c)).collect(),
        false => (0..site.rows).flat_map(|row| (0..site.columns).map(move |column| (row, column))).map(|(r, c)| entry(r, c)).collect(),
    }
}

fn transposed(numbers: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| numbers[row * columns + column])).collect()
}

#[test]
fn every_combination_that_draws_nothing_gives_what_peft_gives() {
    let mut failed = Vec::new();
    let mut compared = 0;
    for (name, case) in cases().iter().filter(|(_, case)| !case.combination.starts_with("dare")) {
        let (merge, expected) = (case.merge(), case.expected(name));
        assert_eq!(3 * merge.modules.len(), expected.keys().count(), "{name}");
        let decomposes = case.combination.ends_with("svd");
        for module in &merge.modules {
            let factors = merge.compute(module).unwrap();
            let theirs = |what: &str| expected.f32s(&format!("{}/{what}", module.name)).unwrap();
            let tolerance = if decomposes { DECOMPOSED } else { TOLERANCE };
            let mut found = vec![("change", difference(&product(&factors, module), &theirs("change")), tolerance)];
            // A decomposition leaves signs open; PEFT pads what lies side by side with zeros.
            if !decomposes && case.combination != "cat" {
                found.push(("A", difference(&factors.a, &theirs("A")), TOLERANCE));
                found.push(("B", difference(&factors.b, &theirs("B")), TOLERANCE));
            }
            compared += found.len();
            let wrong = found.into_iter().filter(|(_, difference, most)| difference.is_nan() || difference > most);
            failed.extend(wrong.map(|(what, difference, _)| format!("{name}: {} {what}: {difference:e}", module.name)));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(compared > 100, "{compared}");
}

/// What PEFT kept of each input.
fn masks(name: &str, module: &MergedModule, side: &str) -> Vec<Vec<bool>> {
    let file = Checkpoint::open_file(&fixtures().join(format!("expected/{name}.masks.safetensors"))).unwrap();
    let mask = |i: &usize| -> Vec<bool> {
        let kept = file.bytes(&format!("{}/{side}/{i}", module.name)).unwrap().iter().map(|kept| *kept != 0).collect::<Vec<_>>();
        let site = &module.site;
        match side == "change" && site.embedding {
            true => {
                (0..site.rows).flat_map(|row| (0..site.columns).map(move |column| column * site.rows + row)).map(|at| kept[at]).collect()
            }
            false => kept,
        }
    };
    module.inputs.iter().map(mask).collect()
}

#[test]
fn combinations_that_draw_give_what_peft_gives_with_the_same_masks() {
    for (name, case) in cases().iter().filter(|(_, case)| case.combination.starts_with("dare")) {
        let (plan, expected) = (case.merge(), case.expected(name));
        let rule = |weights: Vec<f64>, masks| WeightedSum {
            weights,
            pruning: Pruning::Random(case.density.unwrap()),
            majority: case.combination.contains("ties").then_some(Majority::Total),
            seed: 0,
            masks: Some(masks),
        };
        for module in &plan.modules {
            let site = &module.site;
            let parts: Vec<_> = module.inputs.iter().map(|i| (&plan.adapters[*i], case.weights[*i])).collect();
            let factors: Vec<Factors> = parts.iter().map(|(adapter, _)| adapter.factors(&module.name).unwrap()).collect();
            let scaling = |adapter: &Lora| adapter.sites[&module.name].scaling;
            let context = format!("{name}: {}", module.name);
            if case.combination.ends_with("svd") {
                let changes = parts.iter().zip(&factors).map(|((adapter, _), factors)| {
                    let own = MergedModule { site: adapter.sites[&module.name].clone(), ..module.clone() };
                    let change: Vec<f32> = product(factors, &own).iter().map(|x| x * scaling(adapter) as f32).collect();
                    if site.embedding { transposed(&change, site.columns, site.rows) } else { change }
                });
                let changes: Vec<Vec<f32>> = changes.collect();
                let slices: Vec<&[f32]> = changes.iter().map(Vec::as_slice).collect();
                let rule = rule(parts.iter().map(|(_, weight)| *weight).collect(), masks(name, module, "change"));
                let merged = merge(&rule, &module.name, &[site.rows, site.columns], None, &slices).unwrap();
                let device = peft_core::device::host();
                let largest = svd(Tensor::from_data(TensorData::new(merged, [site.rows, site.columns]), &device), site.rank).unwrap();
                let s: Tensor<2> = largest.s.unsqueeze();
                let found = (largest.u * s).matmul(largest.vt).into_data().try_into_vec::<f32>().unwrap();
                let found = if site.embedding { transposed(&found, site.rows, site.columns) } else { found };
                let found = difference(&found, &expected.f32s(&format!("{}/change", module.name)).unwrap());
                assert!(found <= DECOMPOSED, "{context}: {found:e}");
                continue;
            }
            for side in ["A", "B"] {
                let numbers: Vec<&[f32]> = factors.iter().map(|f| if side == "A" { f.a.as_slice() } else { f.b.as_slice() }).collect();
                let weight = |(adapter, weight): &(&Lora, f64)| {
                    let total = weight * scaling(adapter);
                    total.abs().sqrt() * if side == "A" { total.signum() } else { 1.0 }
                };
                let rule = rule(parts.iter().map(weight).collect(), masks(name, module, side));
                let found = merge(&rule, side, &[numbers[0].len()], None, &numbers).unwrap();
                let found = difference(&found, &expected.f32s(&format!("{}/{side}", module.name)).unwrap());
                assert!(found <= TOLERANCE, "{context} {side}: {found:e}");
            }
        }
    }
}
