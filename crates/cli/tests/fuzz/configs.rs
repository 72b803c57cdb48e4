//! `config.json` of a decoder.

use crate::bounds::{MEMORY, bounded};
use crate::edits::json_file;
use crate::{cases, copy, fixture, json_of};
use burn::tensor::Device;
use peft_models::{CausalLm, DecoderConfig};
use proptest::prelude::*;
use proptest::sample::select;

const NAMES: [&str; 7] = ["llama", "llama3", "llama3-v4", "llama-linear", "mistral", "qwen2-window", "qwen3"];

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn any_configuration_is_read_or_refused((name, config) in select(NAMES.to_vec()).prop_flat_map(|name| {
        (Just(name), json_file(json_of(&fixture("models").join(name).join("config.json"))))
    })) {
        let text = String::from_utf8_lossy(&config).into_owned();
        let _ = bounded(MEMORY, move || DecoderConfig::parse(&text).map(|config| config.num_params()))?;
        // With its weights, which fit only if the change does not matter.
        let dir = tempfile::tempdir()?;
        copy(&fixture("models").join(name), dir.path());
        std::fs::write(dir.path().join("config.json"), config)?;
        let path = dir.path().to_path_buf();
        let _ = bounded(MEMORY, move || CausalLm::load(&path, &Device::flex(), None).map(drop))?;
    }
}
