//! Every method on a small random model: logits, loss, gradients, generated tokens, merging; and some steps of the trainer.

use super::Kind;
use super::compare::{Check, Output, values};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use peft_adapters::bitfit::BitFitConfig;
use peft_adapters::low_rank::{Init, LoraConfig, VeraConfig};
use peft_adapters::scaling::Ia3Config;
use peft_adapters::{PeftConfig, attach};
use peft_benches::token_ids;
use peft_core::files::write_atomic;
use peft_core::{Error, LanguageModel, Names, Result, Targets, merge, ops, seed, set};
use peft_models::{CausalLm, DecoderConfig, write_weights};
use peft_train::data::Encoded;
use peft_train::generate::{GenerateConfig, generate_batch};
use peft_train::{LanguageModelling, OptimizerConfig, TrainConfig, Trainer};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc;

const SEED: u64 = 5;
const VOCABULARY: usize = 97;
/// Sequences and tokens of each.
const BATCH: [usize; 2] = [2, 24];
const LINEAR: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

const MODEL_CONFIG: &str = r#"{
    "model_type": "llama", "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
    "attention_bias": true, "mlp_bias": true, "initializer_range": 0.2
}"#;

/// The methods, on all linear layers.
fn methods() -> Vec<(&'static str, PeftConfig)> {
    let targets = || Targets::new(Names::list(LINEAR));
    let lora = || LoraConfig { r: 4, lora_alpha: 8.0, targets: targets(), ..LoraConfig::default() };
    vec![
        ("lora", PeftConfig::Lora(lora())),
        ("rslora", PeftConfig::Lora(LoraConfig { use_rslora: true, ..lora() })),
        ("dora", PeftConfig::Lora(LoraConfig { use_dora: true, ..lora() })),
        ("pissa", PeftConfig::Lora(LoraConfig { init_lora_weights: Init::Name("pissa".into()), ..lora() })),
        ("vera", PeftConfig::Vera(VeraConfig { r: 16, targets: targets(), ..VeraConfig::default() })),
        (
            "ia3",
            PeftConfig::Ia3(Ia3Config {
                feedforward_modules: Some(Names::list(["down_proj"])),
                targets: targets(),
                ..Ia3Config::default()
            }),
        ),
        ("bitfit", PeftConfig::BitFit(BitFitConfig::default())),
    ]
}

/// Compare them all.
///
/// # Errors
/// If the model cannot be written to disk, from where both devices load it as users do.
pub fn checks(cpu: &Device, target: &Device, tolerance: impl Fn(Kind) -> f64) -> Result<Vec<Check>> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("a temporary directory", e))?;
    let dir = dir.path();
    write_atomic(&dir.join("config.json"), MODEL_CONFIG.as_bytes())?;
    write_weights(&CausalLm::init(DecoderConfig::parse(MODEL_CONFIG)?, cpu, SEED), dir, |_| DType::F32, u64::MAX)?;

    let mut checks = Vec::new();
    for (name, config) in methods() {
        let model = |device: &Device, dtype| adapted(dir, &config, device, dtype);
        let learned = |device: &Device, dtype| learned(&model(device, dtype)?);
        checks.push(Check::new(name, tolerance(Kind::Model), || learned(cpu, DType::F32), || learned(target, DType::F32)));
        if name == "lora" {
            let (name, dtype) = ("lora, bf16", DType::BF16);
            checks.push(match target.supports_dtype(dtype) {
                true => Check::new(name, tolerance(Kind::HalfModel), || learned(cpu, dtype), || learned(target, dtype)),
                false => Check::skipped(name, dtype),
            });
        }
        let greedy = || chosen(&model(cpu, DType::F32)?, &text(&model(target, DType::F32)?)?);
        checks.push(Check::of(format!("{name}: greedy tokens"), tolerance(Kind::Greedy), greedy));
        let logits = |model: CausalLm| Ok(vec![Output::new("logits", values(model.logits(ids(&model)))?)]);
        let merged = || logits(merge(model(target, DType::F32)?)?);
        checks.push(Check::new(format!("{name}: merged"), tolerance(Kind::Model), || logits(model(target, DType::F32)?), merged));
    }
    let (_, lora) = methods().swap_remove(0);
    let losses = |device: &Device| losses(adapted(dir, &lora, device, DType::F32)?);
    checks.push(Check::new("trainer: losses of LoRA", tolerance(Kind::Model), || losses(cpu), || losses(target)));
    Ok(checks)
}

/// The model with an adapter that is past its start: every trained number is moved.
fn adapted(dir: &Path, config: &PeftConfig, device: &Device, dtype: DType) -> Result<CausalLm> {
    struct Move(usize);
    impl ModuleMapper for Move {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !param.is_require_grad() {
                return param;
            }
            self.0 += 1;
            let value = param.val();
            let step = seed::normal(value.dims(), 0.1, &mut seed::rng(SEED, &format!("trained {}", self.0)), &value.device());
            set(param, value + step)
        }
    }
    let model = CausalLm::load(dir, &device.clone().autodiff(), Some(dtype))?;
    let (model, _) = attach(model, config, SEED)?;
    Ok(model.map(&mut Move(0)))
}

fn tokens() -> Vec<u32> {
    token_ids(BATCH[0] * BATCH[1], VOCABULARY)
}

fn ids(model: &CausalLm) -> Tensor<2, Int> {
    let device = model.devices().into_iter().next().unwrap_or_default();
    let ids: Vec<i64> = tokens().into_iter().map(i64::from).collect();
    Tensor::from_data(TensorData::new(ids, BATCH), &device)
}

/// Logits, loss and the gradients of what is trained.
fn learned(model: &CausalLm) -> Result<Vec<Output>> {
    let hidden = model.hidden(ids(model));
    let [b, s, d] = hidden.dims();
    let hidden = hidden.reshape([b * s, d]);
    let logits = values(model.head(hidden.clone()).inner())?;
    let mut targets: Vec<i64> = tokens().into_iter().skip(1).map(i64::from).chain([-100]).collect();
    targets[s - 1] = -100;
    let targets = Tensor::<1, Int>::from_ints(targets.as_slice(), &hidden.device());
    let weight = model.head_weight().ok_or_else(|| Error::InvalidConfig("the head is no matrix".into()))?;
    let loss = ops::linear_cross_entropy(hidden, weight, targets);
    let gradients = loss.backward();
    let mut outputs = vec![Output::new("logits", logits), Output::new("loss", values(loss.inner())?)];
    outputs.extend(trained(model, &gradients)?);
    Ok(outputs)
}

/// The gradients of what is trained, named after the kind of the parameter.
fn trained(model: &CausalLm, gradients: &Gradients) -> Result<Vec<Output>> {
    struct Collect<'a> {
        gradients: &'a Gradients,
        name: Vec<String>,
        found: Result<Vec<Output>>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.name.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.name.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let (true, Ok(found)) = (param.is_require_grad(), &mut self.found) else { return };
            let name = format!("gradient of {}", self.name.last().map_or("", String::as_str));
            let missing = || Error::InvalidConfig(format!("{} gets no gradient", self.name.join(".")));
            match param.val().grad(self.gradients).ok_or_else(missing).and_then(values) {
                Ok(values) => found.push(Output::new(name, values)),
                Err(error) => self.found = Err(error),
            }
        }
    }
    let mut collect = Collect { gradients, name: Vec::new(), found: Ok(Vec::new()) };
    model.visit(&mut collect);
    collect.found
}

/// Two prompts of different lengths, and what the model continues them with.
fn text(model: &CausalLm) -> Result<Vec<(Vec<u32>, Vec<u32>)>> {
    let (tokens, config) = (tokens(), GenerateConfig { max_new_tokens: 16, ..GenerateConfig::default() });
    let prompts = [&tokens[..9], &tokens[9..14]];
    let new = generate_batch(model, &prompts, &config, |_, _| ControlFlow::Continue(()))?;
    Ok(prompts.map(<[u32]>::to_vec).into_iter().zip(new).collect())
}

/// For each token of the texts the largest logit that the model has there, and the logit of the token: of equally good ones any may come.
fn chosen(model: &CausalLm, texts: &[(Vec<u32>, Vec<u32>)]) -> Result<(Vec<Output>, Vec<Output>)> {
    let device = model.devices().into_iter().next().unwrap_or_default();
    let (mut best, mut found) = (Vec::new(), Vec::new());
    for (prompt, new) in texts {
        let ids: Vec<i64> = prompt.iter().chain(new).map(|id| i64::from(*id)).collect();
        let logits = values(model.logits(Tensor::from_data(TensorData::new(ids.clone(), [1, ids.len()]), &device)))?;
        for (row, id) in logits.chunks(VOCABULARY).skip(prompt.len() - 1).zip(new) {
            best.push(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            found.push(row[*id as usize]);
        }
    }
    Ok((vec![Output::new("logits", best)], vec![Output::new("logits", found)]))
}

/// The losses of some steps.
fn losses(model: CausalLm) -> Result<Vec<Output>> {
    let labels_mask: Vec<bool> = (0..BATCH[1]).map(|i| i > 0).collect();
    let ids = token_ids(BATCH[1] * 8, VOCABULARY);
    let examples: Vec<_> = ids.chunks(BATCH[1]).map(|ids| Encoded { ids: ids.to_vec(), labels_mask: labels_mask.clone() }).collect();
    let config = TrainConfig {
        batch_size: BATCH[0],
        optimizer: OptimizerConfig { lr: 5e-3, ..OptimizerConfig::default() },
        ..TrainConfig::default()
    };
    let scratch = tempfile::tempdir().map_err(|e| Error::io("a temporary directory", e))?;
    let (sender, taken) = mpsc::channel();
    let trainer = Trainer::new(config, LanguageModelling::new(examples, 0), scratch.path()).on_step(move |progress| {
        // The receiver lives until the end of the run.
        let _ = sender.send(progress.loss as f32);
    });
    trainer.run(model)?;
    Ok(vec![Output::new("losses", taken.try_iter().collect())])
}
