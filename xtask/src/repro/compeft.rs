//! ComPEFT on DM4: what compression costs an expert, and a merge of experts.

use super::dm4::{Dm4, Dm4Args, Report, Scores, TASKS, Trunk, parameters};
use crate::Outcome;
use burn::tensor::Tensor;
use clap::Args;
use peft_core::files::{Checkpoint, Dtype, TensorSource, float_bytes, pytorch_metadata, write_safetensors};
use peft_core::for_each_parameter;
use peft_merge::compeft::{Expert, Mode, Settings, TaskVector, Ternary, weighted_sum};
use std::borrow::Cow;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// Four experts in a seventeenth of their size, alone and merged.
#[derive(Args)]
pub struct Compeft {
    #[command(flatten)]
    common: Dm4Args,
}

const DENSITY: f64 = 0.2;
const ALPHAS: [f64; 8] = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0];
const LAMBDAS: [f64; 7] = [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5];
/// Images that alpha and lambda are chosen on, and those that count.
const CHOOSE: Range<usize> = 0..297;
const COUNT: Range<usize> = 297..597;

const WHOLE: &str = "experts as they are";
const COMPEFT: &str = "ComPEFT, 20 %";
const PRUNED: &str = "the largest 20 % as they are";
const STC: &str = "ternary by their mean (STC), 20 %";
const MERGED: &str = "task arithmetic of experts as they are";
const MERGED_COMPEFT: &str = "task arithmetic of ComPEFT experts";

impl Compeft {
    pub fn run(&self) -> Outcome {
        let mut scores = Scores::default();
        let mut changes: Vec<f64> = Vec::new();
        let mut ratios: Vec<f64> = Vec::new();
        let mut alphas: Vec<f64> = Vec::new();
        self.common.each(|seed, dm4| {
            let place = tempfile::tempdir()?;
            let base = place.path().join("base");
            save(&dm4.base, &base)?;
            let mut sums = [0.0; 4];
            let mut chosen = Vec::new();
            for (task, expert) in dm4.experts.iter().enumerate() {
                let dir = place.path().join(format!("expert-{task}"));
                save(expert, &dir)?;
                let vector = TaskVector::of_checkpoint(&dir, &base)?;
                let count = |trunk: &Trunk| dm4.accuracy(trunk, task, COUNT);
                let (alpha, compressed) = compeft(dm4, &vector, &base, task)?;
                let stc = vector.compress(&Settings { density: DENSITY, alpha: 1.0, mode: Mode::Stc, ..Settings::default() })?;
                let of = [
                    count(expert),
                    count(&restored(dm4, &compressed, &base)?),
                    count(&pruned(dm4, expert)),
                    count(&restored(dm4, &stc, &base)?),
                ];
                sums.iter_mut().zip(of).for_each(|(sum, of)| *sum += of / TASKS as f64);
                changes.push(of[1] - of[0]);
                let file = dir.join("expert.cpft");
                ratios.push(compressed.bf16_bytes() as f64 / compressed.write(&file)? as f64);
                alphas.push(alpha);
                chosen.push(Expert::read(&file)?);
            }
            for (name, score) in [WHOLE, COMPEFT, PRUNED, STC].into_iter().zip(sums) {
                scores.add(name, seed, score);
            }
            scores.add(MERGED, seed, best_sum(dm4, &sum(dm4))?);
            scores.add(MERGED_COMPEFT, seed, best_sum(dm4, &ternary_sum(dm4, &chosen)?)?);
            Ok(())
        })?;
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64 * 100.0;
        let over = |other| mean(scores.gains(COMPEFT, other));
        let merged = mean(scores.gains(MERGED_COMPEFT, MERGED));
        let worst = changes.iter().copied().fold(f64::INFINITY, f64::min) * 100.0;
        let smallest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        alphas.sort_by(f64::total_cmp);
        let change = over(WHOLE);
        scores.publish(&Report {
            name: "compeft",
            title: "ComPEFT: four networks at a seventeenth of their size",
            setting: "The change of each network is compressed to the signs of its largest fifth and one number. α is chosen among 0.5, 1, 1.5, 2, 3, \
                      4, 5, 6 on 297 test images (the smaller of equal ones), λ of the merges among 0.1 to 0.5; the other 300 count.",
            criterion: "compressing costs at most 1.5 points on average, is better than pruning alone and than STC at the same density on average, \
                        files are at least 15 times smaller than bf16, and the merge of compressed experts is within 1.5 points of that of whole ones.",
            finding: format!(
                "Compressing changes accuracy by {change:+.1} points on average (worst of {} cases {worst:+.1}), {:+.1} over pruning alone and \
                 {:+.1} over STC; the merge by {merged:+.1}. Files are at least {smallest:.1} times smaller than bf16. The median α is {}.",
                changes.len(),
                over(PRUNED),
                over(STC),
                alphas[alphas.len() / 2]
            ),
            passed: change >= -1.5 && over(PRUNED) > 0.0 && over(STC) > 0.0 && smallest >= 15.0 && merged.abs() <= 1.5,
        })
    }
}

/// The alpha that is best on the images to choose on, and the expert compressed with it.
fn compeft(dm4: &Dm4, vector: &TaskVector, base: &Path, task: usize) -> Outcome<(f64, Expert)> {
    let mut best: Option<(f64, f64, Expert)> = None;
    for alpha in ALPHAS {
        let expert = vector.compress(&Settings { density: DENSITY, alpha, ..Settings::default() })?;
        let score = dm4.accuracy(&restored(dm4, &expert, base)?, task, CHOOSE);
        if best.as_ref().is_none_or(|(most, ..)| score > *most) {
            best = Some((score, alpha, expert));
        }
    }
    best.map(|(_, alpha, expert)| (alpha, expert)).ok_or_else(|| "no alpha".into())
}

/// The expert as a trunk again.
fn restored(dm4: &Dm4, expert: &Expert, base: &Path) -> Outcome<Trunk> {
    let tensors = expert.tensors(Some(&Checkpoint::open(base)?), base)?;
    let all: Vec<Vec<f32>> = names(dm4).iter().map(|name| tensors.f32s(name)).collect::<Result<_, _>>()?;
    Ok(dm4.trunk(&all.concat()))
}

/// The base with the largest fifth of the expert's change.
fn pruned(dm4: &Dm4, expert: &Trunk) -> Trunk {
    let mut change = change(dm4, expert);
    let mut magnitudes: Vec<f32> = change.iter().map(|x| x.abs()).collect();
    magnitudes.sort_by(|a, b| b.total_cmp(a));
    let least = magnitudes[(DENSITY * change.len() as f64) as usize - 1];
    change.iter_mut().filter(|x| x.abs() < least).for_each(|x| *x = 0.0);
    added(dm4, &change, 1.0)
}

/// The base with `factor` times a change.
fn added(dm4: &Dm4, change: &[f32], factor: f64) -> Trunk {
    let sum: Vec<f32> = parameters(&dm4.base).iter().zip(change).map(|(base, x)| base + factor as f32 * x).collect();
    dm4.trunk(&sum)
}

fn change(dm4: &Dm4, expert: &Trunk) -> Vec<f32> {
    parameters(expert).iter().zip(parameters(&dm4.base)).map(|(tuned, base)| tuned - base).collect()
}

/// The sum of all changes.
fn sum(dm4: &Dm4) -> Vec<f32> {
    let changes = dm4.experts.iter().map(|expert| change(dm4, expert));
    changes.reduce(|sum, next| sum.iter().zip(next).map(|(a, b)| a + b).collect()).unwrap_or_default()
}

/// The sum of compressed experts, from their bit planes.
fn ternary_sum(dm4: &Dm4, experts: &[Expert]) -> Outcome<Vec<f32>> {
    let mut sum = Vec::new();
    for name in names(dm4) {
        let planes: Vec<Ternary> = experts.iter().map(|expert| expert.ternary(&name)).collect::<Result<_, _>>()?;
        let planes: Vec<(&Ternary, f32)> = planes.iter().map(|planes| (planes, 1.0)).collect();
        sum.extend(weighted_sum(&planes)?);
    }
    Ok(sum)
}

/// The tensors' names in the order of the parameters.
fn names(dm4: &Dm4) -> Vec<String> {
    let mut names = Vec::new();
    for_each_parameter(&dm4.base, |site, _| names.push(site.path()));
    names
}

/// The score that counts, of the sum of changes with the factor that is best on the images to choose on.
fn best_sum(dm4: &Dm4, sum: &[f32]) -> Outcome<f64> {
    let of = |lambda: f64| added(dm4, sum, lambda);
    let best = LAMBDAS.into_iter().map(|lambda| (dm4.score_on(&of(lambda), CHOOSE), lambda));
    let (_, lambda) = best.reduce(|best, next| if next.0 > best.0 { next } else { best }).ok_or("no lambda")?;
    Ok(dm4.score_on(&of(lambda), COUNT))
}

fn save(trunk: &Trunk, dir: &Path) -> Outcome {
    fs::create_dir_all(dir)?;
    let mut tensors = Vec::new();
    for_each_parameter(trunk, |site, value| tensors.push((site.path(), site.shape.clone(), value)));
    let source = |(name, shape, value): (String, Vec<usize>, Tensor<1>)| {
        TensorSource::new(name, Dtype::F32, &shape, move || {
            let numbers = value.into_data().try_to_vec::<f32>().expect("parameters are f32");
            Ok(Cow::Owned(float_bytes(&numbers, Dtype::F32).expect("f32 is a float")))
        })
    };
    write_safetensors(&dir.join("model.safetensors"), tensors.into_iter().map(source), &pytorch_metadata())?;
    Ok(())
}
