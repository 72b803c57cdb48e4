//! The settings of a fine-tuning run: flags and run file have the same names, and flags win.

use crate::loading::Precision;
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use peft_adapters::PeftConfig;
use peft_adapters::bitfit::BitFitConfig;
use peft_adapters::low_rank::{Bias, Init, LoraConfig, VeraConfig};
use peft_adapters::scaling::Ia3Config;
use peft_core::files::read_yaml;
use peft_core::{Error, Layers, Names, Patterns, Result, Targets, device};
use peft_train::{OptimizerConfig, SchedulerType, TrainConfig};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A way to fine-tune.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodName {
    /// Low-rank adaptation.
    #[default]
    Lora,
    /// LoRA scaled by alpha / sqrt(r).
    #[value(name = "rslora")]
    Rslora,
    /// Weight-decomposed low-rank adaptation.
    Dora,
    /// LoRA that starts from the principal components of the weights.
    Pissa,
    /// Learned scales of activations.
    Ia3,
    /// Scales between shared random matrices.
    Vera,
    /// The biases alone.
    #[value(name = "bitfit")]
    Bitfit,
    /// The classifier of an encoder alone (linear probing); the output is a complete checkpoint.
    Head,
    /// All parameters; the output is a complete checkpoint.
    Full,
}

impl MethodName {
    /// Whether parameters of the model itself are trained, so that the output is a checkpoint and no adapter.
    pub fn trains_base(self) -> bool {
        matches!(self, Self::Head | Self::Full)
    }
}

/// Which biases of the base are trained with LoRA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasName {
    /// None.
    #[default]
    None,
    /// Those of adapted layers.
    #[value(name = "lora_only")]
    LoraOnly,
    /// All.
    All,
}

/// Shape of the learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerName {
    /// Falls to 0 in a straight line.
    #[default]
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
    /// Stays.
    Constant,
}

/// Settings of a run; unset ones take the default that their help names.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Run {
    /// Hugging Face checkpoint: a directory or a hub id, org/name[@revision].
    #[arg(long, value_name = "DIR|ID")]
    pub model: Option<PathBuf>,
    /// Training data, JSONL or a JSON array: {"text"}, {"prompt","completion"}, {"messages":[...]}, ShareGPT's or Alpaca's; for an
    /// encoder {"text","label"}, with or without "text_pair".
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Evaluation data of the same form.
    #[arg(long, value_name = "FILE", conflicts_with = "eval_split")]
    pub eval: Option<PathBuf>,
    /// Set so many examples aside for evaluation, or a fraction of them such as 0.05; the seed draws which.
    #[arg(long, value_name = "N")]
    pub eval_split: Option<f64>,
    /// How to fine-tune [default: lora].
    #[arg(long, value_enum)]
    pub method: Option<MethodName>,
    /// Modules to adapt: names separated by commas, a regular expression, or all-linear [default: by method].
    #[arg(long, value_name = "NAMES", value_parser = names)]
    pub target_modules: Option<Names>,
    /// Modules to leave out.
    #[arg(long, value_name = "NAMES", value_parser = names)]
    pub exclude_modules: Option<Names>,
    /// Layers to adapt, by number.
    #[arg(long, value_name = "N,N", value_parser = layers)]
    pub layers_to_transform: Option<Layers>,
    /// Modules of which a full copy is trained and saved.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub modules_to_save: Option<Vec<String>>,
    /// Rank [default: 8; vera 256].
    #[arg(long)]
    pub r: Option<usize>,
    /// Scale of the change, over the rank [default: 16].
    #[arg(long)]
    pub lora_alpha: Option<f64>,
    /// Dropout on the adapter's input [default: 0].
    #[arg(long)]
    pub lora_dropout: Option<f64>,
    /// Biases to train with LoRA [default: none].
    #[arg(long, value_enum)]
    pub bias: Option<BiasName>,
    /// Start of LoRA's factors: true, false, gaussian, pissa or pissa_niter_<k> [default: true].
    #[arg(long, value_name = "INIT", value_parser = init)]
    pub init_lora_weights: Option<Init>,
    /// Ranks of single modules (run file only): a pattern for the end of the path, and the rank.
    #[arg(skip)]
    pub rank_pattern: Patterns<usize>,
    /// Alphas of single modules (run file only).
    #[arg(skip)]
    pub alpha_pattern: Patterns<f64>,
    /// LoRA+: the learning rate of B over that of A, such as 16.
    #[arg(long, value_name = "RATIO")]
    pub loraplus_lr_ratio: Option<f64>,
    /// Passes over the data [default: 1].
    #[arg(long, conflicts_with = "max_steps")]
    pub epochs: Option<usize>,
    /// Optimizer steps, in place of epochs.
    #[arg(long)]
    pub max_steps: Option<usize>,
    /// Examples in one batch [default: 8].
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Batches to one optimizer step [default: 1].
    #[arg(long, value_name = "N")]
    pub gradient_accumulation_steps: Option<usize>,
    /// Highest learning rate [default: 2e-4; ia3, vera and bitfit 5e-3; full 2e-5].
    #[arg(long)]
    pub lr: Option<f64>,
    /// How the learning rate moves after warm-up [default: linear].
    #[arg(long, value_enum)]
    pub lr_scheduler: Option<SchedulerName>,
    /// Steps over which the learning rate rises from 0 [default: 0].
    #[arg(long, value_name = "N")]
    pub warmup_steps: Option<usize>,
    /// Decoupled weight decay [default: 0].
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Largest norm of the gradient, 0 for no limit [default: 1].
    #[arg(long)]
    pub max_grad_norm: Option<f64>,
    /// Longest sequence in tokens; longer ones lose their end [default: 512].
    #[arg(long)]
    pub max_length: Option<usize>,
    /// Learn prompts and user messages too, not only completions.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub train_on_prompt: Option<bool>,
    /// Put several examples into each row of max-length tokens; none of them sees another. A batch is then so many rows.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub packing: Option<bool>,
    /// Put examples of similar length into a batch, for less padding.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub group_by_length: Option<bool>,
    /// Leave the data on disk and encode them when they are needed: for JSONL files larger than memory.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub streaming: Option<bool>,
    /// Evaluate every so many steps, besides the end.
    #[arg(long, value_name = "N")]
    pub eval_steps: Option<usize>,
    /// Prompts of the evaluation data to continue before and after training, for the report [default: 4; 0 without --eval].
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Write a checkpoint every so many steps, to continue from with --resume.
    #[arg(long, value_name = "N")]
    pub save_steps: Option<usize>,
    /// Keep the newest N checkpoints, also when the run is over [default: the newest one, until the run is over].
    #[arg(long, value_name = "N")]
    pub save_total_limit: Option<usize>,
    /// End with the parameters of the best evaluation instead of the last ones (see --eval-steps).
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub load_best_model_at_end: Option<bool>,
    /// What makes an evaluation the best: loss, or a metric such as accuracy [default: loss].
    #[arg(long, value_name = "NAME")]
    pub metric_for_best_model: Option<String>,
    /// End after N evaluations in a row that were no better than the best.
    #[arg(long, value_name = "N")]
    pub early_stopping_patience: Option<usize>,
    /// Compute each block a second time in the backward pass instead of keeping what it computed: less memory, a third more time.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub gradient_checkpointing: Option<bool>,
    /// Where to compute: cpu, vulkan[:n] or cuda[:n] [default: cpu].
    #[arg(long)]
    pub device: Option<String>,
    /// Several devices, each with batches of its own: cuda:0,cuda:1 [default: the one that --device names].
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "device")]
    pub devices: Option<Vec<String>>,
    /// Type of the frozen weights in memory [default: f32].
    #[arg(long, value_enum)]
    pub dtype: Option<Precision>,
    /// Determines every random number [default: 0].
    #[arg(long)]
    pub seed: Option<u64>,
}

fn names(text: &str) -> Result<Names, String> {
    match text.contains([',']) || text.chars().all(|c| c.is_alphanumeric() || "_.".contains(c)) {
        true => Ok(Names::list(text.split(',').map(str::trim).filter(|name| !name.is_empty()))),
        false => Ok(Names::Pattern(text.into())),
    }
}

fn layers(text: &str) -> Result<Layers, String> {
    let numbers = text.split(',').map(|n| n.trim().parse().map_err(|_| format!("`{n}` is not a layer number")));
    Ok(Layers::Several(numbers.collect::<Result<_, _>>()?))
}

fn init(text: &str) -> Result<Init, String> {
    Ok(text.parse().map_or_else(|_| Init::Name(text.into()), Init::Flag))
}

impl Run {
    /// The settings of the run file `file`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] for what is no run file, and for numbers that are not finite.
    pub fn read(file: &Path) -> Result<Self> {
        let run: Self = read_yaml(file)?;
        match run.not_finite() {
            Some((name, value)) => Err(Error::file(file, format!("`{name}` is {value}; it must be a finite number"))),
            None => Ok(run),
        }
    }

    /// The first number that is not finite: what is written of it, as JSON, would be taken for a setting that is not set.
    pub fn not_finite(&self) -> Option<(String, f64)> {
        let single = [
            ("eval_split", self.eval_split),
            ("lora_alpha", self.lora_alpha),
            ("lora_dropout", self.lora_dropout),
            ("loraplus_lr_ratio", self.loraplus_lr_ratio),
            ("lr", self.lr),
            ("weight_decay", self.weight_decay),
            ("max_grad_norm", self.max_grad_norm),
        ];
        let single = single.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?)));
        let patterns = self.alpha_pattern.iter().map(|(pattern, alpha)| (format!("alpha_pattern.{pattern}"), *alpha));
        single.chain(patterns).find(|(_, value)| !value.is_finite())
    }

    /// These settings, completed by those of `other`.
    pub fn or(self, other: Self) -> Result<Self> {
        let failed = |e: serde_json::Error| Error::InvalidConfig(e.to_string());
        let mut merged = serde_json::to_value(other).map_err(failed)?;
        let flags = serde_json::to_value(self).map_err(failed)?;
        if let (Some(merged), serde_json::Value::Object(flags)) = (merged.as_object_mut(), flags) {
            let is_set = |value: &serde_json::Value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty());
            // A flag replaces the setting of the file that excludes it.
            for (flag, rival) in [
                ("epochs", "max_steps"),
                ("max_steps", "epochs"),
                ("eval", "eval_split"),
                ("eval_split", "eval"),
                ("device", "devices"),
                ("devices", "device"),
            ] {
                if flags.get(flag).is_some_and(is_set) {
                    merged.remove(rival);
                }
            }
            merged.extend(flags.into_iter().filter(|(_, value)| is_set(value)));
        }
        serde_json::from_value(merged).map_err(failed)
    }

    /// The settings that are set, as a run file.
    pub fn to_yaml(&self) -> Result<String> {
        serde_saphyr::to_string(&self.to_map()?).map_err(|e| Error::InvalidConfig(e.to_string()))
    }

    /// The settings that are set, by name.
    pub fn to_map(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        let value = serde_json::to_value(self).map_err(|e| Error::InvalidConfig(e.to_string()))?;
        let set = value.as_object().cloned().unwrap_or_default();
        let is_set = |value: &serde_json::Value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty());
        Ok(set.into_iter().filter(|(_, value)| is_set(value)).collect())
    }

    /// The same with every default that the run uses written out, for the model in `base`.
    pub fn effective(mut self, base: &Path) -> Self {
        let method = self.method();
        let encoder = peft_models::is_encoder(base);
        let targets = |of_decoder: &[&str], of_encoder: &[&str]| Names::list(if encoder { of_encoder } else { of_decoder }.iter().copied());
        let attention = || targets(&["q_proj", "v_proj"], &["query", "value"]);
        let defaults = TrainConfig::default();
        let fill = |value: &mut Option<usize>, default: usize| {
            value.get_or_insert(default);
        };
        self.method = Some(method);
        if self.max_steps.is_none() {
            fill(&mut self.epochs, defaults.epochs);
        }
        fill(&mut self.batch_size, defaults.batch_size);
        fill(&mut self.gradient_accumulation_steps, defaults.gradient_accumulation_steps);
        fill(&mut self.warmup_steps, 0);
        fill(&mut self.samples, if self.eval.is_some() && !encoder { 4 } else { 0 });
        fill(&mut self.max_length, 512);
        self.lr.get_or_insert(match method {
            MethodName::Ia3 | MethodName::Vera | MethodName::Bitfit => 5e-3,
            MethodName::Full => 2e-5,
            MethodName::Head => 1e-3,
            _ => 2e-4,
        });
        self.lr_scheduler.get_or_insert_default();
        self.weight_decay.get_or_insert(0.0);
        self.max_grad_norm.get_or_insert(1.0);
        self.train_on_prompt.get_or_insert(false);
        self.packing.get_or_insert(false);
        self.group_by_length.get_or_insert(false);
        self.streaming.get_or_insert(false);
        self.load_best_model_at_end.get_or_insert(false);
        self.metric_for_best_model.get_or_insert(defaults.metric_for_best_model);
        self.gradient_checkpointing.get_or_insert(false);
        if self.devices.is_none() {
            self.device.get_or_insert_with(|| "cpu".into());
        }
        self.dtype.get_or_insert_default();
        self.seed.get_or_insert(0);
        match method {
            MethodName::Lora | MethodName::Rslora | MethodName::Dora | MethodName::Pissa => {
                fill(&mut self.r, 8);
                self.lora_alpha.get_or_insert(16.0);
                self.lora_dropout.get_or_insert(0.0);
                self.bias.get_or_insert_default();
                self.target_modules.get_or_insert_with(attention);
            }
            MethodName::Vera => {
                fill(&mut self.r, 256);
                self.target_modules.get_or_insert_with(attention);
            }
            MethodName::Ia3 => {
                let scaled = || targets(&["k_proj", "v_proj", "down_proj"], &["key", "value", "output.dense"]);
                self.target_modules.get_or_insert_with(scaled);
            }
            MethodName::Bitfit | MethodName::Head | MethodName::Full => {}
        }
        self
    }

    /// The method.
    pub fn method(&self) -> MethodName {
        self.method.unwrap_or_default()
    }

    /// The path of a setting that has no default.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is not set.
    pub fn required<'a>(&self, name: &str, value: &'a Option<PathBuf>) -> Result<&'a Path> {
        value.as_deref().ok_or_else(|| Error::InvalidConfig(format!("--{name} is not given, nor is `{name}` in the run file")))
    }

    /// The adapter's configuration; none where the base is trained itself.
    pub fn peft_config(&self) -> Option<PeftConfig> {
        let method = self.method();
        let targets = Targets {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            ..Targets::default()
        };
        let modules_to_save = self.modules_to_save.clone();
        Some(match method {
            MethodName::Head | MethodName::Full => return None,
            MethodName::Bitfit => PeftConfig::BitFit(BitFitConfig { modules_to_save, ..BitFitConfig::default() }),
            MethodName::Ia3 => {
                PeftConfig::Ia3(Ia3Config { feedforward_modules: feedforward(&targets), targets, modules_to_save, ..Ia3Config::default() })
            }
            MethodName::Vera => PeftConfig::Vera(VeraConfig {
                r: self.r.unwrap_or(256),
                vera_dropout: self.lora_dropout.unwrap_or(0.0),
                projection_prng_key: self.seed.unwrap_or(0),
                targets,
                modules_to_save,
                ..VeraConfig::default()
            }),
            MethodName::Lora | MethodName::Rslora | MethodName::Dora | MethodName::Pissa => {
                let start = if method == MethodName::Pissa { Init::Name("pissa".into()) } else { Init::Flag(true) };
                PeftConfig::Lora(LoraConfig {
                    r: self.r.unwrap_or(8),
                    lora_alpha: self.lora_alpha.unwrap_or(16.0),
                    lora_dropout: self.lora_dropout.unwrap_or(0.0),
                    bias: match self.bias.unwrap_or_default() {
                        BiasName::None => Bias::None,
                        BiasName::LoraOnly => Bias::LoraOnly,
                        BiasName::All => Bias::All,
                    },
                    use_rslora: method == MethodName::Rslora,
                    use_dora: method == MethodName::Dora,
                    init_lora_weights: self.init_lora_weights.clone().unwrap_or(start),
                    rank_pattern: self.rank_pattern.clone(),
                    alpha_pattern: self.alpha_pattern.clone(),
                    modules_to_save,
                    targets,
                    ..LoraConfig::default()
                })
            }
        })
    }

    /// Where to compute, with autodiff.
    pub fn devices(&self) -> Result<Vec<Device>> {
        let single = [self.device.clone().unwrap_or_else(|| "cpu".into())];
        let names = self.devices.as_deref().filter(|names| !names.is_empty()).unwrap_or(&single);
        names.iter().map(|name| Ok(device::parse(name)?.autodiff())).collect()
    }

    /// The trainer's settings.
    pub fn train_config(&self) -> TrainConfig {
        let defaults = TrainConfig::default();
        TrainConfig {
            epochs: self.epochs.unwrap_or(defaults.epochs),
            max_steps: self.max_steps,
            batch_size: self.batch_size.unwrap_or(defaults.batch_size),
            gradient_accumulation_steps: self.gradient_accumulation_steps.unwrap_or(defaults.gradient_accumulation_steps),
            packing: self.packing.unwrap_or(false).then(|| self.max_length.unwrap_or(512)),
            group_by_length: self.group_by_length.unwrap_or(false),
            eval_steps: self.eval_steps,
            save_steps: self.save_steps,
            save_total_limit: self.save_total_limit,
            load_best_model_at_end: self.load_best_model_at_end.unwrap_or(false),
            metric_for_best_model: self.metric_for_best_model.clone().unwrap_or(defaults.metric_for_best_model),
            early_stopping_patience: self.early_stopping_patience,
            seed: self.seed.unwrap_or(defaults.seed),
            optimizer: OptimizerConfig {
                lr: self.lr.unwrap_or(defaults.optimizer.lr),
                lr_scheduler_type: match self.lr_scheduler.unwrap_or_default() {
                    SchedulerName::Linear => SchedulerType::Linear,
                    SchedulerName::Cosine => SchedulerType::Cosine,
                    SchedulerName::Constant => SchedulerType::Constant,
                },
                warmup_steps: self.warmup_steps.unwrap_or(0),
                weight_decay: self.weight_decay.unwrap_or(0.0),
                max_grad_norm: self.max_grad_norm.unwrap_or(1.0),
                loraplus_lr_ratio: self.loraplus_lr_ratio,
                ..defaults.optimizer
            },
        }
    }
}

/// What decoders and encoders call the second matrix of a feed-forward block.
const SECOND: [&str; 2] = ["down_proj", "output.dense"];

/// The second matrix of a feed-forward block, if it is among the targets.
fn feedforward(targets: &Targets) -> Option<Names> {
    match &targets.target_modules {
        Some(Names::List(list)) => {
            let is_second = |name: &&String| SECOND.iter().any(|second| name.ends_with(second));
            let down: Vec<String> = list.iter().filter(is_second).cloned().collect();
            (!down.is_empty()).then_some(Names::List(down))
        }
        Some(Names::Pattern(_)) => Some(Names::list(SECOND)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_run_file() {
        let file: Run = serde_saphyr::from_str("r: 4\nlr: 0.001\nepochs: 3\nrank_pattern:\n  q_proj: 2\n").unwrap();
        let flags = Run { r: Some(16), max_steps: Some(10), ..Run::default() };
        let run = flags.or(file).unwrap();
        assert_eq!((run.r, run.lr, run.epochs, run.max_steps), (Some(16), Some(0.001), None, Some(10)));
        assert_eq!(run.rank_pattern.get("q_proj", "rank_pattern").unwrap(), Some(&2));
    }

    #[test]
    fn a_run_file_is_read_back_as_it_was_written() {
        let run = Run { r: Some(4), target_modules: Some(Names::list(["q_proj"])), ..Run::default() }.effective(Path::new("none"));
        let again: Run = serde_saphyr::from_str(&run.to_yaml().unwrap()).unwrap();
        assert_eq!(format!("{run:?}"), format!("{again:?}"));
    }

    #[test]
    fn a_misspelt_setting_is_named() {
        let error = serde_saphyr::from_str::<Run>("lora_aplha: 4\n").unwrap_err().to_string();
        assert!(error.contains("lora_aplha"), "{error}");
    }

    #[test]
    fn one_word_is_a_name_and_special_characters_make_a_pattern() {
        assert_eq!(names("q_proj, v_proj").unwrap(), Names::list(["q_proj", "v_proj"]));
        assert_eq!(names("q_proj").unwrap(), Names::list(["q_proj"]));
        assert!(names("all-linear").unwrap().is_all_linear());
        assert_eq!(names(r".*\.(q|k)_proj").unwrap(), Names::Pattern(r".*\.(q|k)_proj".into()));
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_in_every_setting() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.yaml");
        let read = |text: String| {
            std::fs::write(&file, text).unwrap();
            Run::read(&file)
        };
        let keys = serde_json::to_value(Run::default()).unwrap();
        for key in keys.as_object().unwrap().keys() {
            for value in [".nan", ".inf", "-.inf", "1e999"] {
                match read(format!("{key}: {value}\n")) {
                    Err(error) => assert!(error.to_string().contains(&file.display().to_string()), "{error}"),
                    Ok(run) => {
                        let read = serde_json::to_value(&run).unwrap()[key].clone();
                        assert!(read.to_string().contains(value), "{key}: {value} has become {read}");
                    }
                }
            }
        }
        for (text, asked) in [
            ("target_modules: 5", "a list of names or one text is asked for here, in `target_modules: 5`"),
            ("layers_to_transform: -1", "or a list of such numbers, is asked for here, in `layers_to_transform: -1`"),
            ("init_lora_weights: 5", "true, false or the name of a start is asked for here, in `init_lora_weights: 5`"),
            ("r: -1", "a whole number from 0 on is asked for here, in `r: -1`"),
        ] {
            let error = read(format!("{text}\n")).unwrap_err().to_string();
            assert!(error.ends_with(asked), "{error}");
        }
        let error = read("lr: 1e999\n".into()).unwrap_err().to_string();
        assert!(error.contains("lr: 1e999"), "{error}");
        let error = read("lr: .inf\n".into()).unwrap_err().to_string();
        assert!(error.ends_with("run.yaml: `lr` is inf; it must be a finite number"), "{error}");
        let error = read("alpha_pattern: {q_proj: .nan}\n".into()).unwrap_err().to_string();
        assert!(error.ends_with("`alpha_pattern.q_proj` is NaN; it must be a finite number"), "{error}");
    }
}
