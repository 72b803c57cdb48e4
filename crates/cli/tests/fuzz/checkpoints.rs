//! Safetensors files and their index.

use crate::bounds::{MEMORY, bounded};
use crate::edits::{edited, edited_json, json_file, noise};
use crate::{cases, copy, fixture, json_of};
use burn::tensor::{DType, Device};
use peft_core::Result;
use peft_core::files::Checkpoint;
use peft_models::CausalLm;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

/// A file of these parts, whether they fit or not.
fn file(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    [(header.len() as u64).to_le_bytes().as_slice(), &header, data].concat()
}

fn header() -> Value {
    json!({
        "__metadata__": { "format": "pt" },
        "a": { "dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24] },
        "b": { "dtype": "BF16", "shape": [4], "data_offsets": [24, 32] },
        "c": { "dtype": "I64", "shape": [], "data_offsets": [32, 40] },
        "d": { "dtype": "F16", "shape": [1, 0, 5], "data_offsets": [40, 40] },
    })
}

/// Everything that can be read of a checkpoint.
fn read(path: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    let device = Device::flex();
    for key in checkpoint.keys() {
        checkpoint.bytes(key)?;
        let shape = checkpoint.info(key).map(|info| info.shape.clone()).unwrap_or_default();
        for dtype in [None, Some(DType::F32), Some(DType::BF16)] {
            // A tensor that is no float is refused, which is no reason to stop.
            match *shape.as_slice() {
                [] => drop(checkpoint.float(key, [1], dtype, &device)),
                [a] => drop(checkpoint.float(key, [a], dtype, &device)),
                [a, b] => drop(checkpoint.float(key, [a, b], dtype, &device)),
                [a, b, c] => drop(checkpoint.float(key, [a, b, c], dtype, &device)),
                _ => {}
            }
        }
        drop(checkpoint.f32s(key));
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn any_file_is_read_or_refused(bytes in prop_oneof![
        4 => edited_json(header()).prop_map(|header| file(&header, &[7; 40])),
        3 => edited(file(&header(), &[7; 40])),
        1 => noise(),
    ]) {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, bytes)?;
        let _ = bounded(MEMORY, move || read(&path))?;
    }

    #[test]
    fn any_index_is_read_or_refused(index in json_file(json_of(&fixture("models/llama-sharded/model.safetensors.index.json")))) {
        let dir = tempfile::tempdir()?;
        copy(&fixture("models/llama-sharded"), dir.path());
        std::fs::write(dir.path().join("model.safetensors.index.json"), index)?;
        let path = dir.path().to_path_buf();
        let _ = bounded(MEMORY, move || read(&path))?;
    }

    #[test]
    fn any_weights_make_a_model_or_are_refused(weights in edited(std::fs::read(fixture("models/llama/model.safetensors")).unwrap())) {
        let dir = tempfile::tempdir()?;
        copy(&fixture("models/llama"), dir.path());
        std::fs::write(dir.path().join("model.safetensors"), weights)?;
        let path = dir.path().to_path_buf();
        let _ = bounded(MEMORY, move || CausalLm::load(&path, &Device::flex(), None).map(drop))?;
    }
}

#[test]
fn a_shape_without_elements_has_sides_that_fit_the_address_space() {
    let header = json!({ "a": { "dtype": "F32", "shape": [0, u64::MAX, 3], "data_offsets": [0, 0] } });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, file(&header, &[])).unwrap();
    let error = bounded(MEMORY, move || read(&path)).unwrap().unwrap_err().to_string();
    assert!(error.contains("has no size in whole bytes that fits the address space"), "{error}");
}
