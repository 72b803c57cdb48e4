//! Pre-trains the tiny model and writes it as a Hugging Face checkpoint, with the data of the quickstart beside it.

use super::tasks::{self, Task};
use super::tokenizer;
use crate::{Outcome, workspace_root};
use burn::tensor::{DType, Device};
use clap::Args;
use peft_core::files::write_atomic;
use peft_models::{CausalLm, DecoderConfig, write_weights};
use peft_train::data::{Content, EncodeConfig, Encoded, Encoder, Example, TextTokenizer};
use peft_train::{OptimizerConfig, Progress, SchedulerType, TrainConfig, Trainer, evaluate};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const BATCH_SIZE: usize = 32;
const WARMUP_STEPS: usize = 100;
/// Mixed into the seed of the examples that the finished model answers, so that they are drawn anew.
const TEST_SEED: u64 = 0x7e57;
const QUICKSTART_TRAIN: usize = 1_000;
const QUICKSTART_EVAL: usize = 200;

/// Pre-train the tiny model of the quickstart and write it as a checkpoint.
///
/// Writes OUT (configuration, weights in f16, tokenizer, README.md with the accuracies) and the quickstart's train.jsonl and eval.jsonl
/// into a directory `quickstart` beside OUT.
#[derive(Args)]
pub struct PretrainTiny {
    /// Optimizer steps of 32 examples.
    #[arg(long, default_value_t = 2_600, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Directory of the checkpoint.
    #[arg(long, default_value = "crates/cli/assets/tiny")]
    out: PathBuf,
    /// Determines the weights at the start and every example.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Fresh examples of each task to measure the finished model on.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    test_examples: u32,
}

impl PretrainTiny {
    /// Train, save and measure.
    pub fn run(&self) -> Outcome {
        let out = workspace_root().join(&self.out);
        create_dir(&out)?;
        write_configs(&out)?;
        write_quickstart(&out.with_file_name("quickstart"))?;

        let tokenizer = TextTokenizer::load(&out)?;
        let examples = self.training_examples(&tokenizer)?;
        let config = DecoderConfig::parse(&config_json())?;
        eprintln!("{} parameters, {} steps of {BATCH_SIZE} examples", config.num_params(), self.steps);
        let model = CausalLm::init(config, &Device::flex().autodiff(), self.seed);
        let scratch = workspace_root().join("target/pretrain-tiny");
        create_dir(&scratch)?;
        let trainer = Trainer::new(self.train_config(), examples, scratch, tokenizer.pad_id()).on_step(print_progress);
        let trained = trainer.run(model)?;
        let bytes = write_weights(&trained.model, &out, |_| DType::F16, u64::MAX)?;
        eprintln!("{} bytes of weights after {:.0} s of training", bytes, trained.report.seconds);

        let readme = self.readme(&out, trained.report.train_loss_last)?;
        write_atomic(&out.join("README.md"), readme.as_bytes())?;
        println!("{readme}");
        Ok(())
    }

    fn training_examples(&self, tokenizer: &TextTokenizer) -> Outcome<Vec<Encoded>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let drawn = (0..self.steps as usize * BATCH_SIZE).map(|_| completion(tasks::pretraining_example(&mut rng)));
        let config = EncodeConfig { max_length: tokenizer::MODEL_MAX_LENGTH, train_on_prompt: false };
        Ok(Encoder::new(tokenizer, None, config)?.encode_all(&drawn.collect::<Vec<_>>())?)
    }

    fn train_config(&self) -> TrainConfig {
        TrainConfig {
            batch_size: BATCH_SIZE,
            seed: self.seed,
            optimizer: OptimizerConfig {
                lr: 3e-3,
                lr_scheduler_type: SchedulerType::Cosine,
                warmup_steps: WARMUP_STEPS.min(self.steps as usize / 10),
                weight_decay: 0.1,
                adam_beta2: 0.98,
                max_grad_norm: 1.0,
                ..OptimizerConfig::default()
            },
            ..TrainConfig::default()
        }
    }

    /// What the checkpoint is and how well it does, measured on the files that were written.
    fn readme(&self, dir: &Path, loss: f64) -> Outcome<String> {
        let model = CausalLm::load(dir, &Device::flex(), None)?;
        let tokenizer = TextTokenizer::load(dir)?;
        let mut text = format!(
            "# A tiny language model\n\n\
             A Llama of {} parameters, trained from scratch on generated one-line tasks such as `reverse: badu = udab`. It is small\n\
             enough to live in the repository and good enough for a fine-tuning run to show something. Made by\n\n\
             ```sh\ncargo xtask pretrain-tiny --steps {} --seed {}\n```\n\n\
             in {} steps of {BATCH_SIZE} examples; loss of the last step {loss:.4}. Exact match of greedy answers on {} examples of each task,\n\
             drawn from another seed than those of the training, with the weights as stored (f16):\n\n| task | seen in training | exact match |\n| --- | --- | ---: |\n",
            model.config().num_params(),
            self.steps,
            self.seed,
            self.steps,
            self.test_examples,
        );
        let tasks = Task::PRETRAINING.into_iter().map(|task| (task, "yes")).chain(Task::HELD_OUT.into_iter().map(|task| (task, "no")));
        for (task, seen) in tasks {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ TEST_SEED);
            let examples: Vec<_> = (0..self.test_examples).map(|_| completion(tasks::example(task, &mut rng))).collect();
            // A character is a token.
            let longest = tasks::MAX_EXAMPLE_CHARS;
            let share = evaluate::exact_match(&model, &tokenizer, None, &examples, 32, longest, |_, _| {})?.value;
            eprintln!("{:>12} {share:.2}", task.instruction());
            writeln!(text, "| {} | {seen} | {share:.2} |", task.instruction())?;
        }
        Ok(text)
    }
}

fn completion((prompt, completion): tasks::Example) -> Example {
    Example::new(Content::Completion { prompt, completion, answer: None }, "generated", 0)
}

fn print_progress(progress: &Progress) {
    let Progress { step, total_steps, loss, lr, grad_norm, tokens_per_second, .. } = progress;
    if step % 50 == 0 || step == total_steps {
        eprintln!("step {step}/{total_steps}  loss {loss:.4}  lr {lr:.2e}  grad {grad_norm:.2}  {tokens_per_second:.0} tokens/s");
    }
}

/// `config.json`, for version 4 (`rope_theta`) and version 5 (`rope_parameters`) of transformers.
fn config_json() -> String {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer::VOCAB_SIZE,
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "max_position_embeddings": tokenizer::MODEL_MAX_LENGTH,
        "rope_theta": 10_000.0,
        "rope_parameters": { "rope_type": "default", "rope_theta": 10_000.0 },
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": tokenizer::BOS_ID,
        "eos_token_id": tokenizer::EOS_ID,
        "pad_token_id": tokenizer::PAD_ID,
        "torch_dtype": "float16",
        "use_cache": true,
    });
    format!("{config:#}\n")
}

/// Everything in a checkpoint but its weights.
fn write_configs(dir: &Path) -> Outcome {
    let generation = json!({
        "bos_token_id": tokenizer::BOS_ID,
        "eos_token_id": tokenizer::EOS_ID,
        "pad_token_id": tokenizer::PAD_ID,
    });
    let files = [
        ("config.json", config_json()),
        ("generation_config.json", format!("{generation:#}\n")),
        ("tokenizer.json", tokenizer::tokenizer_json()),
        ("tokenizer_config.json", tokenizer::tokenizer_config_json()),
    ];
    for (name, text) in files {
        write_atomic(&dir.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// The data that the quickstart fine-tunes on and evaluates with.
fn write_quickstart(dir: &Path) -> Outcome {
    create_dir(dir)?;
    let (train, eval) = tasks::quickstart_data(QUICKSTART_TRAIN, QUICKSTART_EVAL);
    for (name, examples) in [("train.jsonl", train), ("eval.jsonl", eval)] {
        let lines = examples.into_iter().map(|(prompt, completion)| format!("{}\n", json!({ "prompt": prompt, "completion": completion })));
        write_atomic(&dir.join(name), lines.collect::<String>().as_bytes())?;
    }
    Ok(())
}

fn create_dir(dir: &Path) -> Outcome {
    fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_has_as_many_parameters_as_the_book_says() {
        assert_eq!(DecoderConfig::parse(&config_json()).unwrap().num_params(), 738_944);
    }
}
