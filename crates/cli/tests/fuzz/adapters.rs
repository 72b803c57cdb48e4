//! Adapter directories: the configuration and the tensors.

use crate::bounds::{MEMORY, bounded};
use crate::edits::{edited, json_file};
use crate::{cases, copy, fixture, json_of};
use burn::tensor::{Device, Int, Tensor};
use peft_core::Result;
use peft_models::CausalLm;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const NAMES: [&str; 12] = [
    "lora",
    "lora-all",
    "lora-bias",
    "lora-embedding",
    "lora-layers",
    "lora-modules-to-save",
    "lora-rank-pattern",
    "dora",
    "pissa",
    "ia3",
    "vera",
    "vera-down",
];

fn base(adapter: &str) -> PathBuf {
    let name = std::fs::read_to_string(fixture("adapters").join(adapter).join("base.txt")).unwrap();
    fixture("models").join(name.trim())
}

/// Load an adapter into its base, and use it if that succeeds.
fn read(base: &Path, dir: &Path) -> Result<()> {
    let device = Device::flex();
    let model = CausalLm::load(base, &device, None)?;
    let (model, ..) = peft_adapters::load(model, dir, "default")?;
    model.logits(Tensor::<2, Int>::from_ints([[1, 2, 3]], &device)).into_data();
    Ok(())
}

/// Load the fixture `name` with one of its files replaced.
fn read_with(name: &str, file: &str, content: &[u8]) -> Result<Result<()>, TestCaseError> {
    let dir = tempfile::tempdir()?;
    copy(&fixture("adapters").join(name), dir.path());
    std::fs::write(dir.path().join(file), content)?;
    let base = base(name);
    bounded(MEMORY, move || read(&base, dir.path()))
}

fn config(name: &str) -> Value {
    json_of(&fixture("adapters").join(name).join("adapter_config.json"))
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn any_configuration_is_read_or_refused((name, config) in select(NAMES.to_vec()).prop_flat_map(|name| (Just(name), json_file(config(name))))) {
        let _ = read_with(name, "adapter_config.json", &config)?;
    }

    #[test]
    fn any_tensors_are_read_or_refused((name, tensors) in select(NAMES.to_vec()).prop_flat_map(|name| {
        let file = fixture("adapters").join(name).join("adapter_model.safetensors");
        (Just(name), edited(std::fs::read(file).unwrap()))
    })) {
        let _ = read_with(name, "adapter_model.safetensors", &tensors)?;
    }
}

#[test]
fn a_rank_that_the_tensors_do_not_have_is_refused_before_memory_is_taken_for_it() {
    for (name, key) in [("lora", "r"), ("vera", "r"), ("dora", "r"), ("pissa", "r")] {
        for rank in [1u64 << 31, 1 << 53, u64::MAX] {
            let mut config = config(name);
            config[key] = json!(rank);
            let error = read_with(name, "adapter_config.json", config.to_string().as_bytes()).unwrap().unwrap_err().to_string();
            assert!(error.contains("rank"), "{name}: {error}");
        }
    }
    let mut patterned = config("lora-rank-pattern");
    patterned["rank_pattern"] = json!({ "q_proj": u64::MAX });
    let error = read_with("lora-rank-pattern", "adapter_config.json", patterned.to_string().as_bytes()).unwrap().unwrap_err();
    assert!(error.to_string().contains("rank"), "{error}");
}
