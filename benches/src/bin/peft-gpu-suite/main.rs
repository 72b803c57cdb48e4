//! `peft-gpu-suite`: does a device compute what the CPU computes, and how fast.
//!
//! One JSON object goes to stdout, progress to stderr. Every job runs in a process of its own: a device that runs out of memory ends that
//! job alone, and the largest memory is that of the job.

mod attempt;
mod correctness;
mod generate;
mod memory;
mod merge;
mod process;
#[cfg(feature = "cube")]
mod products;
mod shape;
mod train;

use burn::tensor::Device;
use clap::{Parser, ValueEnum};
use peft_adapters::low_rank::{Init, LoraConfig};
use peft_core::{Names, Result, device};
use serde_json::{Value, json};
use shape::Shape;
use std::process::ExitCode;

/// Check a device against the CPU, then measure it with the shapes of Llama models and random bf16 weights.
///
/// Prints one JSON object. Ends with 1 if a check fails or a job cannot be done for another reason than memory.
#[derive(Parser)]
#[command(
    name = "peft-gpu-suite",
    after_help = "Examples:\n  peft-gpu-suite --device cuda > results.json\n  peft-gpu-suite --device cuda --only train --shape 3b\n  \
    peft-gpu-suite --device cpu --shape tiny"
)]
struct Suite {
    /// What to check and measure: cuda[:n], vulkan[:n] or cpu.
    #[arg(long, default_value = "cuda")]
    device: String,
    /// Do these parts alone; products only if they are named.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Correctness, Part::Train, Part::Generate, Part::Merge])]
    only: Vec<Part>,
    /// The shapes to measure [default: 1b,3b,8b; on the CPU tiny].
    #[arg(long, value_enum, value_delimiter = ',')]
    shape: Vec<Shape>,
    /// train: sequences in a batch.
    #[arg(long, default_value_t = 4, value_parser = positive(1))]
    batch: usize,
    /// train: tokens in a sequence.
    #[arg(long, default_value_t = 768, value_parser = positive(2))]
    seq: usize,
    /// train: rank of LoRA.
    #[arg(long, default_value_t = 32, value_parser = positive(1))]
    rank: usize,
    /// train: steps that are timed.
    #[arg(long, default_value_t = 10, value_parser = positive(1))]
    steps: usize,
    /// train: steps before those.
    #[arg(long, default_value_t = 3, value_parser = positive(1))]
    warmup: usize,
    /// generate: tokens of the prompt.
    #[arg(long, default_value_t = 128, value_parser = positive(1))]
    prompt: usize,
    /// generate: tokens to add.
    #[arg(long, default_value_t = 128, value_parser = positive(2))]
    new: usize,
    /// Do the one job here and print its result.
    #[arg(long, hide = true)]
    here: bool,
}

/// A number of at least `least`.
fn positive(least: usize) -> impl Fn(&str) -> std::result::Result<usize, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if number >= least => Ok(number),
        _ => Err(format!("a whole number of at least {least}")),
    }
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every operation and method computes what it computes on the CPU.
    Correctness,
    /// Training steps of LoRA.
    Train,
    /// Greedy text.
    Generate,
    /// Putting LoRA into the weights.
    Merge,
    /// Matrix products, by each kernel that CubeCL has for them.
    Products,
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }
}

fn main() -> ExitCode {
    let suite = Suite::parse();
    if suite.here {
        attempt::quietly();
        println!("{}", suite.job().unwrap_or_else(|error| json!({ "error": error })));
        return ExitCode::SUCCESS;
    }
    let (report, ok) = suite.report();
    println!("{report:#}");
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Suite {
    /// All results, and whether they are good.
    fn report(&self) -> (Value, bool) {
        let mut ok = true;
        let mut report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "device": self.device,
            "gpu": memory::gpu(&self.device),
            "features": features(),
        });
        for part in Part::value_variants().iter().copied().filter(|part| self.only.contains(part)) {
            if part == Part::Correctness {
                let result = process::job(self, part, None);
                ok &= result["failed"] == 0;
                report[part.name()] = result;
                continue;
            }
            let results: Vec<Value> = self.shapes().into_iter().map(|shape| process::job(self, part, Some(shape))).collect();
            ok &= results.iter().all(|result| result["error"].is_null() || result["out_of_memory"] == true);
            report[part.name()] = results.into();
        }
        report["ok"] = ok.into();
        (report, ok)
    }

    fn shapes(&self) -> Vec<Shape> {
        match (self.shape.is_empty(), self.device.as_str()) {
            (false, _) => self.shape.clone(),
            (true, "cpu") => vec![Shape::Tiny],
            (true, _) => vec![Shape::B1, Shape::B3, Shape::B8],
        }
    }

    /// The one job that this process is for.
    fn job(&self) -> std::result::Result<Value, String> {
        let (part, shape) = (self.only[0], self.shape.first().copied());
        let job = || match (part, shape) {
            (Part::Correctness, _) => correctness::run(&self.device()?, &self.device),
            (Part::Train, Some(shape)) => train::run(self, shape),
            (Part::Generate, Some(shape)) => generate::run(self, shape),
            (Part::Merge, Some(shape)) => merge::run(self, shape),
            #[cfg(feature = "cube")]
            (Part::Products, Some(shape)) => products::run(self, shape),
            #[cfg(not(feature = "cube"))]
            (Part::Products, Some(_)) => {
                Err(peft_core::Error::InvalidConfig("this build has no GPU backend; build with --features cuda or vulkan".into()))
            }
            (_, None) => Err(peft_core::Error::InvalidConfig("a measurement needs a shape".into())),
        };
        attempt::attempt(job)
    }

    fn device(&self) -> Result<Device> {
        device::parse(&self.device)
    }

    /// The adapter of all measurements.
    fn lora(&self, start: bool) -> LoraConfig {
        LoraConfig {
            r: self.rank,
            lora_alpha: 2.0 * self.rank as f64,
            init_lora_weights: Init::Flag(start),
            ..LoraConfig::for_modules(Names::list(["q_proj", "v_proj"]))
        }
    }
}

/// What this program was built with.
fn features() -> Vec<&'static str> {
    let named = [("nvrtc", cfg!(any(feature = "cuda-nvrtc", feature = "cuda-untuned"))), ("untuned", cfg!(feature = "cuda-untuned"))];
    device::compiled().into_iter().chain(named.into_iter().filter_map(|(name, on)| on.then_some(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Suite::command().debug_assert();
    }

    #[test]
    fn without_a_shape_a_gpu_gets_the_three_models() {
        let shapes = |args: &[&str]| Suite::parse_from([&["peft-gpu-suite"], args].concat()).shapes();
        assert_eq!(shapes(&[]), [Shape::B1, Shape::B3, Shape::B8]);
        assert_eq!(shapes(&["--device", "cpu"]), [Shape::Tiny]);
        assert_eq!(shapes(&["--shape", "3b"]), [Shape::B3]);
    }
}
